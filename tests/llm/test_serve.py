"""A server that nobody here wrote: `transformers serve` with a tiny random chat model.

Its nonsense takes the way of every refused answer: kept, named, asked for again.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import free_port

from nbutils.core.errors import LabError
from nbutils.encoder import models
from nbutils.synthesis.generate import fulfil, open_client
from nbutils.synthesis.prompts import brainstorm_requests

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
PATIENCE_S = 120


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with a model of random weights that takes chats."""
    folder = shutil.copytree(models.tiny_folder("tiny-mistral"), tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = folder / "config.json"
    text = config.read_text().replace("MistralModel", "MistralForCausalLM")
    config.write_text(text)
    return folder


@pytest.fixture
def url(model, tmp_path):
    address, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path / "serve.log"
    command = [Path(sys.executable).parent / "transformers", "serve", model,
               "--host", "127.0.0.1", "--port", port, "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    until, status = time.monotonic() + PATIENCE_S, 0
    try:
        while status != 200:
            alive = process.poll() is None and time.monotonic() < until
            assert alive, log.read_text()[-2000:]
            time.sleep(0.3)
            try:
                status = httpx.get(f"{address}/health", timeout=1).status_code
            except httpx.HTTPError:
                continue
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(20)


def test_nonsense_is_kept_named_and_asked_for_again(url, model, live, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = live(
        llm_model=str(model), llm_max_tokens=24, llm_reasks=1, llm_in_flight=2,
        llm_structured="none", llm_timeout_s=120.0,
    )  # fmt: skip
    planned = list(brainstorm_requests("health"))[:2]
    client = open_client(settings)
    accepted, rejections = fulfil(planned, client)
    assert accepted == [] and len(rejections) == 2
    assert {r.reason for r in rejections} <= {"not_json", "cut_off"}
    assert client.requested == len(client.store) == 4
    answer = client.find(planned[0].chat(settings))
    assert answer.text and answer.usage["completion_tokens"] > 0
    again = open_client(settings)
    assert fulfil(planned, again) == (accepted, rejections)
    assert again.requested == 0
    other = open_client(settings.changed(llm_model="other"))
    with pytest.raises(LabError, match="check llm_model"):
        other.complete(planned[0].chat(other.settings))
    assert other.attempts == 1
