"""A server on loopback that answers from the recordings and fails at a set rate."""

import contextlib
import json
import multiprocessing
import os
import random
import threading
import time
import warnings
from collections import Counter
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.sections import FAMILIES
from nbutils.core.settings import Settings, resolve
from nbutils.llm.client import Client
from nbutils.llm.store import ChatRequest, Store
from nbutils.synthesis.prompts import Planned, recorded

KEY = "sk-planted-0123456789"
FAULTS = ("503", "time-out", "dropped", "truncated", "thought")
"""Of an attempt; a draft before the answer, as a thought, is no fault."""
NO_TEXT = "no text"
"""An answer, and paid for, but of no use: the next run asks again."""
STREAM = "stream"
"""Not asked for, and no other request fares better: the run ends."""
LATE_S = 2.5
"""How long the server sleeps for a time-out; the client waits for less."""


of_family = cache(recorded)
"""The recorded requests of a family with their answers."""


@cache
def planned() -> dict[str, tuple[Planned, str]]:
    """Every recorded prompt with its request and answer."""
    pairs = (pair for family in FAMILIES for pair in of_family(family))
    return {request.text: (request, text) for request, text in pairs}


class FaultServer(ThreadingHTTPServer):
    """Notes every attempt: the body it was sent (`seen`), and by key what it was given.

    `banned` holds keys whose answers a client has stored: asking for one of them again
    is counted in `asked_twice`. Which fault an attempt meets follows from its key, its
    number and the seed alone; `streams` of them may be streams. A test may set `says`:
    what a request's body gets, (status, JSON or bytes), or None for the usual.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, rate: float = 0.0, streams: int = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rate, self.streams = rate, streams
        self.attempts, self.outcomes, self.delivered = Counter(), Counter(), Counter()
        self.asked_twice, self.banned, self.seen = [], set(), []
        self.lock = threading.Lock()
        self.says = lambda body: None
        self.answers = {prompt: text for prompt, (_, text) in planned().items()}
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def fault_of(self, key: str) -> str:
        """What happens to this attempt."""
        with self.lock:
            number = self.attempts[key]
            self.attempts[key] += 1
            if key in self.banned:
                self.asked_twice.append(key)
            draw = random.Random(f"{key} {number}")
            kinds = (*FAULTS, NO_TEXT, *[STREAM][: self.streams])
            fault = draw.choice(kinds) if draw.random() < self.rate else "answered"
            self.streams -= fault == STREAM
            self.outcomes[fault] += 1
        return fault

    def handle_error(self, request, client_address):
        """A client that was killed leaves broken pipes: nothing to print."""


def completion(body: dict, text: Any, reason: str = "stop", **message: Any) -> dict:
    """An answer to a chat request, as a server sends it."""
    message = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300}
    return {
        "id": "x", "object": "chat.completion", "created": 0,
        "model": body["model"], "choices": [choice], "usage": usage,
    }  # fmt: skip


def spoilt(fault: str, body: dict, text: str) -> tuple[int, Any]:
    """What an attempt that meets a fault gets: (status, JSON or bytes)."""
    value = completion(body, text)
    whole = json.dumps(value).encode()
    draft = text.replace('"', '"DRAFT ', 3)
    return {
        "503": (503, {"error": {"message": "busy"}}),
        "thought": (200, completion(body, f"<think>Or {draft}?</think>\n{text}")),
        "truncated": (200, whole[: len(whole) // 2]),
        NO_TEXT: (200, completion(body, None, reasoning_content="hm")),
        STREAM: (200, b"data: " + whole + b"\n\ndata: [DONE]\n\n"),
    }.get(fault, (200, value))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key, server = self.headers["Idempotency-Key"], self.server
        server.seen.append(body)
        if said := server.says(body):
            return self._send("", *said)
        fault = server.fault_of(key)
        self.close_connection = fault in ("dropped", "time-out", "truncated")
        if fault in ("dropped", "time-out"):
            time.sleep(LATE_S * (fault == "time-out"))
            return None
        text = server.answers[body["messages"][0]["content"]]
        self._send(fault, *spoilt(fault, body, text))
        with server.lock:
            server.delivered[key] += fault in ("answered", "thought")

    def _send(self, fault: str, status: int, said: Any) -> None:
        raw = isinstance(said, bytes)
        data = said if raw else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if raw else "application/json")
        self.send_header("Content-Length", len(data) * (1 + (fault == "truncated")))
        self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def settings_for(store: Path, **changes) -> Settings:
    """A patient client of many requests at once."""
    return resolve(
        overrides={
            "llm_mode": "live", "llm_model": "served", "llm_store": str(store),
            "llm_in_flight": 32, "llm_timeout_s": 1.5, "llm_retries": 12,
        } | changes
    )  # fmt: skip


def requests_of(count: int, settings: Settings) -> list[ChatRequest]:
    """`count` different requests of the recordings; beyond those, new samples."""
    found: dict[str, ChatRequest] = {}
    for sample, family in product(range(count), FAMILIES):
        if len(found) >= count:
            break
        for request, _ in of_family(family):
            chat = replace(request.chat(settings), sample=sample)
            found.setdefault(chat.key, chat)
    return list(found.values())[:count]


def texts_in(store: Store) -> dict[str, str]:
    """Key to text of every answer with one, in the order of the keys."""
    return dict(
        store.read("SELECT key, text FROM answers WHERE text != '' ORDER BY key")
    )


def ask(url: str, store: Path, count: int) -> None:
    """The client that is killed: asks for everything that its store lacks."""
    os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}
    warnings.simplefilter("ignore")
    settings = settings_for(store)
    client = Client(settings)
    with contextlib.suppress(LabError):
        client.complete_many(requests_of(count, settings))
    client.close()


def start(server: FaultServer, store: Path, count: int):
    """A process of `ask`, by a fork of one that has imported all it needs."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["nbutils.llm.sdk", "nbutils.synthesis.generate"])
    process = forks.Process(target=ask, args=(server.url, store, count))
    process.start()
    return process
