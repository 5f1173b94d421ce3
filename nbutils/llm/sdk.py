"""The openai SDK on any compatible server: how it is opened, told, and understood.

The SDK's retries are the only ones. What it would not retry by itself, a 200 that
carries no answer, is turned into the server fault that it is, so that it does.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import openai

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.llm.store import Answer, ChatRequest, Unanswered, rough_tokens

LOOSER = {"json_schema": "json_object", "json_object": "none"}
"""How a server is told the form of an answer, and what it is told if it refuses."""

FAULTS = (openai.OpenAIError, json.JSONDecodeError)
"""What a call of the SDK may raise."""

REFUSED = {
    openai.AuthenticationError: "refused the key: check OPENAI_API_KEY",
    openai.PermissionDeniedError: "does not permit this: check key and llm_model",
    openai.NotFoundError: "knows no such model or path: check llm_model and "
    "OPENAI_BASE_URL",
}
"""Faults after which no other request would fare better, and what to do."""

FAILED = {
    openai.APITimeoutError: "did not answer in time: raise llm_timeout_s",
    openai.APIConnectionError: "cannot be reached: check OPENAI_BASE_URL",
    openai.RateLimitError: "limits the rate: lower llm_in_flight or set "
    "llm_requests_per_minute",
    Exception: "failed: see its message, and run again to resume",
}


class Server:
    """The server that the environment names, through the SDK (`sdk`).

    OPENAI_BASE_URL and OPENAI_API_KEY are read here and kept nowhere else. `before` is
    called ahead of every attempt, the SDK's retries included; `transport` replaces the
    network (measurements). LabError where neither variable is set, or no model named.
    """

    def __init__(
        self,
        settings: Settings,
        before: Callable[[], None] = lambda: None,
        transport: Any = None,
    ):
        key, url = os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
        if not key and not url:
            raise LabError(
                "live mode needs OPENAI_API_KEY, or OPENAI_BASE_URL of a compatible "
                "server, in the environment; or set llm_mode to replay"
            )
        if settings.llm.model == "recorded":
            raise LabError(
                "live mode needs the name of a model: set llm_model "
                "(the name 'recorded' is that of the shipped answers)"
            )
        hooks = {"request": [lambda _: before()], "response": [fault_if_no_answer]}
        self.form = settings.llm.structured
        self.sdk = openai.OpenAI(
            api_key=key or "none",  # the SDK insists; a local server ignores it
            base_url=url or None,
            timeout=settings.llm.timeout_s,
            max_retries=settings.llm.retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks=hooks, timeout=settings.llm.timeout_s, transport=transport
            ),
        )

    def complete(self, request: ChatRequest, form: str = "") -> Answer:
        """Ask once, and where the server refuses the answer's form, in a looser one.

        The form that was taken is kept for all later calls. Raises Unanswered, or
        another LabError where no other request would fare better.
        """
        form, began = form or self.form, time.monotonic()
        extra = response_format(request, form)
        try:
            response = self.sdk.chat.completions.create(
                model=request.model,
                messages=list(request.messages),
                # a server that knows this header bills a repeated asking once
                extra_headers={"Idempotency-Key": request.key},
                **{**request.decoding, **extra},
            )
        except FAULTS as error:
            if getattr(error, "code", None) == "content_filter":  # an answer, too
                choice = {"message": {"content": ""}, "finish_reason": error.code}
                return answer_of(request, {"choices": [choice]})
            if extra and getattr(error, "status_code", None) in (400, 422):
                return self.complete(request, LOOSER[form])
            raise self._failure(request, error) from None
        if response_format(request, self.form):
            self.form = form
        return answer_of(request, response.model_dump(), time.monotonic() - began)

    def in_short(self, error: Exception) -> str:
        """An error's name and the beginning of its text, without the key."""
        text = " ".join(str(error).split())[:300].replace(self.sdk.api_key, "***")
        return f"{type(error).__name__}: " + re.sub(r"\bsk-[\w*-]{4,}", "***", text)

    def _failure(self, request: ChatRequest, error: Exception) -> LabError:
        """The error in one line, without a credential: what failed and what to do."""
        reasons = (REFUSED | FAILED).items()
        kind, reason = next((k, r) for k, r in reasons if isinstance(error, k))
        host = urlsplit(str(self.sdk.base_url)).hostname  # never the user part of it
        return (LabError if kind in REFUSED else Unanswered)(
            f"the server {host} {reason} (request {request.id}; "
            f"{self.in_short(error)}). What had arrived is stored."
        )


def answer_of(
    request: ChatRequest, body: Mapping[str, Any], latency: float = 0.0
) -> Answer:
    """The answer in a chat completion. LookupError or TypeError where it has none.

    Tokens that the server did not count are guessed, and marked so.
    """
    choice, usage = body["choices"][0], body.get("usage") or {}
    text = choice["message"]["content"] or ""
    guess = {"prompt_tokens": request.tokens, "completion_tokens": rough_tokens(text)}
    return Answer(
        key=request.key,
        text=text,
        usage={name: v for name, v in usage.items() if isinstance(v, int)}
        or {**guess, "guessed": 1},
        model=body.get("model") or request.model,
        latency=latency,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        finish=choice.get("finish_reason") or "",
    )


def response_format(request: ChatRequest, form: str) -> dict[str, Any]:
    """The `response_format` argument of a call, as a dict of keywords; may be empty.

    Servers want an object at the root, so an answer that is a list is asked for by
    the prompt alone.
    """
    schema = request.json_schema
    if schema is None or form == "none" or schema.get("type") != "object":
        return {}
    if form == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": request.schema, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def fault_if_no_answer(response: Any) -> None:
    """Make a 200 without an answer a 502, which the SDK asks again by itself.

    That is: a body that breaks off or is no JSON, empty choices, choices without a
    message. JSON under a wrong content type is an answer, and is marked as JSON.
    """
    chat = response.request.url.path.endswith("/chat/completions")
    if response.status_code != 200 or not chat:
        return
    response.read()
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = ...
    if text is None or isinstance(text, str):
        response.headers["content-type"] = "application/json"
    else:
        response.status_code = 502
