"""The openai SDK on any compatible server: how it is opened, told, and understood.

The SDK's retries are the only ones. What it would not retry by itself, a 200 that
carries no answer, is turned into the server fault that it is, so that it does.
"""

import re
import time
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import openai

from nbutils.core.access import network_names, open_sdk
from nbutils.core.errors import LabError
from nbutils.core.settings import Settings
from nbutils.llm.answers import NoAnswer, answer_of, read_reply
from nbutils.llm.store import Answer, ChatRequest, Unanswered

PARAMETERS = ("top_p", "temperature", "max_tokens")
"""What a model may refuse to be told; where two exclude each other, the first goes."""
NOT_TAKEN = re.compile(
    r"(?i)un(supported|recognized|known|expected)|not (support|permit|allow|accept)"
    r"|both|deprecated|only the default|instead"
)
NO_FORM = re.compile(r"response_format|json_schema|grammar|requested parameters")
"""How servers say, with other codes than 400, that they take no form of answers."""

OTHER_MODEL = re.compile(r"(?i)pinned to|model\b.{0,80}\b(not|n't) (exist|found)")
"""How a server that has no such model says it in a 400."""

MEANT = {
    openai.AuthenticationError: "refused the key: check OPENAI_API_KEY",
    openai.PermissionDeniedError: "does not permit this: check key and llm_model",
    openai.NotFoundError: "knows no such model or path: check llm_model and "
    "OPENAI_BASE_URL",
    openai.APITimeoutError: "did not answer in time: raise llm_timeout_s, or "
    "lower llm_in_flight where it answers one by one",
    openai.APIConnectionError: "cannot be reached: check OPENAI_BASE_URL",
    openai.RateLimitError: "limits the rate: lower llm_in_flight or set "
    "llm_requests_per_minute",
    Exception: "failed: see its message, and run again to resume",
}
"""What to do, by the first kind of an error that fits."""
FOR_ALL = tuple(MEANT)[:3]
"""After these no other request would fare better."""


class Server:
    """The server that the environment names, through the SDK (`sdk`).

    `without` holds what the model does not take, by setting or by its word: names of
    `PARAMETERS`, "response_format", or "json_schema", the strictest form alone.
    `before` is called ahead of every attempt at an answer; files and batches are none.
    LabError where no model is named.
    """

    def __init__(
        self,
        settings: Settings,
        before: Callable[[], None] = lambda: None,
        transport: Any = None,
    ):
        if settings.llm.model == "recorded":
            raise LabError(
                "live mode needs the name of a model: set llm_model "
                "(the name 'recorded' is that of the shipped answers)"
            )
        loose = {"json_object": {"json_schema"}, "none": {"response_format"}}
        self.without = {*settings.llm.without, *loose.get(settings.llm.structured, ())}
        self.sdk = open_sdk(
            timeout=settings.llm.timeout_s,
            max_retries=settings.llm.retries,
            hooks={
                "request": [lambda request: before() if _asks(request) else None],
                "response": [_name_the_fault],
            },
            transport=transport,
        )

    def arguments(
        self, request: ChatRequest, refused: set[str] = frozenset()
    ) -> dict[str, Any]:
        """What a call sends, without what the model does not take.

        An answer's limit has two names. A list is asked for by the prompt alone: a form
        must be an object.
        """
        without, schema = self.without | refused, request.json_schema
        sent = {"model": request.model, "messages": list(request.messages)}
        sent |= request.decoding
        if "max_tokens" in without:
            sent["max_completion_tokens"] = sent["max_tokens"]
        if schema and schema.get("type") == "object":
            named = {"name": request.schema, "schema": schema, "strict": True}
            strict = {"type": "json_schema", "json_schema": named}
            loose = "json_schema" in without
            sent["response_format"] = {"type": "json_object"} if loose else strict
        return {name: value for name, value in sent.items() if name not in without}

    def complete(self, request: ChatRequest) -> Answer:
        """Ask, and again without what the server refuses: it is not sent any more.

        Unanswered, or another LabError where no other request would fare better.
        """
        began, refused = time.monotonic(), set()
        ask = self.sdk.chat.completions.with_raw_response.create
        # a server that knows this header bills a repeated asking once
        once = {"Idempotency-Key": request.key}
        while True:
            sent = self.arguments(request, refused)
            try:
                body = read_reply(ask(extra_headers=once, **sent).content)
                break
            except openai.OpenAIError as error:
                if getattr(error, "code", None) == "content_filter":  # an answer, too
                    return answer_of(request, {"error": error.body})
                if not (name := refused_by(error, sent)):
                    raise self._failure(request, error) from None
                refused.add(name)
        if refused - self.without:
            warnings.warn(
                f"{request.model} does not take {', '.join(sorted(refused))} as set "
                "(see llm_without); it is not sent so any more",
                stacklevel=2,
            )
        self.without |= refused
        return answer_of(request, body, time.monotonic() - began)

    def in_short(self, error: Exception) -> str:
        """An error's name and the beginning of its text, without the key."""
        text = " ".join(text_of(error.__cause__ or error).split())[:300]
        text = re.sub(r"\bsk-[\w*-]{4,}", "***", text.replace(self.sdk.api_key, "***"))
        return f"{type(error).__name__}: {text}"

    def _failure(self, request: ChatRequest, error: Exception) -> LabError:
        """The error in one line, without a credential: what failed and what to do."""
        host = urlsplit(str(self.sdk.base_url)).hostname  # never the user part of it
        kind = next(kind for kind in MEANT if isinstance(error, kind))
        kind = openai.NotFoundError if names_model(error) else kind
        what, ends, more = MEANT[kind], kind in FOR_ALL, f"; {self.in_short(error)}"
        if kind is openai.APIConnectionError:
            what += network_names()
        response = getattr(error, "response", None)
        if fault := response is not None and response.extensions.get("fault"):
            what = f"sent {fault} in place of an answer: check OPENAI_BASE_URL"
            ends, more = fault.for_all, ""
        return (LabError if ends else Unanswered)(
            f"the server {host} {what} (request {request.id}{more}). "
            "What had arrived is stored."
        )


def refused_by(error: Exception, sent: dict[str, Any]) -> str:
    """What a server's error refuses of what was sent, by its name in `without`, or "".

    A 400 that names nothing may be about the form of the answer.
    """
    status, told = getattr(error, "status_code", 0), text_of(error)
    if names_model(error):
        return ""
    if status in (400, 422):
        for name in PARAMETERS if NOT_TAKEN.search(told) else ():
            if name in sent and re.search(rf"\b{name}\b", told):
                return name
    elif not (status in (404, 500, 501) and NO_FORM.search(told)):
        return ""
    form = sent.get("response_format", {}).get("type", "")
    return "response_format" if form == "json_object" else form


def names_model(error: Exception) -> bool:
    """Whether a 400 says that the server has another model."""
    status = getattr(error, "status_code", 0)
    return status == 400 and OTHER_MODEL.search(text_of(error)) is not None


def text_of(error: Exception) -> str:
    """What an error says: the SDK's text leaves out a message under another name."""
    text, body = str(error), getattr(error, "body", None)
    bare = re.fullmatch(r"Error code: \d+", text)
    return f"{text} - {body}" if bare and body else text


def _asks(request: Any) -> bool:
    """Whether an HTTP request is for an answer."""
    return request.url.path.endswith("/chat/completions")


def _name_the_fault(response: Any) -> None:
    """Make a 200 without an answer a 502, which the SDK asks again by itself.

    Not where that would fare no better; nor a fault that is about the answer's form.
    """
    if not _asks(response.request):
        return
    response.read()
    if response.status_code == 200:
        try:
            read_reply(response.content)
        except NoAnswer as fault:
            response.status_code, response.extensions["fault"] = 502, fault
            response.headers["x-should-retry"] = str(fault.again).lower()
    elif response.status_code >= 500 and NO_FORM.search(response.text):
        response.headers["x-should-retry"] = "false"
