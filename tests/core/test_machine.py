"""What a run needs is compared with what the machine has, before anything starts."""

import shutil
from pathlib import Path

import pytest

from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.settings import DATA, resolve
from nbutils.pages import start
from nbutils.pages.execute import run_all


def test_what_is_missing_is_refused_before_anything_starts(monkeypatch, tmp_path):
    with pytest.raises(LabError, match=r"only \d+\.\d GB .* min_memory_gb is 90000"):
        machine.check_machine(resolve("smoke", {"min_memory_gb": 90000.0}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LabError, match="which needs a CUDA GPU"):
        machine.check_machine(resolve("smoke", {"device": "cuda"}))
    published = shutil.copytree(DATA / "published", tmp_path / "published")
    monkeypatch.setattr(machine, "DATA", tmp_path)
    machine.check_machine(resolve("smoke"))
    (published / "syneg_main.csv").write_text("a,b\n")
    with pytest.raises(LabError, match=r"syneg_main\.csv is truncated or changed"):
        machine.check_machine(resolve("smoke"))


def test_live_mode_needs_a_key_or_a_server(monkeypatch, tmp_path):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    live, out = {"llm_mode": "live"}, str(tmp_path / "out")
    with pytest.raises(LabError, match="OPENAI_API_KEY and OPENAI_BASE_URL"):
        start("probe", "smoke", live, out)
    with pytest.raises(LabError, match="export the key"):
        run_all(["06"], out, "smoke", live)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    machine.check_machine(resolve("smoke", live))


def test_only_settings_that_need_the_network_may_use_it(tmp_path):
    folder = {"teachers": ["bm25", "random", str(tmp_path)]}
    for settings in (resolve("smoke"), resolve("workshop"), resolve("smoke", folder)):
        assert machine.network_needs(settings) == []
        assert machine.environment(settings)["HF_HUB_OFFLINE"] == "1"
    live = resolve("smoke", {"llm_mode": "live"})
    assert machine.network_needs(live) == ["a language model"]
    assert machine.environment(live)["HF_HUB_OFFLINE"] == "1"
    served = resolve("smoke", {"teachers": ["server:e5", "a/b"], "tasks": ["STS17"]})
    needs = ["an embeddings server of e5", "a/b", "mteb's STS17"]
    assert machine.network_needs(served) == needs
    assert "HF_HUB_OFFLINE" not in machine.environment(served)
    paper = machine.network_needs(resolve("paper"))
    assert "mistralai/Mistral-7B-Instruct-v0.2" in paper


def test_threads_wait_without_spinning_unless_the_user_wants_it(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert machine.environment(resolve())["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert machine.environment(resolve())["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_checkout_that_cannot_be_written_has_its_cache_elsewhere(
    monkeypatch, tmp_path
):
    monkeypatch.delenv("NBUTILS_CACHE", raising=False)
    project, locked = tmp_path / "project", {tmp_path / "project"}
    project.mkdir()
    monkeypatch.setattr(machine, "ROOT", project)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) not in locked)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name, value in (("XDG_CACHE_HOME", ""), ("HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(name, value)
    assert machine.cache_folder() == tmp_path / "home" / ".cache" / "nbutils"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert machine.cache_folder() == tmp_path / "users" / "nbutils"
    locked.add(tmp_path)  # of which the user's cache would be made
    assert machine.cache_folder() == tmp_path / "tmp" / "nbutils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # nobody's home
    assert machine.cache_folder() == tmp_path / "tmp" / "nbutils"
