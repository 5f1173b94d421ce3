"""Install the lab from a bundle's folder, without a network.

`make install-from BUNDLE=folder` in a clone, `./install.sh` in the bundle. Only the
standard library is used, because nothing is installed yet; an older Python can say so.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

MANIFEST = "bundle.json"


class Fault(Exception):
    """What was wrong and what to do, in one line."""


def this_machine():
    """What a bundle is made for: system, processor, Python's minor version."""
    kind = {"system": platform.system(), "machine": platform.machine()}
    return {**kind, "python": ".".join(platform.python_version_tuple()[:2])}


def demand_disk(folder, need, what, fault=Fault):
    """Raise `fault` where fewer than `need` bytes are free in the folder."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise fault(
            f"{what} needs {need / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are "
            "free: make room, or name another folder"
        )


def check(bundle):
    """The manifest of a bundle that is for this machine, with every file whole."""
    try:
        about = json.loads((bundle / MANIFEST).read_text())
    except (OSError, ValueError):
        raise Fault(
            f"{bundle} is no bundle, or not whole: it has no {MANIFEST} that can be "
            "read; name the folder that 'make bundle' wrote"
        ) from None
    for part, ours in this_machine().items():
        if about[part] != ours:
            remedy = "make one on such a machine with 'make bundle'"
            if part == "python":
                remedy = f"run it with Python {about[part]}: PYTHON=python{about[part]}"
            raise Fault(
                f"{bundle} is for {part} {about[part]} and this is {ours}: {remedy}"
            )
    if sys.version_info[2] < about["patch"]:
        raise Fault(
            f"{bundle} needs Python {about['python']}.{about['patch']} or newer and "
            f"this is {platform.python_version()}: PYTHON=another python"
        )
    for name, wanted in about["sha256"].items():
        path = bundle / name
        if not path.is_file() or sha256(path) != wanted:
            state = "damaged" if path.is_file() else "missing"
            raise Fault(f"{path} is {state}: copy the bundle anew")
    return about


def sha256(path):
    """A file's digest."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install(bundle, into, copy):
    """Make .venv and the models in the folder `into`, with the lab itself if `copy`."""
    about = check(bundle)
    if copy and into.exists() and any(into.iterdir()):
        raise Fault(f"{into} is not empty: name a new folder")
    if not copy and not (into / "pyproject.toml").is_file():
        raise Fault(f"{into} is not the lab: go to its folder, or add --copy")
    into.mkdir(parents=True, exist_ok=True)
    demand_disk(into, about["install_bytes"], "the lab")
    if copy:
        shutil.copytree(bundle / "lab", into, dirs_exist_ok=True)
    print("installing into .venv: one to three minutes", flush=True)
    bin_folder = into / ".venv" / "bin"
    run([sys.executable, "-m", "venv", into / ".venv"], into)
    run(
        [bin_folder / "python", "-m", "pip", "install", "-q", "--no-index",
         "--find-links", bundle / "wheels", "-e", ".[dev]"],
        into,
    )  # fmt: skip
    shutil.copytree(bundle / "models", into / ".cache/models", dirs_exist_ok=True)
    for stamp in (into / ".venv/.installed", into / ".cache/.fetched"):
        stamp.touch()  # the Makefile's: nothing is left to install or fetch


def run(command, folder):
    """Run a command, pip without its settings here; Fault with its first error."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1")
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        told = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise Fault(f"{command[2]} cannot finish: {told}")


def main(words=None):
    """Install; 1 and one line where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--into", type=Path, default=Path())
    parser.add_argument("--copy", action="store_true", help="a new copy of the lab")
    asked, began = parser.parse_args(words), time.monotonic()
    into = asked.into.resolve()
    try:
        install(asked.bundle.resolve(), into, asked.copy)
    except (Fault, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    took = time.monotonic() - began
    print(f"installed in {took:.0f} s: in {into}, 'make lab' or 'make run'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
