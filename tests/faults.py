"""A server on loopback that answers from the recordings and fails at a set rate, and
the proof that a client which is killed again and again loses nothing and pays once.
"""

from __future__ import annotations

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

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.records import Rejection
from nbutils.core.sections import FAMILIES
from nbutils.core.settings import resolve
from nbutils.llm.client import Client
from nbutils.llm.store import ChatRequest, Store
from nbutils.synthesis.plan import Planned, recorded
from nbutils.synthesis.replies import parse

ANSWERED = ("answered", "wrong content type", "parts", "thought")
"""What delivers a whole answer: JSON under another content type is one, too."""
FAULTS = (
    "429", "500", "503", "time-out", "dropped", "truncated", "not json",
    "empty choices", "failed choice", "error inside", *ANSWERED[1:],
)  # fmt: skip
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
    number and the seed alone; `streams` of them may be streams. `refuses` holds names
    of parameters, or forms of an answer, that a 400 refuses. With another `status`
    than 200 it refuses and shows the key it was sent; `cut` is a finish reason and a
    text that go out for every answer.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, rate: float = 0.0, seed: int = 0, handler=None):
        super().__init__(("127.0.0.1", 0), handler or _Handler)
        self.rate, self.seed, self.streams = rate, seed, 0
        self.attempts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.asked_twice: list[str] = []
        self.banned, self.refuses = set(), set()
        self.lock = threading.Lock()
        self.seen: list[dict] = []
        self.status, self.cut = 200, None
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
            draw = random.Random(f"{self.seed} {key} {number}")
            kinds = (*FAULTS, NO_TEXT, *[STREAM][: self.streams])
            fault = draw.choice(kinds) if draw.random() < self.rate else "answered"
            self.streams -= fault == STREAM
            self.outcomes[fault] += 1
        return fault

    def completion(self, body: dict) -> dict:
        """The recorded answer to a chat request, or what `cut` says."""
        said = ("stop", self.answers[body["messages"][0]["content"]])
        return completion(body, *(self.cut or said))

    def handle_error(self, request, client_address):
        """A client that was killed leaves broken pipes: nothing to print."""


def completion(body: dict, reason: str, text: str) -> dict:
    """An answer to a chat request, as a server sends it."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300}
    return {
        "id": "x", "object": "chat.completion", "created": 0,
        "model": body["model"], "choices": [choice], "usage": usage,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key, server = self.headers["Idempotency-Key"], self.server
        server.seen.append(body)
        told = {*body, body.get("response_format", {}).get("type")}
        if refused := told & server.refuses:
            error = {"message": f"Unsupported parameter: '{min(refused)}'"}
            payload = json.dumps({"error": error}).encode()
            return self._send(400, "application/json", payload, len(payload))
        fault = server.fault_of(key)
        self.close_connection = fault in ("dropped", "time-out", "truncated")
        if fault in ("dropped", "time-out"):
            time.sleep(LATE_S * (fault == "time-out"))
            return None
        status, kind, payload = self._reply(fault, body)
        size = len(payload) * (2 if fault == "truncated" else 1)
        self._send(status, kind, payload, size)
        if fault in ANSWERED:
            with server.lock:
                server.delivered[key] += 1

    def _send(self, status: int, kind: str, payload: bytes, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def _reply(self, fault: str, body) -> tuple[int, str, bytes]:
        if self.server.status != 200:
            error = {"message": f"Incorrect API key: {self.headers['Authorization']}"}
            value = json.dumps({"error": error}).encode()
            return self.server.status, "application/json", value
        if fault in ("429", "500", "503"):
            return int(fault), "application/json", b'{"error": {"message": "busy"}}'
        if fault == "not json":
            return 200, "text/html", b"<html>a proxy says hello</html>"
        value = self.server.completion(body)
        choice = value["choices"][0]
        text = choice["message"]["content"]
        if fault == "empty choices":
            value |= {"choices": [], "usage": None}
        elif fault == "failed choice":
            choice["finish_reason"] = "error"
            choice["error"] = {"code": 502, "message": "provider disconnected"}
        elif fault == "error inside":
            value = {"error": {"message": "upstream overloaded", "code": 503}}
        elif fault == "parts":
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
            halves = [{"type": "text", "text": t} for t in (text[:9], text[9:])]
            choice["message"]["content"] = [thought, *halves]
        elif fault == "thought":
            draft = text.replace('"', '"DRAFT ', 3)
            choice["message"]["content"] = f"<think>Or {draft}?</think>\n{text}"
        elif fault == NO_TEXT:
            choice["message"] = {"role": "assistant", "reasoning_content": "hm"}
        payload = json.dumps(value).encode()
        if fault == "truncated":
            payload = payload[: len(payload) // 2]
        if fault == STREAM:
            payload = b"data: " + payload + b"\n\ndata: [DONE]\n\n"
        kind = "text/plain" if fault == "wrong content type" else "application/json"
        return 200, kind, payload

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
    os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-local"}
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


def prove(count: int, rate: float, kills: int, streams: int, folder: Path) -> dict:
    """Run with faults, refused parameters, streams and kills; what was asked and kept.

    `wrong`: stored texts that parse to something else than the recorded answer does.
    """
    server, path = FaultServer(rate), folder / "faulty.sqlite"
    server.refuses, server.streams = {"max_tokens", "json_schema"}, streams
    store, began, runs = Store(path), time.monotonic(), 0
    for mark in sorted(random.Random(0).sample(range(1, count), kills)):
        while len(store) < mark:  # a stream ends a run before its kill
            client = start(server, path, count)
            while client.is_alive() and len(store) < mark:
                time.sleep(0.01)
            client.kill()
            client.join()
            runs += 1
            server.banned = set(texts_in(store))
    while len(texts_in(store)) < count and runs < kills + streams + 10:
        start(server, path, count).join()  # each asks again for what has no text
        server.banned = set(texts_in(store))
        runs += 1
    server.shutdown()
    texts, wrong = texts_in(store), []
    for chat in requests_of(count, settings_for(path)):
        request, answer = planned()[chat.messages[0]["content"]]
        found = parse(request, texts.get(chat.key, ""))
        right = parse(request, answer)
        if found != right or isinstance(found, Rejection):
            wrong.append(chat.id)
    return {
        "requests": count,
        "runs": runs,
        "stored": len(texts),
        "wrong": wrong,
        "asked again after being stored": len(server.asked_twice),
        # each stored answer was delivered once; what was delivered beyond that had
        # reached the client, or its socket, when a kill came before the commit
        "delivered but not yet stored at a kill": server.delivered.total() - len(texts),
        "attempts": server.attempts.total(),
        "outcomes": dict(server.outcomes),
        "refused": sum("max_tokens" in body for body in server.seen),
        "seconds": round(time.monotonic() - began, 1),
    }
