"""A key planted in the environment turns up in no file, output or message of a run."""

import re
from pathlib import Path

import faults
import pytest

from nbutils.pages import execute

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
def server(monkeypatch):
    made = faults.FaultServer(rate=0.0)
    address = re.sub("//", "//user:planted-too@", made.url)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield made
    made.shutdown()
    made.server_close()


def everything(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, "there is something to search"
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize("status", [200, 401])
def test_a_live_notebook_shows_the_key_nowhere(
    status, server, tmp_path, monkeypatch, capfd
):
    def echo(self, fault, body):
        said = f'{{"error": {{"message": "bad key: {self.headers["Authorization"]}"}}}}'
        return 401, "application/json", said.encode()

    if status == 401:
        monkeypatch.setattr(faults._Handler, "_reply", echo)
    overrides = {
        "llm_mode": "live", "llm_model": "served", "families": ["health"],
        "llm_store": str(tmp_path / "runs" / "s.sqlite"), "llm_retries": 0,
    }  # fmt: skip
    said = []
    (outcome,) = execute.run_all(
        ["01"], str(tmp_path / "runs"), "smoke", overrides, say=said.append
    )
    assert sum(server.attempts.values()) > 0
    if status == 401:
        assert outcome.state == "failed" and "OPENAI_API_KEY" in outcome.error
    else:
        assert outcome.state == "done", outcome.error
        assert (tmp_path / "runs" / "s.sqlite").stat().st_size > 0
    texts = f"{outcome.error}{said}{capfd.readouterr()}".encode()
    for secret in (b"planted-too", KEY.encode()):
        assert secret not in texts
        assert secret not in everything(tmp_path)
