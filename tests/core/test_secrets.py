"""A key planted in the environment turns up in no file, output or message of a run."""

import faults
import pytest

from nbutils.pages import execute


@pytest.mark.parametrize("status", [200, 401])
def test_a_live_notebook_shows_the_key_nowhere(
    status, server, tmp_path, monkeypatch, capfd
):
    address = server.url.replace("//", "//user:planted-too@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    if status == 401:
        bad = {"error": {"message": f"bad key: Bearer {faults.KEY}"}}
        server.says = lambda body: (401, bad)
    overrides = {
        "llm_mode": "live", "llm_model": "served", "families": ["health"],
        "llm_store": str(tmp_path / "runs" / "s.sqlite"), "llm_retries": 0,
    }  # fmt: skip
    said = []
    (outcome,) = execute.run_all(
        ["01"], str(tmp_path / "runs"), "smoke", overrides, say=said.append
    )
    assert server.seen and (outcome.state == "done") == (status == 200), outcome.error
    assert status == 200 or "OPENAI_API_KEY" in outcome.error
    written = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert written and (status == 401 or written["s.sqlite"])
    texts = {"said": f"{outcome.error}{said}{capfd.readouterr()}".encode(), **written}
    for name, text in texts.items():
        assert b"planted-too" not in text and faults.KEY.encode() not in text, name
