"""One list of dependencies: pyproject, environment.yml and constraints.txt agree."""

from __future__ import annotations

import ast
import os
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
ROOMS = ("nbutils", "exercises", "workshop")


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
        "pygments": "nbconvert",
        "PIL": "matplotlib",  # matplotlib requires pillow
        "IPython": "ipykernel",
        "jupyter_client": "ipykernel",
        "zmq": "ipykernel",
        "filelock": "torch",
        "traitlets": "ipykernel",
        "jinja2": "nbconvert",
        "huggingface_hub": "transformers",
        "tokenizers": "transformers",
        "safetensors": "transformers",
        "datasets": "mteb",
        "pytrec_eval": "mteb",
        "threadpoolctl": "scikit-learn",
        "faiss": "faiss-cpu",
        "packaging": "transformers",
    }
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    known = {*sys.stdlib_module_names, "nbutils", "exercises", "workshop"}
    for path in [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]:
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
    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == [
        "run", "test", "e2e", "site",
    ]  # fmt: skip
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def dry_run(*goals: str) -> str:
    """What make would do."""
    command = ["make", "--dry-run", "--no-print-directory", *goals]
    # not what the make that runs the tests was called with
    env = {k: v for k, v in os.environ.items() if k != "ARGS" and "MAKE" not in k}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "target",
    ["run", "test", "e2e", "lab", "lab90", "notebooks", "solutions", "check", "clean"],
)
def test_make_knows_the_target(target):
    said = dry_run(target)
    assert "sudo" not in said and "--user" not in said


@pytest.mark.parametrize("target", ["site", "slides", "bundle"])
def test_make_knows_what_a_workshop_needs(target):
    assert f"-m workshop {target}" in dry_run(target)


def test_make_takes_notebooks_by_number_and_options_for_lab():
    assert "nbutils run --profile smoke 03 04" in dry_run(
        "run", "03", "04", "PROFILE=smoke"
    )
    assert "nbutils run --write 05" in dry_run("notebooks", "05")
    assert "--tag lab90 02" in dry_run("lab90", "02")
    both = dry_run("run", "test")
    assert "nbutils run --profile workshop  \n" in both and "-m pytest" in both
    lab = dry_run("lab", "ARGS=--no-browser --allow-root")
    assert "/lab/tree/notebooks --no-browser --allow-root" in lab


def test_make_installs_anew_when_the_pins_change():
    said = dry_run("--what-if=constraints.txt", "run")
    assert "some minutes" in said and ".venv/bin/python -m pip install" in said
    assert "-c constraints.txt" in said
    assert 0 < said.find("-m nbutils fetch") < said.find("-m nbutils run")


def test_the_workflow_runs_what_a_newcomer_runs():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    triggers = flow[True]  # YAML 1.1 reads the key `on` as a boolean
    assert set(triggers) == {"push", "pull_request", "schedule"}
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in flow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] <= 90
        steps = [step.get("run", "") for step in job["steps"]]
        assert any("run" in step for step in steps)
        for target in re.findall(r"make (\w+)", "\n".join(steps)):
            assert target in known, target
    assert "make run" in (ROOT / ".ci" / "run").read_text()
