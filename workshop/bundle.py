"""One folder to install the lab from without a network; `install.py` reads it.

wheels/ of every package · lab/, the project as committed · models/ · site/
install.sh, install.py, INSTRUCTIONS.txt · bundle.json: what it is for, and its sums
"""

import email
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import typer
from packaging.specifiers import SpecifierSet

from nbutils.core.errors import LabError
from nbutils.core.files import atomic, sha256, write_json
from nbutils.core.machine import fetched
from nbutils.core.sections import SMOLLM2
from nbutils.core.settings import ROOT
from workshop import install, site

SHELL = """#!/bin/sh
# ./install.sh [FOLDER]: a copy of the lab, installed without a network
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" -I "$here/install.py" "$here" --copy \\
    --into "${1:-hard-negatives-lab}"
"""
TEXT = """Hard negatives lab, to install without a network.

To read: open site/index.html in a browser. Nothing is installed.

To run: you need Python {python}, from {python}.{patch} on; {system} on {machine}; make;
and {gb:.1f} GB of disk.

    ./install.sh FOLDER      copies the lab to FOLDER and installs it there, in .venv
    cd FOLDER
    make lab                 opens JupyterLab on the pages
    make run PROFILE=smoke   runs every page once, small

Where python3 is another version: PYTHON=python{python} ./install.sh FOLDER
In a clone that you have: make install-from BUNDLE=this-folder
"""
BYTECODE = 1.2
"""What is installed, as a share of what lies in the wheels: modules are compiled."""


def build(out: Path) -> None:
    """Write the bundle to OUT, whole or not at all; needs a network once.

    LabError where the disk is too small, the model is not fetched, git has no commit of
    the project, or pip cannot get a package.
    """
    out, model = Path(ROOT, out), fetched(SMOLLM2)
    out.parent.mkdir(parents=True, exist_ok=True)
    packages = Path(sysconfig.get_path("purelib"))  # larger than the wheels of it
    need = sum(map(size, (packages, model, ROOT / "data")))
    install.demand_disk(out.parent, need, "the bundle", LabError)
    with atomic(out) as made:
        made.mkdir()
        typer.echo(f"{len(site.build(made / 'site'))} pages to read")
        project(made / "lab")
        shutil.copytree(model, made / "models" / model.name)
        typer.echo("wheels of every package: some minutes, in which pip says little")
        wheels(made / "wheels")
        shutil.copyfile(install.__file__, made / "install.py")
        (made / "install.sh").write_text(SHELL)
        (made / "install.sh").chmod(0o755)
        about = finish(made)
    gigabytes, count = size(out) / 1e9, len(about["sha256"])
    typer.echo(f"{out}: {gigabytes:.2f} GB in {count} files; see INSTRUCTIONS.txt")


def finish(made: Path) -> dict:
    """Write the instructions and the manifest of a folder; returns the manifest."""
    unpacked = size(made / "models") + size(made / "lab")
    pythons = SpecifierSet()
    for wheel in (made / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            parts = archive.infolist()
            name = next(p for p in parts if p.filename.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(name))
        unpacked += BYTECODE * sum(part.file_size for part in parts)
        pythons &= SpecifierSet(metadata.get("Requires-Python", ""))
    about = install.this_machine() | {"install_bytes": int(unpacked)}
    ours = range(sys.version_info.micro + 1)
    about["patch"] = next(n for n in ours if f"{about['python']}.{n}" in pythons)
    (made / "INSTRUCTIONS.txt").write_text(TEXT.format(**about, gb=unpacked / 1e9))
    files = sorted(path for path in made.rglob("*") if path.is_file())
    about["sha256"] = {str(path.relative_to(made)): sha256(path) for path in files}
    write_json(made / install.MANIFEST, about)
    return about


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def project(to: Path) -> None:
    """The project as its last commit has it, without anybody's runs and changes."""
    command = ["git", "archive", "--format=tar", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise LabError(
            "git has no commit of this folder: make the bundle in a clone of the lab"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(to, filter="data")


def wheels(to: Path) -> None:
    """Wheels of all that the lab needs, at the versions of constraints.txt.

    TORCH_INDEX in the environment names an index of CPU builds of PyTorch.
    """
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*about["project"]["dependencies"], *about["build-system"]["requires"]]
    needed += about["project"]["optional-dependencies"]["dev"]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "-w", str(to)]
    if index := os.environ.get("TORCH_INDEX"):
        command += ["--extra-index-url", index]
    command += ["-c", str(ROOT / "constraints.txt"), *needed]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise LabError(f"pip cannot get every package: {(errors or ['no reason'])[-1]}")
