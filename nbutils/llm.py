"""One chat client for replay and live runs.

The recordings are looked in first, then the store of live answers, then a server is
asked. Any OpenAI-compatible server will do; its address and key come from the
environment and are kept nowhere.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from nbutils.errors import LabError
from nbutils.settings import ROOT, Settings
from nbutils.store import Answer, ChatRequest, Store

__all__ = ["Answer", "ChatRequest", "Client", "Store", "chat_request"]


def chat_request(
    id: str, prompt: str, schema: str, settings: Settings, sample: int = 0
) -> ChatRequest:
    """A one-message request under the model and decoding settings in force."""
    return ChatRequest(
        id=id,
        messages=({"role": "user", "content": prompt},),
        schema=schema,
        model=settings.llm_model,
        decoding={
            "temperature": settings.llm_temperature,
            "top_p": settings.llm_top_p,
            "max_tokens": settings.llm_max_tokens,
        },
        sample=sample,
    )


class Client:
    """Answers requests: from the recordings, then the store, then (live) a server.

    `recorded` maps keys to shipped answers; `schemas` maps a schema name to the JSON
    schema that a server is sent. `requested` counts the calls that went to a server.
    """

    def __init__(
        self,
        settings: Settings,
        recorded: Mapping[str, Answer] | None = None,
        schemas: Mapping[str, dict[str, Any]] | None = None,
    ):
        self.settings = settings
        self.recorded = recorded or {}
        self.schemas = schemas or {}
        self.store = Store(ROOT / settings.llm_store)
        self.requested = 0
        self._lock = threading.Lock()

    def complete(self, request: ChatRequest) -> Answer:
        """The answer to one request, the same call for replay and live.

        In live mode a stored answer that was cut off, filtered or empty is asked for
        again; replay gives it as it is, and its parser names what is wrong with it.
        Raises LabError for a request that is not stored in replay mode, and for a
        server that cannot be reached or refuses.
        """
        answer = self.recorded.get(request.key) or self.store.get(request.key)
        live = self.settings.llm_mode == "live"
        if answer is not None and (answer.whole or not live):
            return answer
        if not live:
            raise LabError(_missing(request))
        answer = self._ask(request)
        self.store.put(request, answer)
        return answer

    def complete_many(self, requests: Iterable[ChatRequest]) -> list[Answer]:
        """Answers in the order of the requests, `llm_in_flight` at a time.

        A request that occurs twice is asked once. After a failure nothing new is
        asked; what is under way arrives and is stored, then the failure is raised.
        """
        requests = list(requests)
        unique = {request.key: request for request in requests}
        if self.settings.llm_mode == "replay":
            answers = {key: self.complete(request) for key, request in unique.items()}
            return [answers[request.key] for request in requests]
        with ThreadPoolExecutor(self.settings.llm_in_flight) as pool:
            futures: dict[str, Future[Answer]] = {
                key: pool.submit(self.complete, request)
                for key, request in unique.items()
            }
            try:
                wait(futures.values(), return_when=FIRST_EXCEPTION)
            finally:  # a failure or Ctrl-C: ask nothing new, keep what arrives
                pool.shutdown(cancel_futures=True)
        for future in futures.values():
            if not future.cancelled() and future.exception():
                raise future.exception()
        return [futures[request.key].result() for request in requests]

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @cached_property
    def _sdk(self):
        return open_sdk(self.settings)

    def _ask(self, request: ChatRequest) -> Answer:
        with self._lock:
            sdk = self._sdk
            self.requested += 1
        extra = response_format(request, self.settings.llm_structured, self.schemas)
        started = time.monotonic()
        try:
            response = sdk.chat.completions.create(
                model=request.model,
                messages=list(request.messages),
                **{**request.decoding, **extra},
            )
        except _sdk_errors() as error:
            raise LabError(_failure(request, error, sdk)) from None
        if not response.choices:
            raise LabError(
                f"the server's answer to {request.id} holds no choices: ask again"
            )
        choice = response.choices[0]
        usage = response.usage.model_dump() if response.usage else {}
        return Answer(
            key=request.key,
            text=choice.message.content or "",
            usage={name: v for name, v in usage.items() if isinstance(v, int)},
            model=response.model or request.model,
            latency=time.monotonic() - started,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            finish=choice.finish_reason or "",
        )


def response_format(
    request: ChatRequest, structured: str, schemas: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The `response_format` argument of a call, as a dict of keywords; may be empty.

    Servers want an object at the root, so an answer that is a list is asked for by
    the prompt alone.
    """
    schema = schemas.get(request.schema)
    if schema is None or structured == "none" or schema.get("type") != "object":
        return {}
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": request.schema, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def open_sdk(settings: Settings):
    """An `openai.OpenAI` on the server that the environment names.

    OPENAI_BASE_URL and OPENAI_API_KEY are read here and kept nowhere else. Raises
    LabError where neither is set, or where no model has been named.
    """
    key, url = os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
    if not key and not url:
        raise LabError(
            "live mode needs OPENAI_API_KEY, or OPENAI_BASE_URL of a compatible "
            "server, in the environment; or set llm_mode to replay"
        )
    if settings.llm_model == "recorded":
        raise LabError(
            "live mode needs the name of a model: set llm_model "
            "(the name 'recorded' is that of the shipped answers)"
        )
    import openai

    return openai.OpenAI(
        api_key=key or "none",  # the SDK insists; a local server ignores it
        base_url=url or None,
        timeout=settings.llm_timeout_s,
        max_retries=settings.llm_retries,
    )


def _sdk_errors() -> tuple[type[Exception], ...]:
    import openai

    return (openai.OpenAIError, json.JSONDecodeError)


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


def _failure(request: ChatRequest, error: Exception, sdk) -> str:
    import openai

    host = urlsplit(str(sdk.base_url)).hostname  # never the user part of the address
    text = " ".join(str(error).split())[:300].replace(sdk.api_key, "***")
    text = re.sub(r"\bsk-[\w*-]{4,}", "***", text)
    what = {
        openai.AuthenticationError: "refused the key: check OPENAI_API_KEY",
        openai.APITimeoutError: "did not answer in time: raise llm_timeout_s",
        openai.APIConnectionError: "cannot be reached: check OPENAI_BASE_URL",
        openai.RateLimitError: "limits the rate: lower llm_in_flight or wait",
    }
    reason = next((text for kind, text in what.items() if isinstance(error, kind)), "")
    reason = reason or "failed: see its message, and run again to resume"
    return (
        f"the server {host} {reason} (request {request.id}; "
        f"{type(error).__name__}: {text}). What had arrived is stored."
    )
