"""One list of dependencies: pyproject, environment.yml and constraints.txt agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nbutils.core.settings import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch"}


def declared() -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def conda() -> tuple[dict[str, str], list[str]]:
    """(name to version range of every requirement, lines of the pip section)."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(line["pip"] for line in listed if isinstance(line, dict))
    lines = [line for line in [*listed, *pip] if isinstance(line, str)]
    found = [
        re.fullmatch(r"([\w.-]+?)((?:[<>=!~].*)?)", x) for x in lines if x[0] != "-"
    ]
    names = {canonicalize_name(CONDA_NAMES.get(m[1], m[1])): m[2] for m in found}
    return names, pip


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins), (
        "a pin is name==version: no path, no host, no build suffix"
    )
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in pins)}


def test_conda_has_the_same_names_and_lower_bounds():
    names, pip = conda()
    assert names.pop("python") == PROJECT["requires-python"]
    names.pop("pip")
    assert names == {name: str(r.specifier) for name, r in declared().items()}
    assert pip[-1] == "-e ."


def test_every_dependency_is_bounded_below_only():
    for name, requirement in declared().items():
        operators = [s.operator for s in requirement.specifier]
        assert operators == [">="], f"{name} has {requirement.specifier}"


def test_constraints_pin_every_dependency_within_its_range():
    pins = pinned()
    for name, requirement in declared().items():
        assert name in pins, f"{name} is not pinned"
        assert pins[name] in requirement.specifier, f"{name}=={pins[name]}"


def test_constraints_pin_what_the_dependencies_need_too():
    pins = pinned()
    for name in ("tokenizers", "huggingface-hub", "datasets", "pydantic-core", "pyzmq"):
        assert name in pins


def test_python_and_licence_are_declared():
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["license"] == "MIT"
    for name in (*PROJECT["license-files"], PROJECT["readme"]):
        assert (ROOT / name).is_file()


def test_every_third_party_import_is_declared():
    names = {
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "PIL": "matplotlib",  # matplotlib requires pillow
        "IPython": "ipykernel",
        "jupyter_client": "ipykernel",
        "zmq": "ipykernel",
        "nbclient": "papermill",
        "traitlets": "ipykernel",
        "jinja2": "nbconvert",
        "huggingface_hub": "transformers",
        "tokenizers": "transformers",
        "safetensors": "transformers",
        "datasets": "mteb",
        "pytrec_eval": "mteb",
        "threadpoolctl": "scikit-learn",
        "faiss": "faiss-cpu",
    }
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    known = {*sys.stdlib_module_names, "nbutils"}
    for path in (ROOT / "nbutils").rglob("*.py"):
        for module in set(pattern.findall(_code(path))) - known:
            name = canonicalize_name(names.get(module, module))
            assert name in declared(), f"{path.name} imports {module}"


def _code(path) -> str:
    """A module's import statements, without its strings."""
    nodes = ast.walk(ast.parse(path.read_text()))
    imports = (n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))
    return "\n".join(ast.unparse(node) for node in imports)


def test_the_two_commands_exist_and_ci_runs_them():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["run", "test"]
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "target", ["run", "test", "lab", "notebooks", "check", "clean"]
)
def test_make_knows_the_target(target):
    command = ["make", "--dry-run", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sudo" not in done.stdout and "--user" not in done.stdout


def test_make_installs_anew_when_the_pins_change():
    command = ["make", "--dry-run", "--what-if=constraints.txt", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/python -m pip install" in done.stdout
    assert "-c constraints.txt" in done.stdout
    assert 0 < done.stdout.find("-m nbutils fetch") < done.stdout.find("-m nbutils run")
