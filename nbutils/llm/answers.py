"""What a server's reply holds: an answer, or a failure that is named as what it is.

Gateways put failures into a 200, and servers write an answer's text in several ways.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nbutils.llm.store import Answer, ChatRequest, rough_tokens


class NoAnswer(Exception):
    """What a reply is instead of an answer.

    `again`: the same request may fare better. `for_all`: no other request will.
    """

    def __init__(self, what: str, again: bool = True, for_all: bool = False):
        super().__init__(what)
        self.again, self.for_all = again, for_all


def read_reply(data: bytes) -> dict[str, Any]:
    """The chat completion in a reply's body; NoAnswer where it holds no answer."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        begin = data.lstrip(b"\xef\xbb\xbf \r\n\t")
        if begin.startswith((b"data:", b"event:", b"id:", b": ")):
            raise NoAnswer("a stream of events (SSE)", False, True) from None
        page = begin.startswith(b"<")
        raise NoAnswer("an HTML page" if page else "broken JSON") from None
    said(body)
    return body


def said(body: Any) -> tuple[str, str]:
    """The text of a chat completion ("" for blanks) and why it ended; or NoAnswer.

    A filter's error is an answer. Empty choices that were paid for are not asked again.
    """
    try:
        fault = body.get("error")
        if isinstance(fault, dict) and fault.get("code") == "content_filter":
            return "", "content_filter"
        if fault:
            raise NoAnswer(f"an error, {error_text(fault)}")
        if body.get("choices") == []:
            raise NoAnswer("empty choices", again=not sum(usage_of(body).values()))
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content") or "", message.get("refusal")
        parts = content if isinstance(content, list) else [content]
        text = "".join(p if isinstance(p, str) else p.get("text") or "" for p in parts)
    except (LookupError, TypeError, AttributeError):
        raise NoAnswer("JSON of another form", False, True) from None
    if choice.get("error") or finish == "error":
        raise NoAnswer(f"an error, {error_text(choice.get('error'))}")
    if text.strip():
        return _whole(text), _whole(str(finish or ""))
    return "", "refusal" if refusal else _whole(str(finish or ""))


def answer_of(
    request: ChatRequest, body: Mapping[str, Any], latency: float = 0.0
) -> Answer:
    """The answer in a chat completion; NoAnswer where it has none.

    Tokens that the server did not count are guessed, and marked so.
    """
    text, finish = said(body)
    guess = {"prompt_tokens": request.tokens, "completion_tokens": rough_tokens(text)}
    usage = usage_of(body) or {**guess, "guessed": 1}
    model = _whole(str(body.get("model") or request.model))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Answer(request.key, text, usage, model, latency, now, finish)


def usage_of(body: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of tokens that the server counted, by name."""
    usage = body.get("usage")
    rows = usage.items() if isinstance(usage, dict) else ()
    numbers = ((name, n) for name, n in rows if isinstance(n, int | float))
    return {name: int(n) for name, n in numbers if 0 <= n < 1e12}  # not Infinity


def error_text(error: Any) -> str:
    """An error's code and message in one line."""
    if isinstance(error, dict):
        error = " ".join(str(error[k]) for k in ("code", "message") if error.get(k))
    return _whole(" ".join(str(error or "without a word").split())[:200])


def _whole(text: str) -> str:
    """A text without half a character, which no file and no terminal takes."""
    return text.encode(errors="replace").decode()
