"""One chat client for replay, live and record runs."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from functools import cache, cached_property, partial
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT, Settings
from nbutils.llm.costs import Budget, Pace, price_of
from nbutils.llm.store import Answer, ChatRequest, Store, Unanswered

Arrived = Callable[[ChatRequest, Answer], None]


class Client:
    """Answers requests: from the recordings, then the store, then (live) a server.

    `recorded` maps keys to shipped answers, which record mode does not read.
    `requested` counts what went to a server, `attempts` also the SDK's retries.
    `prefetch` may bring answers into the store (batch files) before the rest is asked.
    """

    def __init__(
        self,
        settings: Settings,
        recorded: Mapping[str, Answer] | None = None,
        transport: Any = None,
    ):
        self.settings = settings
        self.live = settings.llm.mode != "replay"
        self.recorded = {} if settings.llm.mode == "record" else recorded or {}
        self.store = Store(ROOT / settings.llm.store)
        self.requested = self.attempts = 0
        self.prefetch: Callable[[list[ChatRequest]], None] = lambda requests: None
        self._transport = transport
        self._lock = threading.Lock()
        self._attempt_pace = Pace(settings.llm.requests_per_minute)
        self._token_pace = Pace(settings.llm.tokens_per_minute)

    def find(self, request: ChatRequest) -> Answer | None:
        """The recorded or stored answer, if there is one; nothing is asked.

        A live client takes one without text only where a filter kept it back.
        """
        found = self.recorded.get(request.key) or self.store.answer(request.key)
        whole = found and (found.text.strip() or found.finish == "content_filter")
        return found if whole or not self.live else None

    def lacking(self, requests: Iterable[ChatRequest]) -> list[ChatRequest]:
        """Those that no recording and no store answers; nothing is asked."""
        return [request for request in requests if not self.find(request)]

    def complete(self, request: ChatRequest) -> Answer:
        """The answer to one request; one that was cut off or filtered is one, too.

        LabError where replay lacks it, the server refuses or gives none (Unanswered),
        and at the budget (BudgetReached).
        """
        answer = self.find(request)
        if answer is None:
            if not self.live:
                raise LabError(_missing(request))
            answer = self._ask(request)
            self.store.keep(request, answer)
        return answer

    def complete_many(
        self, requests: Iterable[ChatRequest], arrived: Arrived | None = None
    ) -> list[Answer]:
        """Answers in the order of the requests, `llm_in_flight` at a time.

        Equal requests are asked once. `arrived` is shown each answer as it comes, in
        this thread. After a refusal, at the budget, after `llm_give_up` failures in a
        row or Ctrl-C nothing new is asked; what is under way arrives and is stored.
        LabError at the end, where any has no answer.
        """
        requests = list(requests)
        unique = list({request.key: request for request in requests}.values())
        if left := self.lacking(unique):
            if not self.live:
                raise LabError(_missing(left[0]))
            self.prefetch(left)
        answers, failures, in_a_row, refusal = {}, [], 0, None
        stop = threading.Event()  # after it nothing new is asked

        def ask(request: ChatRequest) -> Answer | None:
            return None if stop.is_set() else self.complete(request)

        with ThreadPoolExecutor(self.settings.llm.in_flight) as pool:
            futures = {pool.submit(ask, request): request for request in unique}
            try:
                for future in as_completed(futures):
                    request, error = futures[future], future.exception()
                    if isinstance(error, Unanswered):
                        failures.append(error)
                        in_a_row += 1
                    elif error:
                        refusal = refusal or error
                    elif answer := future.result():
                        in_a_row, answers[request.key] = 0, answer
                        if arrived:
                            arrived(request, answer)
                    if refusal or in_a_row >= self.settings.llm.give_up:
                        stop.set()
            finally:
                stop.set()
        if refusal:
            raise refusal
        if failures:
            raise Unanswered(
                f"{len(failures)} of {len(unique)} requests have no answer; the "
                f"first: {failures[0]} Run again to ask only for what is missing."
            )
        return [answers[request.key] for request in requests]

    def close(self) -> None:
        """Close the store and the connections."""
        self.store.close()
        if "server" in self.__dict__:
            self.__dict__.pop("server").sdk.close()

    @cached_property
    def server(self):
        """The `sdk.Server` that live requests go to."""
        from nbutils.llm.sdk import Server  # a second of imports: not for replay

        return Server(self.settings, self._before, self._transport)

    @cached_property
    def budget(self) -> Budget | None:
        """What the settings allow, less what the answers in the store have cost."""
        if not self.settings.llm.max_cost:
            return None
        price, rows = cache(partial(price_of, self.settings)), self.store.usage()
        spent = sum(price(model).cost(*tokens) for _, model, *tokens in rows)
        return Budget(self.settings.llm.max_cost, price(""), spent)

    def _before(self) -> None:
        """Ahead of every attempt at an answer: wait for its turn."""
        with self._lock:
            self.attempts += 1
        self._attempt_pace.take()

    def _ask(self, request: ChatRequest) -> Answer:
        """The server's answer, asked for within the limits on tokens and money."""
        asked, most = request.tokens, int(request.decoding["max_tokens"])
        with self._lock:
            server, budget = self.server, self.budget  # made by the first thread
        with budget.held(asked, most) if budget else nullcontext([0, 0]) as used:
            self._token_pace.take(asked + most)
            with self._lock:
                self.requested += 1
            answer = server.complete(request)
            used[:] = answer.tokens
            self._token_pace.give_back(asked + most - sum(used))
        return answer


def _missing(request: ChatRequest) -> str:
    family, stage, *_ = [*request.id.split("/"), "", ""]
    decoding = ", ".join(f"{name} {v:g}" for name, v in request.decoding.items())
    return (
        f"request {request.id} (stage {stage}, family {family}; model "
        f"{request.model}, {decoding}) is not among the recorded answers: to record "
        "it, set OPENAI_BASE_URL and OPENAI_API_KEY, llm_mode to live and llm_model "
        "to the server's model; to replay, restore prompt, model and decoding settings"
    )
