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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.files import read_json, write_json
from nbutils.llm.client import Client
from nbutils.llm.sdk import FAULTS, answer_of, response_format
from nbutils.llm.store import Answer, ChatRequest

ENDPOINT = "/v1/chat/completions"
MOST = 50_000
"""Requests in one file: the provider's limit."""

FEWEST = 20
"""Fewer than so many are asked live: a batch may take a day."""

ENDED = ("completed", "failed", "expired", "cancelled")


def line(request: ChatRequest, form: str) -> str:
    """One line of a batch file; its `custom_id` is the request's key."""
    body = {
        "model": request.model,
        "messages": list(request.messages),
        **request.decoding,
        **response_format(request, form),
    }
    value = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(value, ensure_ascii=False)


def answers_in(text: str, requests: Mapping[str, ChatRequest]) -> Iterator[Answer]:
    """The answers to `requests` (by key) in an output or error file.

    A line that is cut, foreign, or no whole answer is left out: it is asked live.
    """
    for row in text.splitlines():
        try:
            value = json.loads(row)
            request, response = requests[value["custom_id"]], value["response"]
            if response["status_code"] == 200:
                yield answer_of(request, response["body"])
        except (ValueError, LookupError, TypeError, AttributeError):
            continue


class Batches:
    """Batch files of one client; set its `prefetch` to `run` to use them.

    The file of notes (STORE.batches.json) is a list of {file, batch, keys}. `poll_s`
    seconds pass between two looks.
    """

    def __init__(
        self, client: Client, say: Callable[[str], None] = print, poll_s: float = 30.0
    ):
        self.client, self.say, self.poll_s = client, say, poll_s
        self.notes = Path(f"{client.store.path}.batches.json")

    def run(self, requests: list[ChatRequest]) -> None:
        """Bring answers of `requests` into the store by batch files, where it pays."""
        by_key = {request.key: request for request in requests}
        for noted in self._read():  # begun by an earlier run
            self._finish(noted, by_key)
        known = self.client.store.get(by_key)
        left = [request for key, request in by_key.items() if key not in known]
        if len(left) < FEWEST:
            return
        for start in range(0, len(left), MOST):
            self._finish(self._submit(left[start : start + MOST]), by_key)

    def _submit(self, requests: list[ChatRequest]) -> dict[str, Any]:
        rows = "".join(line(one, self.client.server.form) + "\n" for one in requests)
        upload = ("requests.jsonl", io.BytesIO(rows.encode()))
        with self._faults_named("could not be submitted"):
            file = self.client.server.sdk.files.create(file=upload, purpose="batch").id
            noted = {"file": file, "batch": "", "keys": [r.key for r in requests]}
            write_json(self.notes, [*self._read(), noted])
            noted = self._started(noted)
        self.say(f"batch {noted['batch']}: {len(requests)} requests submitted")
        return noted

    def _started(self, noted: dict[str, Any]) -> dict[str, Any]:
        """The note with its batch: the one the server has of its file, or a new one."""
        batches, file = self.client.server.sdk.batches, noted["file"]
        known = {batch.input_file_id: batch.id for batch in batches.list()}
        name = known.get(file) or batches.create(
            input_file_id=file, endpoint=ENDPOINT, completion_window="24h"
        ).id  # fmt: skip
        noted = {**noted, "batch": name}
        write_json(self.notes, [*(n for n in self._read() if n["file"] != file), noted])
        return noted

    def _finish(self, noted: dict[str, Any], requests: Mapping[str, ChatRequest]):
        """Wait for a batch and merge what it brought; then its note is dropped.

        A batch of other requests than the ones at hand stays for the run that asked.
        """
        if not set(noted["keys"]) <= set(requests):
            return
        with self._faults_named("could not be fetched"):
            noted = noted if noted["batch"] else self._started(noted)
            batch = self._wait(noted["batch"])
            files = filter(None, (batch.output_file_id, batch.error_file_id))
            texts = [self.client.server.sdk.files.content(name).text for name in files]
        found = {a.key: a for text in texts for a in answers_in(text, requests)}
        for key, answer in found.items():
            self.client.store.keep(requests[key], answer)
        write_json(
            self.notes, [n for n in self._read() if n["batch"] != noted["batch"]]
        )
        lost = len(noted["keys"]) - len(found)
        self.say(
            f"batch {noted['batch']} {batch.status}: {len(found)} answers"
            + (f", {lost} without one are asked live" if lost else "")
        )

    def _wait(self, name: str):
        while True:
            batch = self.client.server.sdk.batches.retrieve(name)
            if batch.status in ENDED:
                return batch
            counts = batch.request_counts
            done = f"{counts.completed} of {counts.total}" if counts else "no count"
            self.say(f"batch {name} {batch.status}: {done}")
            time.sleep(self.poll_s)

    def _read(self) -> list[dict[str, Any]]:
        return read_json(self.notes) if self.notes.is_file() else []

    @contextmanager
    def _faults_named(self, what: str) -> Iterator[None]:
        """Faults of the SDK inside the block become a LabError without credentials."""
        try:
            yield
        except FAULTS as error:
            raise LabError(
                f"a batch {what} ({self.client.server.in_short(error)}): run again "
                "to go on with it, or leave out --batch to ask live"
            ) from None
