"""What the chat client costs: replaying all recordings, and its part of a live call."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from statistics import median

import openai

from benchmarks import harness
from nbutils.core.fields import Settings
from nbutils.core.settings import resolve
from nbutils.llm.client import ChatRequest, Client, chat_request
from nbutils.synthesis import generate

HTTP = import_module(openai.DefaultHttpxClient.__mro__[-2].__module__.split(".")[0])
"""The HTTP library that the SDK is built on; it has changed with the SDK's versions."""

IN_FLIGHT = 64
REQUESTS, ROUNDS = 640, 5


def replay_seconds() -> float:
    """Seconds to replay and parse every recorded answer, in this process."""
    began = time.perf_counter()
    generate.load(resolve())
    return time.perf_counter() - began


def _completion(request):
    """A whole answer at once: no network, no wait."""
    message = {"role": "assistant", "content": '{"verdict": "yes"}'}
    return HTTP.Response(
        200,
        json={
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        },
    )


def _requests(settings: Settings, count: int) -> list[ChatRequest]:
    return [
        chat_request(f"bench/{n}", f"Question {n}. " * 40, "", settings)
        for n in range(count)
    ]


def ours(settings: Settings, requests: list[ChatRequest], folder: Path) -> None:
    """Ask everything through the client, into a new store."""
    chosen = settings.changed(llm_store=str(folder / "s.sqlite"))
    transport = HTTP.MockTransport(_completion)
    client = Client(chosen, transport=transport)
    client.complete_many(requests)
    client.close()


def bare(settings: Settings, requests: list[ChatRequest]) -> None:
    """Ask the same through the SDK alone, as many at once; keep nothing."""
    http = openai.DefaultHttpxClient(transport=HTTP.MockTransport(_completion))
    sdk = openai.OpenAI(api_key="none", base_url="http://bench/v1", http_client=http)

    def ask(request: ChatRequest) -> str:
        response = sdk.chat.completions.create(
            model=request.model, messages=list(request.messages), **request.decoding
        )
        return json.dumps(response.choices[0].message.content)

    with ThreadPoolExecutor(settings.llm.in_flight) as pool:
        list(pool.map(ask, requests))
    sdk.close()


def overhead_ms(count: int = REQUESTS, rounds: int = ROUNDS) -> tuple[float, float]:
    """(ours, the bare SDK's) milliseconds a request: medians of alternating rounds."""
    settings = resolve(
        overrides={
            "llm_mode": "live",
            "llm_model": "m",
            "llm_in_flight": IN_FLIGHT,
        }
    )
    before = {k: os.environ.get(k) for k in ("OPENAI_API_KEY", "OPENAI_BASE_URL")}
    os.environ.update(OPENAI_API_KEY="none", OPENAI_BASE_URL="http://bench/v1")
    try:
        requests = _requests(settings, count)
        spent: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            with tempfile.TemporaryDirectory() as folder:
                first = _seconds(lambda f=folder: ours(settings, requests, Path(f)))
            second = _seconds(lambda: bare(settings, requests))
            if turn:
                spent[0].append(first)
                spent[1].append(second)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return tuple(1000 * median(values) / count for values in spent)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rows(**where: str) -> list[harness.Row]:
    """The suite `llm`: `replay_seconds`, `client_overhead_ms` and its two parts."""
    mine, theirs = overhead_ms()
    return [
        harness.row("replay_seconds", replay_seconds(), "s"),
        harness.row("client_overhead_ms", mine - theirs, "ms a request"),
        harness.row("client_ms", mine, "ms a request", theirs),
    ]
