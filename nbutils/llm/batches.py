"""The provider's batch files: many requests in one file, cheaper, within a day.

A batch is noted in a file beside the store before it is submitted, so a run that was
broken off waits for it and submits it once.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openai

from nbutils.core.errors import LabError
from nbutils.core.files import read_json, write_json
from nbutils.llm.answers import NoAnswer, answer_of, error_text
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, ChatRequest

ENDPOINT = "/v1/chat/completions"
MOST = 50_000  # requests in one file: the provider's limit
FEWEST = 20  # with `live`, fewer are asked live: a batch may take a day
ENDED = ("completed", "failed", "expired", "cancelled")


def answers_in(
    text: str, requests: Mapping[str, ChatRequest]
) -> Iterator[tuple[str, Answer | str]]:
    """(key, answer or why there is none) of the lines of an output or error file.

    Lines that are cut, foreign, or of no request (by key) are left out.
    """
    for row in text.splitlines():
        try:
            value = json.loads(row)
            request = requests[value["custom_id"]]
            response = value.get("response") or {}
            body = response.get("body") or {}
            fault = value.get("error") or body.get("error")
            if fault or response.get("status_code") != 200:
                body = {"error": fault or error_text("")}
            yield request.key, answer_of(request, body)
        except NoAnswer as why:
            yield request.key, str(why).removeprefix("an error, ")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue


class Batches:
    """Batch files of one client; set its `prefetch` to `run` to use them.

    `live`: what is left without an answer, and few requests, may be asked live.
    `poll_s` seconds pass between two looks.
    """

    def __init__(
        self,
        client: Client,
        say: Callable[[str], None] = print,
        live: bool = False,
        poll_s: float = 30.0,
    ):
        self.client, self.say, self.live, self.poll_s = client, say, live, poll_s
        self.notes = Path(f"{client.store.path}.batches.json")  # {file, batch, keys}

    def run(self, requests: list[ChatRequest]) -> None:
        """Bring answers of `requests` into the store by batch files.

        A batch of other requests than these is left for the run that asked. LabError
        where some are left without an answer, unless they may be asked live.
        """
        by_key = {request.key: request for request in requests}
        try:
            for noted in self._noted():  # begun by an earlier run
                # less what a merge that was broken off has stored
                keys = [k for k in noted["keys"] if not self.client.store.answer(k)]
                if keys and set(keys) <= set(by_key):
                    self._finish({**noted, "keys": keys}, by_key)
            left = self.client.lacking(requests)
            if self.live and len(left) < FEWEST:
                return
            for start in range(0, len(left), MOST):
                self._finish(self._submit(left[start : start + MOST]), by_key)
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise LabError(
                "a batch could not be submitted or fetched "
                f"({self.client.server.in_short(error)}): run again to go on with it, "
                "or leave out --batch to ask live"
            ) from None
        left = self.client.lacking(left)
        if left and not self.live:
            raise LabError(
                f"{len(left)} of {len(requests)} requests have no answer from batch "
                "files, for the reasons above: run again with --batch to submit them "
                "again, or with --batch --live to ask them live at the full price"
            )

    def _submit(self, requests: list[ChatRequest]) -> dict[str, Any]:
        """The note of a new file of these requests, of which there is no batch yet.

        BudgetReached, before anything is sent, where it may cost more than is left.
        """
        if budget := self.client.budget:
            most = sum(int(one.decoding["max_tokens"]) for one in requests)
            cost = budget.price.cost(sum(r.tokens for r in requests), most, batch=True)
            what = f"a batch file of {len(requests)} requests"
            budget.check(cost, what, ", or leave out --batch to ask one by one")
        server, head = self.client.server, {"method": "POST", "url": ENDPOINT}
        text = ""
        for one in requests:
            row = {"custom_id": one.key, **head, "body": server.arguments(one)}
            text += json.dumps(row, ensure_ascii=False) + "\n"
        upload = ("requests.jsonl", text.encode())
        file = server.sdk.files.create(file=upload, purpose="batch").id
        return self._note(
            {"file": file, "batch": "", "keys": [r.key for r in requests]}
        )

    def _finish(self, noted: dict[str, Any], by_key: Mapping[str, ChatRequest]) -> None:
        """Wait for a batch and merge what it brought; then its note is dropped."""
        sdk, file = self.client.server.sdk, noted["file"]
        if not noted["batch"]:  # one that a broken run has created is not made again
            known = {batch.input_file_id: batch for batch in sdk.batches.list()}
            new = {"endpoint": ENDPOINT, "completion_window": "24h"}
            batch = known.get(file) or sdk.batches.create(input_file_id=file, **new)
            noted = self._note({**noted, "batch": batch.id})
            self.say(f"batch {batch.id}: {len(noted['keys'])} requests submitted")
        while (batch := sdk.batches.retrieve(noted["batch"])).status not in ENDED:
            counts = batch.request_counts
            done = f"{counts.completed} of {counts.total}" if counts else "no count"
            self.say(f"batch {batch.id} {batch.status}: {done}")
            time.sleep(self.poll_s)
        files = filter(None, (batch.output_file_id, batch.error_file_id))
        text = "\n".join(sdk.files.content(name).text for name in files)
        budget, reasons = self.client.budget, Counter()  # a sum of what was stored
        for key, found in answers_in(text, by_key):
            if isinstance(found, Answer):
                if budget:
                    budget.spent += budget.price.cost(*found.tokens, batch=True)
                self.client.store.keep(by_key[key], found)
                found = "" if found.text else "an answer without text"
            reasons[found] += bool(found)
        self._note(noted, ended=True)
        lost = len(self.client.lacking(by_key[key] for key in noted["keys"]))
        for error in getattr(batch.errors, "data", None) or ():
            reasons[error_text(error.model_dump())] = lost
        self.say(
            f"batch {batch.id} {batch.status}: {len(noted['keys']) - lost} answers"
            + (f", {lost} without one" if lost else "")
            + "".join(f"; {n}: {why}" for why, n in reasons.most_common(3) if n)
        )

    def _noted(self) -> list[dict[str, Any]]:
        return read_json(self.notes) if self.notes.is_file() else []

    def _note(self, noted: dict[str, Any], ended: bool = False) -> dict[str, Any]:
        """Write a batch's note in the place of its older one, or drop it."""
        others = [other for other in self._noted() if other["file"] != noted["file"]]
        write_json(self.notes, others if ended else [*others, noted])
        return noted
