"""What servers, gateways and environments bring: each kind, with what is right."""

import json
import os

import pytest
from faults import KEY
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.core.access import NETWORK, open_sdk
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm.answers import NoAnswer, answer_of, read_reply
from nbutils.llm.store import Unanswered, chat_request

REQUEST = chat_request("health/mgh/sts/0/0", "hi", "mgh", resolve())


def reply(content="hello", finish="stop", **message):
    """The body of a completion; a content of ... is left out."""
    message |= {} if content is ... else {"content": content}
    return {"choices": [{"message": message, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("body", "text", "finish"),
    [(reply(), "hello", "stop"),
     (reply([{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]),
      "hello", "stop"),
     (reply([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
             "hello", {"type": "text", "text": None}]), "hello", "stop"),
     (reply("\ud800 x"), "? x", "stop"),
     (reply(..., "length", reasoning_content="hm"), "", "length"),
     (reply(None, "stop"), "", "stop"),
     (reply(" \n", None), "", ""),
     (reply(None, "stop", refusal="I cannot"), "", "refusal"),
     ({**reply(), "usage": "n/a", "model": None}, "hello", "stop"),
     ({**reply(), "usage": {"prompt_tokens": 1e999, "x": float("nan"), "y": -1}},
      "hello", "stop"),
     (reply("hello", "\ud800"), "hello", "?")],
)  # fmt: skip
def test_an_answer_is_read_however_it_is_written(body, text, finish):
    for mark in (b"", b"\xef\xbb\xbf"):
        answer = answer_of(REQUEST, read_reply(mark + json.dumps(body).encode()))
        assert (answer.text, answer.finish) == (text, finish)
        assert answer.model == "recorded" and answer.usage["guessed"] == 1


def test_tokens_are_counted_as_far_as_the_server_counts_them():
    usage = {"prompt_tokens": 3.0, "completion_tokens": None, "details": {"x": 1}}
    answer = answer_of(REQUEST, {**reply(), "usage": usage})
    assert answer.usage == {"prompt_tokens": 3}


@pytest.mark.parametrize(
    ("data", "said", "again"),
    [(b'data: {"choices": []}\n\ndata: [DONE]', "stream of events", False),
     (b"<!DOCTYPE html><p>log in</p>", "an HTML page", True),
     (b'{"choices": [', "broken JSON", True),
     (b"[1]", "another form", False),
     (b'{"message": {"content": "x"}}', "another form", False),
     (b'{"choices": [{"text": "x"}]}', "another form", False),
     (b'{"choices": [{"message": {"content": 7}}]}', "another form", False),
     (b'{"choices": []}', "empty choices", True),
     (b'{"choices": [], "usage": {"total_tokens": 9}}', "empty choices", False),
     (b'{"error": {"code": 503, "message": "busy\\nnow"}}', "503 busy now", True),
     (b'{"error": "no"}', "an error, no", True),
     (json.dumps(reply("half", "error")).encode(), "an error, without a word", True)],
)  # fmt: skip
def test_what_is_no_answer_is_named_as_what_it_is(data, said, again):
    with pytest.raises(NoAnswer, match=said) as caught:
        read_reply(data)
    assert caught.value.again == again and "\n" not in str(caught.value)


NAMES = st.sampled_from(["choices", "message", "content", "text", "error", "usage"])
JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries({"message": JSON}, optional={"finish_reason": JSON})
BODY = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": JSON, "model": JSON}
)


@settings(max_examples=int(os.environ.get("NBUTILS_FUZZ", "100")), deadline=None)
@given(body=BODY | JSON | st.binary(max_size=80))
def test_any_reply_is_an_answer_or_named(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        answer = answer_of(REQUEST, read_reply(data))
        f"{answer.text}{answer.model}{answer.finish}".encode()  # can be written
    except NoAnswer as fault:
        assert str(fault) and "\n" not in str(fault)


ALL = {"temperature", "top_p", "max_tokens", "response_format"}


def told(field, message):
    """How servers name what they refuse; `detail` is FastAPI's."""
    return {field: {"message": message} if field == "error" else message}


@pytest.mark.parametrize("field", ["error", "detail"])
@pytest.mark.parametrize(
    ("status", "message", "refuses"),
    [
        (400, "Unsupported parameter: 'max_tokens' is not supported.", "max_tokens"),
        (400, "`temperature` and `top_p` cannot both be specified.", "top_p"),
        (400, "'temperature' does not support 0.2. Only the default", "temperature"),
        (422, "Extra inputs are not permitted: body.top_p", "top_p"),
        (500, "failed to parse grammar", "response_format"),
        (501, "response_format not supported", "response_format"),
        (404, "No endpoints can handle the requested parameters.", "response_format"),
        (400, "no such form", "json_schema"),
        (400, "no such thing", "response_format"),
    ],
)
@pytest.mark.filterwarnings("ignore:served does not take")
def test_a_parameter_that_the_model_refuses_is_left_out_and_remembered(
    status, message, refuses, field, server, client_of
):
    def refused(body):
        form = body.get("response_format", {}).get("type")
        return (status, told(field, message)) if refuses in {*body, form} else None

    server.says = refused
    client, requests = client_of()
    with_form = [r for r in requests if r.json_schema.get("type") == "object"][:3]
    client.complete_many(with_form)
    assert len(client.store) == 3
    renamed = {"max_completion_tokens"} if refuses == "max_tokens" else set()
    assert set(server.seen[-1]) == ({"model", "messages"} | (ALL - {refuses}) | renamed)
    assert len(server.seen) <= 5  # one refusal, or two forms, and then never again


def test_a_prompt_that_is_too_long_is_no_refusal_of_a_parameter(server, client_of):
    message = "maximum context length is 4096 tokens; lower max_tokens"
    server.says = lambda body: (400, told("error", message))
    client, requests = client_of()
    with pytest.raises(LabError, match="maximum context length"):
        client.complete(requests[0])
    assert client.server.without == set()


def test_a_prompt_that_the_server_filters_is_an_answer(server, client_of):
    filtered = {"error": {"message": "no", "code": "content_filter"}}
    server.says = lambda body: (400, filtered)
    client, requests = client_of()
    for _ in range(2):
        answer = client.complete(requests[0])
        assert (answer.text, answer.finish) == ("", "content_filter")
    assert client.requested == len(client.store) == 1


def test_parameters_are_left_out_by_setting(server, client_of):
    client, requests = client_of(llm_without=sorted(ALL))
    client.complete(requests[-1])
    assert set(server.seen[0]) == {"model", "messages", "max_completion_tokens"}


BUSY = {"error": {"code": 503, "message": "busy"}}
OTHER_MODEL = [
    (400, told(field, message), "knows no such model.*" + message, LabError, 1)
    for field in ("error", "detail")
    for message in (
        "Server is pinned to 'small'; requested 'served'.",
        "The model `served` does not exist",
        "model 'served' not found",
    )
]


@pytest.mark.parametrize(
    ("status", "said", "match", "kind", "attempts"),
    [
        (200, b"data: {}\n\n", "stream of events", LabError, 1),
        (200, {"done": True}, "another form", LabError, 1),
        (200, b"<html>log in</html>", "an HTML page", Unanswered, 3),
        (200, b'{"choices": [', "broken JSON", Unanswered, 3),
        (200, {"choices": [], "usage": None}, "empty", Unanswered, 3),
        (200, {"choices": [], "usage": {"n": 9}}, "empty", Unanswered, 1),
        (200, reply("half", "error"), "an error", Unanswered, 3),
        (200, BUSY, "an error, 503 busy", Unanswered, 3),
        (429, BUSY, "limits the rate", Unanswered, 3),
        (500, BUSY, "failed: ", Unanswered, 3),
        *OTHER_MODEL,
    ],
)
def test_no_answer_is_not_stored_and_asked_again_only_where_that_may_help(
    status, said, match, kind, attempts, server, client_of
):
    server.says = lambda body: (status, said)
    client, requests = client_of(llm_retries=2)
    with pytest.raises(LabError, match=match) as caught:
        client.complete_many(requests[-1:])
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert client.attempts == attempts and len(client.store) == 0


# -- keys, addresses, proxies


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("OPENAI_API_KEY", None, ""),
        ("OPENAI_API_KEY", f" {KEY}\r\n", ""),
        ("OPENAI_BASE_URL", " {url}/\n", ""),
        ("OPENAI_ORG_ID", "org\n", ""),
        ("OPENAI_API_KEY", f"“{KEY}”", "OPENAI_API_KEY holds"),
        ("OPENAI_API_KEY", f'"{KEY}"', "OPENAI_API_KEY holds"),
        ("OPENAI_API_KEY", f"{KEY} x", "OPENAI_API_KEY holds"),
        ("OPENAI_ORG_ID", "größe", "OPENAI_ORG_ID holds"),
        ("OPENAI_BASE_URL", "'{url}'", "OPENAI_BASE_URL holds"),
        ("OPENAI_BASE_URL", "127.0.0.1:8000/v1", "OPENAI_BASE_URL must be"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "check ALL_PROXY"),
        ("ALL_PROXY", "socks://user:planted@127.0.0.1:1080", "check ALL_PROXY"),
        ("https_proxy", "socks://127.0.0.1:1080", "check https_proxy"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "check SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, "check SSL_CERT_FILE"),
    ],
)
def test_the_environment_is_used_or_named_in_one_line(
    name, value, fault, server, client_of, monkeypatch
):
    for other in [n for n in os.environ if NETWORK.fullmatch(n) or n == name]:
        monkeypatch.delenv(other)
    if value is not None:
        monkeypatch.setenv(name, value.replace("{url}", server.url))
    client, requests = client_of()
    if not fault:  # an answer under another content type is one, too
        server.says = lambda body: (200, json.dumps(reply()).encode())
        assert client.complete(requests[0]).text == "hello"
        return
    for ask in (lambda: client.complete(requests[0]), open_sdk):
        with pytest.raises(LabError, match=fault) as caught:
            ask()
        assert "\n" not in str(caught.value) and "planted" not in str(caught.value)


def test_neither_key_nor_address_is_said_before_anything_is_opened(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(LabError, match="needs OPENAI_API_KEY, or OPENAI_BASE_URL"):
        open_sdk()
