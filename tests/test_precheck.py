"""The check before anything is installed: only the standard library, remedies named."""

import collections
import subprocess
import sys

import pytest

import precheck
from nbutils.core.settings import ROOT

Usage = collections.namedtuple("Usage", "total used free")


def test_it_needs_the_standard_library_alone():
    command = [sys.executable, "-I", "-S", str(ROOT / "precheck.py")]  # -S: no packages
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count("\n[") >= len(precheck.CHECKS) - 1, done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("patched", "value", "check", "told"),
    [
        ("sys.version_info", (3, 9), "python", "make PYTHON=python3.11"),
        ("shutil.disk_usage", lambda _: Usage(0, 0, 1e9), "disk", "6 GB are needed"),
        ("shutil.which", lambda _: None, "make", "make, git missing"),
        ("os.sysconf", lambda _: 1024, "memory", "profile smoke"),
    ],
)
def test_what_is_lacking_is_named_with_its_remedy(
    patched, value, check, told, monkeypatch, capsys
):
    monkeypatch.setattr(f"precheck.{patched}", value)
    monkeypatch.setattr(precheck, "CHECKS", (getattr(precheck, check),))
    assert precheck.main() == 1
    out = capsys.readouterr().out
    assert f"[FAIL] {check}:" in out and told in out and "1 to mend first" in out
