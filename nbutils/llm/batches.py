"""The provider's batch files: many requests in one file, cheaper, within a day.

Written, submitted, polled, fetched and merged into the same store as live answers. A
batch is noted in a file beside the store before it is submitted, so a run that was
broken off waits for the batch it began and does not submit it again. What a batch left
without an answer is asked live.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.files import write_json
from nbutils.llm import sdk
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, ChatRequest

ENDPOINT = "/v1/chat/completions"
MOST = 50_000
"""Requests in one file: the provider's limit."""

FEWEST = 20
"""Fewer than so many are asked live: a batch may take a day."""

ENDED = ("completed", "failed", "expired", "cancelled")


def line(request: ChatRequest, client: Client) -> str:
    """One line of a batch file; its `custom_id` is the request's key."""
    body = {
        "model": request.model,
        "messages": list(request.messages),
        **request.decoding,
        **sdk.response_format(request, client.form, client.schemas),
    }
    value = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(value, ensure_ascii=False)


def answers_in(text: str) -> Iterable[tuple[str, Answer | None]]:
    """(key, answer) of each line of an output or error file; None where it failed.

    A line that is no whole answer counts as failed: it will be asked live.
    """
    for row in text.splitlines():
        try:
            value = json.loads(row)
            key = value["custom_id"]
        except (ValueError, LookupError, TypeError):
            continue  # cut or foreign: its request stays unanswered
        yield key, _answer(key, value)


def _answer(key: str, value: Mapping[str, Any]) -> Answer | None:
    try:
        if value["response"]["status_code"] != 200:
            return None
        body = value["response"]["body"]
        choice = body["choices"][0]
        usage = body.get("usage") or {}
        return Answer(
            key=key,
            text=choice["message"]["content"] or "",
            usage={k: v for k, v in usage.items() if isinstance(v, int)},
            model=body.get("model", ""),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            finish=choice.get("finish_reason") or "",
        )
    except (LookupError, TypeError, AttributeError):
        return None


class Batches:
    """Batch files of one client; set its `prefetch` to `run` to use them.

    The file of notes (STORE.batches.json) is a list of {file, batch, keys}. `poll_s`
    seconds pass between two looks.
    """

    def __init__(
        self,
        client: Client,
        say: Callable[[str], None] = print,
        poll_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.client, self.say, self.poll_s, self.sleep = client, say, poll_s, sleep
        self.notes = Path(f"{client.store.path}.batches.json")

    def run(self, requests: list[ChatRequest]) -> None:
        """Bring answers of `requests` into the store by batch files, where it pays."""
        by_key = {request.key: request for request in requests}
        for noted in self._read():  # begun by an earlier run
            self._finish(noted, by_key)
        stored = self.client.store.get
        left = [request for key, request in by_key.items() if stored(key) is None]
        if len(left) < FEWEST:
            return
        for start in range(0, len(left), MOST):
            part = left[start : start + MOST]
            self._finish(self._submit(part), by_key)

    def _submit(self, requests: list[ChatRequest]) -> dict[str, Any]:
        content = "\n".join(line(request, self.client) for request in requests) + "\n"
        noted = {"file": "", "batch": "", "keys": [r.key for r in requests]}
        with _named("could not be submitted", self.client):
            upload = ("requests.jsonl", io.BytesIO(content.encode()))
            noted["file"] = self.client.sdk.files.create(
                file=upload, purpose="batch"
            ).id
            self._write([*self._read(), noted])
            noted = self._started(noted)
        self.say(f"batch {noted['batch']}: {len(requests)} requests submitted")
        return noted

    def _started(self, noted: dict[str, Any]) -> dict[str, Any]:
        """The note with its batch: the one the server has of its file, or a new one."""
        batches = self.client.sdk.batches
        known = {batch.input_file_id: batch.id for batch in batches.list()}
        name = known.get(noted["file"])
        if name is None:
            name = batches.create(
                input_file_id=noted["file"],
                endpoint=ENDPOINT,
                completion_window="24h",
            ).id
        others = [n for n in self._read() if n["file"] != noted["file"]]
        noted = {**noted, "batch": name}
        self._write([*others, noted])
        return noted

    def _finish(self, noted: dict[str, Any], requests: Mapping[str, ChatRequest]):
        """Wait for a batch and merge what it brought; then its note is dropped.

        A batch of other requests than the ones at hand stays for the run that asked.
        """
        if not set(noted["keys"]) <= set(requests):
            return
        with _named("could not be fetched", self.client):
            noted = noted if noted["batch"] else self._started(noted)
            batch = self._wait(noted["batch"])
            files = (batch.output_file_id, batch.error_file_id)
            texts = [self.client.sdk.files.content(f).text for f in files if f]
        count = self._merge(texts, requests)
        self._write([n for n in self._read() if n["batch"] != noted["batch"]])
        lost = len(noted["keys"]) - count
        self.say(
            f"batch {noted['batch']} {batch.status}: {count} answers"
            + (f", {lost} without one are asked live" if lost else "")
        )

    def _wait(self, name: str):
        while True:
            batch = self.client.sdk.batches.retrieve(name)
            if batch.status in ENDED:
                return batch
            counts = batch.request_counts
            done = f"{counts.completed} of {counts.total}" if counts else "no count"
            self.say(f"batch {name} {batch.status}: {done}")
            self.sleep(self.poll_s)

    def _merge(self, texts: list[str], requests: Mapping[str, ChatRequest]) -> int:
        found = [pair for text in texts for pair in answers_in(text)]
        kept = [(k, a) for k, a in found if a is not None and k in requests]
        for key, answer in kept:
            self.client.store.put(requests[key], answer)
        return len({key for key, _ in kept})

    def _read(self) -> list[dict[str, Any]]:
        if not self.notes.is_file():
            return []
        try:
            return json.loads(self.notes.read_text(encoding="utf-8"))
        except ValueError:
            raise LabError(
                f"{self.notes} is damaged: look up the batches at the provider, then "
                "remove the file"
            ) from None

    def _write(self, notes: list[dict[str, Any]]) -> None:
        if notes:
            write_json(self.notes, notes)
        else:
            self.notes.unlink(missing_ok=True)


class _named:
    """Faults of the SDK inside the block become a LabError without credentials."""

    def __init__(self, what: str, client: Client):
        self.what, self.client = what, client

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, sdk.sdk_errors()):
            text = " ".join(str(error).split())[:300]
            text = sdk.without_keys(text, self.client.sdk.api_key)
            raise LabError(
                f"a batch {self.what} ({type(error).__name__}: {text}): run again to "
                "go on with it, or leave out --batch to ask live"
            ) from None
        return False
