"""A server that nobody here wrote: `transformers serve` with a tiny random chat model.

Its nonsense takes the way of every refused answer: kept, named, asked for again.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch
from conftest import free_port
from transformers import MistralConfig, MistralForCausalLM

from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.synthesis import asking, generate, plan

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
PATIENCE_S = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A chat model of random weights in a folder."""
    folder = tmp_path_factory.mktemp("served") / "chat"
    tokenizer = models.tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, max_position_embeddings=4096, sliding_window=None,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    port = free_port()
    log = tmp_path_factory.mktemp("log") / "serve.log"
    program = Path(sys.executable).parent / "transformers"
    command = [str(program), "serve", str(model), "--host", "127.0.0.1",
               "--port", port, "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            try:
                if httpx.get(f"{address}/health", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.3)
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(20)


def test_nonsense_is_kept_named_and_asked_for_again(url, model, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = resolve(
        overrides={
            "families": ["health"], "llm_mode": "live", "llm_model": str(model),
            "llm_store": str(tmp_path / "s.sqlite"), "llm_max_tokens": 24,
            "llm_reasks": 1, "llm_in_flight": 2, "llm_structured": "none",
            "llm_retries": 1,
        }
    )  # fmt: skip
    planned = list(plan.brainstorm_requests("health"))[:2]
    client = generate.open_client(settings)
    accepted, rejections = asking.fulfil(planned, settings, client)
    assert accepted == [] and len(rejections) == 2
    assert {r.reason for r in rejections} <= {"not_json", "cut_off"}
    assert client.requested == len(client.store) == 4
    answer = client.find(planned[0].chat(settings))
    assert answer.text and answer.usage["completion_tokens"] > 0
    again = generate.open_client(settings)
    assert asking.fulfil(planned, settings, again) == (accepted, rejections)
    assert again.requested == 0
