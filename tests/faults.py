"""A server on loopback that answers from the recordings and fails at a set rate, and
the proof that a client which is killed again and again loses nothing and pays once:

    python tests/faults.py --requests 2000 --rate 0.3 --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from nbutils.core.fields import Settings
from nbutils.core.sections import FAMILIES
from nbutils.core.settings import ROOT, resolve
from nbutils.llm.client import Client
from nbutils.llm.store import ChatRequest, Store
from nbutils.synthesis.plan import recorded
from nbutils.synthesis.replies import Planned

FAULTS = (
    "429", "500", "503", "time-out", "dropped", "truncated", "not json",
    "empty choices", "failed choice", "error inside", "wrong content type", "parts",
)  # fmt: skip
NO_TEXT = "no text"
"""An answer, and paid for, but of no use: the next run asks again."""
ANSWERED = ("answered", "wrong content type", "parts")
"""What delivers a whole answer: JSON under another content type is one, too."""
LATE_S = 2.5
"""How long the server sleeps for a time-out; the client waits for less."""


@cache
def recordings() -> list[tuple[Planned, str]]:
    """Every recorded request with its answer."""
    return [pair for family in FAMILIES for pair in recorded(family)]


class FaultServer(ThreadingHTTPServer):
    """Notes every attempt: the body it was sent (`seen`), and by key what it was given.

    `banned` holds keys whose answers a client has stored: asking for one of them again
    is counted in `asked_twice`. Which fault an attempt meets follows from its key, its
    number and the seed alone. With another `status` than 200 it refuses and shows the
    key it was sent; `cut` is a finish reason and a text that go out for every answer.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, rate: float = 0.0, seed: int = 0, handler=None):
        super().__init__(("127.0.0.1", 0), handler or _Handler)
        self.rate, self.seed = rate, seed
        self.attempts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.asked_twice: list[str] = []
        self.banned: set[str] = set()
        self.lock = threading.Lock()
        self.seen: list[dict] = []
        self.status, self.cut = 200, None
        self.answers = {request.text: text for request, text in recordings()}
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fault_of(self, key: str) -> str:
        """What happens to this attempt."""
        with self.lock:
            number = self.attempts[key]
            self.attempts[key] += 1
            if key in self.banned:
                self.asked_twice.append(key)
        draw = random.Random(f"{self.seed} {key} {number}")
        kinds = (*FAULTS, NO_TEXT)
        fault = draw.choice(kinds) if draw.random() < self.rate else "answered"
        with self.lock:
            self.outcomes[fault] += 1
        return fault

    def completion(self, body: dict) -> dict:
        """The recorded answer to a chat request, as a server sends it."""
        said = ("stop", self.answers[body["messages"][0]["content"]])
        reason, text = self.cut or said
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300}
        return {
            "id": "x", "object": "chat.completion", "created": 0,
            "model": body["model"], "choices": [choice], "usage": usage,
        }  # fmt: skip

    def handle_error(self, request, client_address):
        """A client that was killed leaves broken pipes: nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        self.server.seen.append(body)
        fault = self.server.fault_of(key)
        if fault == "dropped":
            self.close_connection = True
            return
        if fault == "time-out":
            time.sleep(LATE_S)
            self.close_connection = True
            return
        status, kind, payload = self._reply(fault, body)
        length = len(payload) * (2 if fault == "truncated" else 1)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if status in (429, 503):
            self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()
        if fault == "truncated":
            self.close_connection = True
        if fault in ANSWERED:
            with self.server.lock:
                self.server.delivered[key] += 1

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
        if fault == "empty choices":
            value |= {"choices": [], "usage": None}
        elif fault == "failed choice":
            choice["finish_reason"] = "error"
            choice["error"] = {"code": 502, "message": "provider disconnected"}
        elif fault == "error inside":
            value = {"error": {"message": "upstream overloaded", "code": 503}}
        elif fault == "parts":
            text = choice["message"]["content"]
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
            halves = [{"type": "text", "text": t} for t in (text[:9], text[9:])]
            choice["message"]["content"] = [thought, *halves]
        elif fault == NO_TEXT:
            choice["message"] = {"role": "assistant", "reasoning_content": "hm"}
        payload = json.dumps(value).encode()
        if fault == "truncated":
            payload = payload[: len(payload) // 2]
        kind = "text/plain" if fault == "wrong content type" else "application/json"
        return 200, kind, payload

    def log_message(self, *_):
        pass


def settings_for(store: Path) -> Settings:
    """A patient client of many requests at once."""
    return resolve(
        overrides={
            "llm_mode": "live", "llm_model": "served", "llm_store": str(store),
            "llm_in_flight": 32, "llm_timeout_s": 1.5, "llm_retries": 12,
        }
    )  # fmt: skip


def requests_of(count: int, settings: Settings) -> list[ChatRequest]:
    """`count` different requests of the recordings; beyond those, new samples."""
    planned = [request.chat(settings) for request, _ in recordings()]
    found: dict[str, ChatRequest] = {}
    for sample in range(count):
        for chat in planned:
            if len(found) == count:
                break
            chat = replace(chat, sample=sample)
            found.setdefault(chat.key, chat)
    return list(found.values())


def texts_in(store: Store) -> dict[str, str]:
    """Key to text of every answer with one, in the order of the keys."""
    return dict(
        store.read("SELECT key, text FROM answers WHERE text != '' ORDER BY key")
    )


def ask(store: str, count: int) -> None:
    """The client that is killed: asks for everything that its store lacks."""
    settings = settings_for(Path(store))
    client = Client(settings)
    client.complete_many(requests_of(count, settings))
    client.close()


def start(server: FaultServer, store: Path, count: int) -> subprocess.Popen:
    code = f"import faults; faults.ask({str(store)!r}, {count})"
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    environment = {
        **os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-local",
        "PYTHONPATH": paths,
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def prove(count: int, rate: float, kills: int, seed: int, folder: Path) -> dict:
    """Run with faults and kills, then without; what was asked, kept and equal."""
    draw = random.Random(seed)
    server, path = FaultServer(rate, seed), folder / "faulty.sqlite"
    store = Store(path)
    marks = sorted(draw.sample(range(1, count), kills))
    for mark in marks:
        client = start(server, path, count)
        while client.poll() is None and len(store) < mark:
            time.sleep(0.01)
        client.send_signal(signal.SIGKILL)
        client.wait()
        with server.lock:
            server.banned = set(texts_in(store))
    for _ in range(5):  # each asks again for what has no text
        assert start(server, path, count).wait() == 0, "a run did not end well"
        if len(texts_in(store)) == count:
            break
    server.shutdown()
    clean = FaultServer(0.0)
    assert start(clean, folder / "clean.sqlite", count).wait() == 0
    clean.shutdown()
    wanted = texts_in(Store(folder / "clean.sqlite"))
    found, delivered = texts_in(store), sum(server.delivered.values())
    return {
        "different requests": count,
        "kills": kills,
        "stored": len(found),
        "equal to the fault-free run": found == wanted,
        "asked again after being stored": len(server.asked_twice),
        # each stored answer was delivered once; what was delivered beyond that had
        # reached the client, or its socket, when a kill came before the commit
        "delivered but not yet stored at a kill": delivered - len(found),
        "answers delivered": delivered,
        "attempts": sum(server.attempts.values()),
        "outcomes": dict(server.outcomes),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = prove(
            options.requests, options.rate, options.kills, options.seed, Path(temporary)
        )
    for name, value in report.items():
        print(f"{name}: {value}")
