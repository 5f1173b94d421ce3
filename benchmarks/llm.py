"""What the chat client costs: replaying all recordings, and its part of a live call."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import openai

from benchmarks.harness import Row, measured, row, timed_row
from nbutils.core.settings import Settings, resolve
from nbutils.llm.client import Client
from nbutils.llm.store import ChatRequest, chat_request
from nbutils.synthesis import generate

HTTP = import_module(openai.DefaultHttpxClient.__mro__[-2].__module__.split(".")[0])
"""The HTTP library that the SDK is built on; it has changed with the SDK's versions."""
SERVER = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": "http://bench/v1"}
MESSAGE = {"role": "assistant", "content": '{"verdict": "yes"}'}
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 0, "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}  # fmt: skip


def server():
    """A transport that gives a whole answer at once: no network, no wait."""
    return HTTP.MockTransport(lambda request: HTTP.Response(200, json=ANSWER))


def through_client(settings: Settings, requests: list[ChatRequest]) -> None:
    """Ask everything through the client, into a new store."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings.changed(llm_store=str(Path(folder, "s.sqlite")))
        client = Client(chosen, transport=server())
        client.complete_many(requests)
        client.close()


def through_sdk(settings: Settings, requests: list[ChatRequest]) -> None:
    """Ask the same through the SDK alone, as many at once; keep nothing."""
    sdk = openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=server()))

    def ask(request: ChatRequest) -> None:
        named = {"model": request.model, "messages": list(request.messages)}
        sdk.chat.completions.create(**named, **request.decoding)

    with ThreadPoolExecutor(settings.llm.in_flight) as pool:
        list(pool.map(ask, requests))
    sdk.close()


def overhead_row(count: int = 640, rounds: int = 5) -> Row:
    """Milliseconds a request that the client takes beyond the bare SDK."""
    chosen = {"llm_mode": "live", "llm_model": "m", "llm_in_flight": 64}
    settings = resolve(overrides=chosen)
    texts = [f"Question {n}. " * 40 for n in range(count)]
    requests = [chat_request("bench", text, "", settings) for text in texts]
    ways = (partial(way, settings, requests) for way in (through_client, through_sdk))
    with patch.dict(os.environ, SERVER):
        both = timed_row("", *ways, rounds)
    overhead = 1000 * (both["value"] - both["peer"]) / count
    return row("client_overhead_ms", overhead, "ms a request")


def rows(out: str) -> list[Row]:
    """The suite `llm`; `replay_seconds` is to read and parse every recorded answer."""
    replay = measured(lambda: generate.load(resolve())).seconds
    return [row("replay_seconds", replay, "s"), overhead_row()]
