"""The openai SDK on any compatible server: how it is opened, told, and understood.

The SDK's retries are the only ones. What it would not retry by itself, a 200 that
carries no answer, is turned into the server fault that it is, so that it does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.llm.store import ChatRequest

FORMS = ("json_schema", "json_object", "none")
"""How a server is told the form of an answer, the strictest first."""


class Refused(LabError):
    """The server refuses key, model or address: no other request would fare better."""


class Unanswered(LabError):
    """One request got no answer, after all retries of the SDK."""


def open_sdk(
    settings: Settings,
    before: Callable[[], None] = lambda: None,
    transport: Any = None,
):
    """An `openai.OpenAI` on the server that the environment names.

    OPENAI_BASE_URL and OPENAI_API_KEY are read here and kept nowhere else. `before` is
    called ahead of every attempt, the SDK's retries included; `transport` replaces the
    network (measurements). Raises LabError where neither variable is set, or where no
    model has been named.
    """
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
    import openai

    hooks = {"request": [lambda _: before()], "response": [fault_if_no_answer]}
    return openai.OpenAI(
        api_key=key or "none",  # the SDK insists; a local server ignores it
        base_url=url or None,
        timeout=settings.llm.timeout_s,
        max_retries=settings.llm.retries,
        http_client=openai.DefaultHttpxClient(
            event_hooks=hooks, timeout=settings.llm.timeout_s, transport=transport
        ),
    )


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
        choices = response.json()["choices"]
        text = choices[0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        response.status_code = 502
        return
    if text is None or isinstance(text, str):
        response.headers["content-type"] = "application/json"
    else:
        response.status_code = 502


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


def sdk_errors() -> tuple[type[Exception], ...]:
    """What a call of the SDK may raise."""
    import openai

    return (openai.OpenAIError, json.JSONDecodeError)


def refuses_form(error: Exception) -> bool:
    """Whether a server may have refused a request for its `response_format`."""
    return getattr(error, "status_code", None) in (400, 422)


def is_filtered(error: Exception) -> bool:
    """Whether a server refused a prompt for its content: that is an answer, too."""
    return getattr(error, "code", None) == "content_filter"


def failure(request: ChatRequest, error: Exception, sdk) -> LabError:
    """The error in one line, without a credential: what failed and what to do."""
    import openai

    host = urlsplit(str(sdk.base_url)).hostname  # never the user part of the address
    text = " ".join(str(error).split())[:300]
    what: dict[type[Exception], str] = {
        openai.AuthenticationError: "refused the key: check OPENAI_API_KEY",
        openai.PermissionDeniedError: "does not permit this: check key and llm_model",
        openai.NotFoundError: "knows no such model or path: check llm_model and "
        "OPENAI_BASE_URL",
        openai.APITimeoutError: "did not answer in time: raise llm_timeout_s",
        openai.APIConnectionError: "cannot be reached: check OPENAI_BASE_URL",
        openai.RateLimitError: "limits the rate: lower llm_in_flight or set "
        "llm_requests_per_minute",
    }
    kinds = list(what)
    found = next((kind for kind in kinds if isinstance(error, kind)), None)
    reason = what.get(found, "failed: see its message, and run again to resume")
    return (Refused if found in kinds[:3] else Unanswered)(
        f"the server {host} {reason} (request {request.id}; "
        f"{type(error).__name__}: {without_keys(text, sdk.api_key)}). "
        "What had arrived is stored."
    )


def without_keys(text: str, key: str) -> str:
    """A text in which `key`, and whatever looks like one, is three stars."""
    return re.sub(r"\bsk-[\w*-]{4,}", "***", text.replace(key, "***"))
