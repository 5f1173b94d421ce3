"""A key planted in the environment turns up in no file, output or message of a run."""

import faults
import nbformat
from conftest import probe

from nbutils.pages import execute

ASKS = """
from nbutils import synthesis
pages.describe_machine()
client = synthesis.open_client(run.settings)
request = list(synthesis.brainstorm_requests("health"))[{}]
print(client.complete(request.chat(run.settings)).text)
"""


def test_a_live_run_shows_the_key_nowhere(server, tmp_path, monkeypatch, capfd):
    """Neither do a page that is answered nor one whose key is refused, and quoted."""
    address = server.url.replace("//", "//user:planted-too@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    bad = {"error": {"message": f"bad key: Bearer {faults.KEY}"}}
    server.says = lambda body: (401, bad) if len(server.seen) > 1 else None
    paths, out = [], tmp_path / "runs"
    for number, name in enumerate(("answered", "refused")):
        page = probe(ASKS.format(number))
        page.cells[3].source = page.cells[3].source.replace("probe", name)
        paths.append(str(tmp_path / f"{name}.ipynb"))
        nbformat.write(page, paths[-1])
    overrides = {
        "llm_mode": "live", "llm_model": "served", "families": ["health"],
        "llm_store": str(out / "s.sqlite"), "llm_retries": 0,
    }  # fmt: skip
    said = []
    outcomes = execute.run_all(paths, str(out), "smoke", overrides, say=said.append)
    errors = [outcome.error for outcome in outcomes]
    assert [o.state for o in outcomes] == ["done", "failed"], errors
    assert len(server.seen) == 2 and "OPENAI_API_KEY" in errors[1]
    written = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    assert written.keys() > {
        "answered.ipynb", "answered.html", "metrics.json", "refused.failed.ipynb",
        "index.html", "s.sqlite",
    }  # fmt: skip
    texts = {"said": f"{errors}{said}{capfd.readouterr()}".encode(), **written}
    for name, text in texts.items():
        assert b"planted-too" not in text and faults.KEY.encode() not in text, name
