"""One chat client for replay, live and record runs.

The recordings are looked in first, then the store of live answers, then a server is
asked. Any OpenAI-compatible server will do; its address and key come from the
environment and are kept nowhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.settings import ROOT
from nbutils.llm.costs import Budget, Pace, price_of, rough_tokens
from nbutils.llm.sdk import (
    FORMS,
    Unanswered,
    failure,
    is_filtered,
    open_sdk,
    refuses_form,
    response_format,
    sdk_errors,
)
from nbutils.llm.store import Answer, ChatRequest, Store

__all__ = ["Answer", "ChatRequest", "Client", "Store", "chat_request"]

Arrived = Callable[[ChatRequest, Answer], None]


def chat_request(
    id: str, prompt: str, schema: str, settings: Settings, sample: int = 0
) -> ChatRequest:
    """A one-message request under the model and decoding settings in force."""
    return ChatRequest(
        id=id,
        messages=({"role": "user", "content": prompt},),
        schema=schema,
        model=settings.llm.model,
        decoding={
            "temperature": settings.llm.temperature,
            "top_p": settings.llm.top_p,
            "max_tokens": settings.llm.max_tokens,
        },
        sample=sample,
    )


class Client:
    """Answers requests: from the recordings, then the store, then (live) a server.

    `recorded` maps keys to shipped answers (record mode does not read them); `schemas`
    maps a schema name to the JSON schema that a server is sent. `requested` counts the
    requests that went to a server, `attempts` also the SDK's retries. `prefetch` may
    bring answers into the store by another way (batch files) before the rest is asked.
    """

    def __init__(
        self,
        settings: Settings,
        recorded: Mapping[str, Answer] | None = None,
        schemas: Mapping[str, dict[str, Any]] | None = None,
        transport: Any = None,
    ):
        self.settings = settings
        self.live = settings.llm.mode != "replay"
        self.recorded = {} if settings.llm.mode == "record" else recorded or {}
        self.schemas = schemas or {}
        self.store = Store(ROOT / settings.llm.store)
        self.requested = self.attempts = 0
        self.form = settings.llm.structured
        self.prefetch: Callable[[list[ChatRequest]], None] | None = None
        self._transport = transport
        self._lock = threading.Lock()
        self._request_pace = Pace(settings.llm.requests_per_minute)
        self._token_pace = Pace(settings.llm.tokens_per_minute)
        self._attempt = threading.local()

    def find(self, request: ChatRequest) -> Answer | None:
        """The recorded or stored answer, if there is one; nothing is asked."""
        return self.recorded.get(request.key) or self.store.get(request.key)

    def complete(self, request: ChatRequest) -> Answer:
        """The answer to one request, the same call for replay and live.

        An answer that was cut off, filtered or empty is an answer: its parser names
        the fault, and what is asked next is another request. Raises LabError for a
        request that is not stored in replay mode, Refused or Unanswered for a server
        that gave none, BudgetReached where it might cost too much.
        """
        answer = self.find(request)
        if answer is None and not self.live:
            raise LabError(_missing(request))
        if answer is None:
            answer = self._ask(request)
            self.store.put(request, answer)
        return answer

    def complete_many(
        self, requests: Iterable[ChatRequest], arrived: Arrived | None = None
    ) -> list[Answer]:
        """Answers in the order of the requests, `llm_in_flight` at a time.

        A request that occurs twice is asked once. `arrived` is called with each answer
        as it comes, in this thread. A request without an answer does not keep the
        others from theirs; it is reported at the end, as LabError. After a refusal, at
        the budget, after `llm_give_up` failures in a row or Ctrl-C nothing new is
        asked; what is under way arrives and is stored.
        """
        requests = list(requests)
        answers: dict[str, Answer] = {}
        missing: dict[str, ChatRequest] = {}

        def take(request: ChatRequest, answer: Answer) -> None:
            answers[request.key] = answer
            if arrived:
                arrived(request, answer)

        for request in requests:
            if request.key in answers or request.key in missing:
                continue
            if found := self.find(request):
                take(request, found)
            else:
                missing[request.key] = request
        if missing and not self.live:
            raise LabError(_missing(next(iter(missing.values()))))
        if missing and self.prefetch:
            self.prefetch(list(missing.values()))
            for request in list(missing.values()):
                if found := self.store.get(request.key):
                    take(missing.pop(request.key), found)
        self._ask_all(list(missing.values()), take)
        return [answers[request.key] for request in requests]

    def close(self) -> None:
        """Close the store and the connections."""
        self.store.close()
        if "sdk" in self.__dict__:
            self.__dict__.pop("sdk").close()

    def _ask_all(self, requests: list[ChatRequest], take: Arrived) -> None:
        failures: list[LabError] = []
        in_a_row, stopped, seen = 0, None, set()
        with ThreadPoolExecutor(self.settings.llm.in_flight) as pool:
            futures = {pool.submit(self.complete, r): r for r in requests}
            try:
                for future in as_completed(futures):
                    seen.add(future)
                    error = future.exception()
                    if error is None:
                        in_a_row = 0
                        take(futures[future], future.result())
                    elif isinstance(error, Unanswered):
                        failures.append(error)
                        in_a_row += 1
                    else:
                        stopped = error
                    if stopped or in_a_row >= self.settings.llm.give_up:
                        break
            finally:  # ask nothing new, keep what arrives
                pool.shutdown(cancel_futures=True)
        for future in futures.keys() - seen:
            if _succeeded(future):
                take(futures[future], future.result())
        if stopped:
            raise stopped
        if failures:
            raise type(failures[0])(
                f"{len(failures)} of {len(requests)} requests have no answer; the "
                f"first: {failures[0]} Run again to ask only for what is missing."
            )

    @cached_property
    def sdk(self):
        """The `openai.OpenAI` that live requests go through."""
        return open_sdk(self.settings, self._before, self._transport)

    @cached_property
    def _budget(self) -> Budget | None:
        limit = self.settings.llm.max_cost
        if not limit:
            return None
        price = price_of(self.settings)
        rows = self.store.usage()
        others = {model for _, model, *_ in rows} - {price.model}
        prices = {price.model: price} | {
            name: price_of(self.settings.changed(llm_model=name)) for name in others
        }
        return Budget(limit, price, sum(prices[m].cost(i, o) for _, m, i, o in rows))

    def _before(self) -> None:
        """Ahead of every attempt: wait for its turn."""
        with self._lock:
            self.attempts += 1
        self._request_pace.take()
        self._token_pace.take(getattr(self._attempt, "tokens", 0))

    def _ask(self, request: ChatRequest) -> Answer:
        asked = sum(rough_tokens(message["content"]) for message in request.messages)
        most = int(request.decoding.get("max_tokens", self.settings.llm.max_tokens))
        with self._lock:
            sdk, budget = self.sdk, self._budget
        held = budget.hold(asked, most) if budget else 0.0
        self._attempt.tokens = asked + most
        usage: Mapping[str, int] = {}
        try:
            answer = self._send(sdk, request)
            usage = answer.usage or {
                "prompt_tokens": asked,
                "completion_tokens": rough_tokens(answer.text),
                "guessed": 1,  # the server did not say
            }
            return Answer(**{**answer.__dict__, "usage": usage})
        finally:
            used = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
            self._token_pace.settle(asked + most - sum(used) if usage else 0)
            if budget:
                budget.settle(held, *used)

    def _send(self, sdk, request: ChatRequest) -> Answer:
        """One call of the SDK; where the server refuses the form, with a looser one.

        The form that it took is remembered for all later calls.
        """
        with self._lock:
            self.requested += 1
        started = time.monotonic()
        first = FORMS.index(self.form)
        for form in FORMS[first:]:
            extra = response_format(request, form, self.schemas)
            try:
                response = sdk.chat.completions.create(
                    model=request.model,
                    messages=list(request.messages),
                    # a server that knows this header bills a repeated asking once
                    extra_headers={"Idempotency-Key": request.key},
                    **{**request.decoding, **extra},
                )
            except sdk_errors() as error:
                if is_filtered(error):
                    return _answer(request, started, "", "content_filter")
                if extra and refuses_form(error):
                    continue
                raise failure(request, error, sdk) from None
            if form != self.form and response_format(request, self.form, self.schemas):
                self.form = form
            choice = response.choices[0]
            usage = response.usage.model_dump() if response.usage else {}
            return _answer(
                request,
                started,
                choice.message.content or "",
                choice.finish_reason or "",
                {name: v for name, v in usage.items() if isinstance(v, int)},
                response.model,
            )
        raise AssertionError("the loosest form sends nothing that can be refused")


def _answer(request, started, text, finish, usage=None, model=None) -> Answer:
    return Answer(
        key=request.key,
        text=text,
        usage=usage or {},
        model=model or request.model,
        latency=time.monotonic() - started,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        finish=finish,
    )


def _succeeded(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _missing(request: ChatRequest) -> str:
    family, stage, *_ = [*request.id.split("/"), "", ""]
    decoding = ", ".join(
        f"{name} {value:g}" for name, value in request.decoding.items()
    )
    return (
        f"request {request.id} (stage {stage}, family {family}; model "
        f"{request.model}, {decoding}) is not among the recorded answers: to record "
        "it, set OPENAI_BASE_URL and OPENAI_API_KEY, llm_mode to live and llm_model "
        "to the server's model; to replay, restore prompt, model and decoding settings"
    )
