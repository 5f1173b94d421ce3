"""One list of dependencies: pyproject, environment.yml and constraints.txt agree."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_map import modules

from nbutils.core.settings import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
DECLARED = {canonicalize_name(r.name): r.specifier for r in map(Requirement, LINES)}
PACKAGES = ("nbutils", "exercises", "workshop")
HOUSE = {*sys.stdlib_module_names, *PACKAGES}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins), (
        "a pin is name==version: no path, no host, no build suffix"
    )
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in pins)}


def test_conda_has_the_same_names_and_lower_bounds():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(line["pip"] for line in listed if isinstance(line, dict))
    lines = [line for line in [*listed, *pip] if isinstance(line, str)]
    found = dict(re.match(r"([\w.-]+)(.*)", x).groups() for x in lines if x[0] != "-")
    names = {canonicalize_name(name): bound for name, bound in found.items()}
    assert names.pop("python") == PROJECT["requires-python"] == ">=3.11"
    names["torch"] = names.pop("pytorch")
    names.pop("pip")
    assert names == {name: str(specifier) for name, specifier in DECLARED.items()}
    assert pip[-1] == "-e ."


def test_dependencies_are_bounded_below_only_and_pinned_with_what_they_need():
    pins = pinned()
    for name, specifier in DECLARED.items():
        assert [s.operator for s in specifier] == [">="], f"{name} has {specifier}"
        assert pins[name] in specifier, f"{name}=={pins[name]}"
    assert set(pins) >= {"tokenizers", "huggingface-hub", "datasets", "pydantic-core"}


def test_every_third_party_import_is_declared_or_comes_with_what_is():
    lines = (line for name in DECLARED for line in metadata.requires(name) or ())
    needs = (line for line in lines if "extra ==" not in line)
    there = {canonicalize_name(Requirement(line).name) for line in needs} | {*DECLARED}
    packages = metadata.packages_distributions()
    for path in [p for room in PACKAGES for p in (ROOT / room).rglob("*.py")]:
        found = {name.split(".")[0] for name in modules(path.read_text())} - HOUSE
        for module in found:
            names = {canonicalize_name(name) for name in packages[module]}
            assert names & there, f"{path.name} imports {module}"


def test_the_licence_and_the_readme_are_there():
    assert PROJECT["license"] == "MIT"
    for name in (*PROJECT["license-files"], PROJECT["readme"]):
        assert (ROOT / name).is_file()


# -- make and CI -----------------------------------------------------------------------


def dry_run(*goals: str) -> str:
    """What make would do."""
    command = ["make", "--dry-run", "--no-print-directory", *goals]
    # not what the make that runs the tests was called with
    env = {k: v for k, v in os.environ.items() if k != "ARGS" and "MAKE" not in k}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sudo" not in done.stdout and "--user" not in done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("goals", "does"),
    [
        ("run", "nbutils run --profile workshop"),
        ("run 03 04 PROFILE=smoke", "nbutils run --profile smoke 03 04"),
        ("run test", "nbutils run --profile workshop  \n"),  # two goals, no notebook
        ("test", "-m pytest -n logical"),
        ("e2e", "-m pytest tests/e2e"),
        ("lab ARGS=--no-browser", "/lab/tree/notebooks --no-browser"),
        ("lab90 02", "nbutils run --tag lab90 02"),
        ("notebooks 05", "nbutils run --write 05"),
        ("solutions", "-m nbutils solutions"),
        ("site", "-m workshop site"),
        ("slides", "-m workshop slides"),
        ("bundle", "-m workshop bundle"),
        ("install-from BUNDLE=x", 'workshop/install.py "x"'),
        ("check", "-m nbutils check"),
        ("clean", "find runs"),
    ],
)
def test_make_knows_the_target(goals, does):
    assert does in dry_run(*goals.split())


def test_make_installs_anew_when_the_pins_change():
    said = dry_run("--what-if=constraints.txt", "run")
    assert "some minutes" in said and ".venv/bin/python -m pip install" in said
    assert "-c constraints.txt" in said
    assert 0 < said.find("-m nbutils fetch") < said.find("-m nbutils run")


def test_ci_runs_what_a_newcomer_runs():
    path = ROOT / ".ci" / "run"
    script = path.read_text()
    targets = re.findall(r"^make (\w+)$", script, re.MULTILINE)
    assert targets == ["run", "test", "e2e", "site"] and "set -euo pipefail" in script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    # YAML 1.1 reads the key `on` as a boolean
    assert set(flow[True]) == {"push", "pull_request", "schedule"}
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in flow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] <= 90
        steps = "\n".join(step.get("run", "") for step in job["steps"])
        assert steps.strip() and set(re.findall(r"make (\w+)", steps)) <= known
