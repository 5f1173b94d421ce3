"""`nbutils check` says one line a subject, and counts the faults."""

import shutil

import pytest

from nbutils import checks
from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT


def test_everything_but_the_pages_is_whole():
    for subject, check in checks.CHECKS.items():
        if not subject.startswith("notebook"):
            assert check(), subject


def test_a_changed_file_is_a_fault_and_the_other_checks_go_on(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data" / "prices", tmp_path / "data" / "prices")
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks, "DATA", tmp_path / "data")
    wanted = ("data", "settings", "output folder")
    some = {name: checks.CHECKS[name] for name in wanted}
    monkeypatch.setattr(checks, "CHECKS", some)
    said: list[str] = []
    assert checks.check_all(said.append) == 0
    assert said[0] == "✓ data: data/prices"
    (tmp_path / "data" / "prices" / "prices.csv").write_text("")
    assert checks.check_all(said.append) == 1
    assert said[3].startswith("✗ data:") and "git checkout" in said[3]
    assert said[4].startswith("✓ settings:") and said[5] == "✓ output folder: runs"
    (tmp_path / "data" / "prices" / "SHA256SUMS").unlink()
    with pytest.raises(LabError, match="holds no SHA256SUMS"):
        checks.data()


def test_a_page_with_an_exercise_done_is_named_and_no_fault(monkeypatch):
    monkeypatch.setattr(checks, "yours", lambda path: "changed by you")
    check = checks.CHECKS["notebook 06_evaluation"]
    monkeypatch.setattr(checks, "CHECKS", {"notebook 06_evaluation": check})
    said: list[str] = []
    assert checks.check_all(said.append) == 0
    assert said == ["✓ notebook 06_evaluation: changed by you"]
