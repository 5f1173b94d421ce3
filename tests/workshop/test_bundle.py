"""A bundle of a made-up wheel and model, installed without a network; its faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT
from workshop import bundle, install

PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "lab"
version = "1"
"""
BACKEND = """
import zipfile

ABOUT = "Metadata-Version: 2.1\\nName: lab\\nVersion: 1\\nRequires-Dist: tiny\\n" \\
    "Provides-Extra: dev\\n"


def build_editable(folder, *_):
    pack(folder + "/lab-1-py3-none-any.whl", "lab", ABOUT)
    return "lab-1-py3-none-any.whl"


def pack(path, name, about):
    tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(name + ".py", "here = True\\n")
        wheel.writestr(name + "-1.dist-info/METADATA", about)
        wheel.writestr(name + "-1.dist-info/WHEEL", tags)
        wheel.writestr(name + "-1.dist-info/RECORD", "")
"""


WHEEL = "wheels/tiny-1-py3-none-any.whl"


@pytest.fixture
def made(tmp_path):
    """A bundle as `build` writes it, of a project that needs one tiny package."""
    folder, names = tmp_path / "bundle", {}
    for part in ("lab", "models/Tiny", "wheels"):
        (folder / part).mkdir(parents=True)
    (folder / "lab/pyproject.toml").write_text(PROJECT)
    (folder / "lab/backend.py").write_text(BACKEND)
    (folder / "models/Tiny/weights").write_text("w")
    exec(BACKEND, names)
    about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1\nRequires-Python: >="
    about += ".".join(map(str, sys.version_info[:3]))
    names["pack"](folder / WHEEL, "tiny", about)
    bundle.finish(folder)
    return folder


def test_a_bundle_installs_a_copy_of_the_lab_without_an_index(made, tmp_path, capsys):
    into, about = tmp_path / "lab", json.loads((made / install.MANIFEST).read_text())
    assert about["patch"] == sys.version_info.micro, "what its wheels need"
    assert install.main([str(made), "--into", str(into), "--copy"]) == 0
    assert "installed in" in capsys.readouterr().out
    code = "import lab, tiny; print(tiny.here)"
    python = into / ".venv/bin/python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert (into / ".cache/models/Tiny/weights").read_text() == "w"
    for stamp in (".venv/.installed", ".cache/.fetched"):
        assert (into / stamp).is_file()  # make has nothing to install or fetch
    assert install.main([str(made), "--into", str(into)]) == 0, "again, in a clone"


def other(key: str, value: object):
    """Change the manifest of a bundle."""

    def change(folder: Path) -> None:
        about = json.loads((folder / install.MANIFEST).read_text())
        (folder / install.MANIFEST).write_text(json.dumps({**about, key: value}))

    return change


def text(path: str, written: str):
    """Write another text into a file of a bundle."""
    return lambda folder: (folder / path).write_text(written)


FAULTS = {
    "system": (other("system", "Plan9"), "is for system Plan9 and this is"),
    "processor": (other("machine", "vax"), "make one on such a machine"),
    "Python": (other("python", "3.99"), "PYTHON=python3.99"),
    "patch": (other("patch", 99), ".99 or newer and this is 3."),
    "disk": (other("install_bytes", 10**18), "needs 1000000000.0 GB in "),
    "damaged": (text("models/Tiny/weights", "v"), "weights is damaged: copy"),
    "lost": (lambda folder: (folder / WHEEL).unlink(), ".whl is missing: copy"),
    "no manifest": (text(install.MANIFEST, "{"), "is no bundle, or not whole"),
}


@pytest.mark.parametrize(("change", "told"), FAULTS.values(), ids=FAULTS)
def test_what_stops_an_installation_is_one_line(change, told, made, tmp_path, capsys):
    change(made)
    into = tmp_path / "lab"
    assert install.main([str(made), "--into", str(into), "--copy"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert not (into / ".venv").exists()


def test_a_folder_that_is_taken_or_no_lab_is_refused(made, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert install.main([str(made), "--into", str(tmp_path), "--copy"]) == 1
    assert install.main([str(made), "--into", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "is not empty: name a new folder" in errors and "is not the lab" in errors


def test_a_package_that_the_bundle_lacks_is_named(made, tmp_path, capsys):
    (made / WHEEL).unlink()
    (made / install.MANIFEST).unlink()
    bundle.finish(made)
    assert install.main([str(made), "--into", str(tmp_path / "lab"), "--copy"]) == 1
    error = capsys.readouterr().err
    assert "pip cannot finish" in error and "tiny" in error and error.count("\n") == 1


def test_the_installer_needs_the_standard_library_alone():
    command = [sys.executable, "-I", "-S", install.__file__, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "is no bundle" in done.stderr


def test_making_one_names_a_full_disk_a_missing_commit_and_a_package(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "fetched", lambda name: tmp_path)
        patch.setattr(bundle, "size", lambda folder: 10**18)
        with pytest.raises(LabError, match=r"the bundle needs .* GB in .* are free"):
            bundle.build(tmp_path / "out")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\n[project]\ndependencies = ["no-such-lab==1"]\n'
        "[project.optional-dependencies]\ndev = []\n"
    )
    (tmp_path / "constraints.txt").write_text("")
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(LabError, match="git has no commit"):
        bundle.project(tmp_path / "copy")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LabError, match=r"pip cannot get every package: .*no-such-lab"):
        bundle.wheels(tmp_path / "wheels")


def test_the_project_comes_as_it_is_committed(tmp_path):
    bundle.project(tmp_path / "lab")
    there = {path.name for path in (tmp_path / "lab").iterdir()}
    assert {"pyproject.toml", "Makefile", "notebooks", "data"} <= there
    assert not there & {".venv", "runs", ".cache", ".git"}
