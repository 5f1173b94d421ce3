"""Batch files through the SDK: written, fetched, merged, resumed."""

import json
import re

import faults
import pytest

from benchmarks.llm import HTTP
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm import batches, costs
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, chat_request


class Killed(BaseException):
    """A process that ends here."""


class Provider:
    """A provider's /files, /batches and chat, in place of the network.

    A batch is in progress at the first look, and completed at the second; every fifth
    of its lines fails. `chats` are the keys of what was asked live; `deadly` is the end
    of a path at which the client is killed.
    """

    def __init__(self):
        self.files, self.batches, self.chats, self.deadly = {}, {}, [], ""
        self.answers = {prompt: text for prompt, (_, text) in faults.planned().items()}

    def __call__(self, request):
        *_, kind, name = request.url.path.split("/")
        if name == self.deadly:
            raise Killed
        if name == "content":
            return HTTP.Response(200, text=self.files[kind])
        return HTTP.Response(200, json=self.reply(request, name))

    def reply(self, request, name):
        if name == "files":
            name, text = f"file-{len(self.files)}", request.read().decode()
            part = r'filename="requests.jsonl".*?\r\n\r\n(.*?)\r\n--'
            self.files[name] = re.search(part, text, re.S)[1]
            return {"id": name}
        if request.method == "GET" and name == "batches":
            return {"data": [*self.batches.values()], "has_more": False}
        if request.method == "GET":
            return self.look(self.batches[name])
        body = json.loads(request.content)
        if name == "batches":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {"id": name, "status": "validating", **body}
            return self.batches[name]
        self.chats.append(request.headers["Idempotency-Key"])
        return self.completion(body)

    def completion(self, body):
        return faults.completion(body, self.answers[body["messages"][0]["content"]])

    def look(self, batch):
        done = batch["status"] != "validating"
        batch["status"] = "completed" if done else "in_progress"
        if done:
            self.work(batch)
        return batch

    def work(self, batch):
        """Answer the lines of a batch's file into an output and an error file."""
        lines = {"output": [], "error": []}
        for number, row in enumerate(self.files[batch["input_file_id"]].splitlines()):
            row, good = json.loads(row), number % 5 != 4
            body = self.completion(row["body"]) if good else {"error": "busy"}
            response = {"status_code": 200 if good else 500, "body": body}
            line = {"custom_id": row["custom_id"], "response": response, "error": None}
            lines["output" if good else "error"].append(json.dumps(line))
        for name, rows in lines.items():
            self.files[f"{name}-{batch['id']}"] = "\n".join(rows)
            batch[f"{name}_file_id"] = f"{name}-{batch['id']}"


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://provider/v1")
    monkeypatch.setenv("OPENAI_API_KEY", faults.KEY)
    return Provider()


@pytest.fixture
def opened(provider, tmp_path):
    """Opens a client with its batches: (client, notes, what was said, requests)."""

    def client_of(live=True, **changes):
        chosen = {"llm_retries": 0, **changes}
        settings = faults.settings_for(tmp_path / "s.sqlite", **chosen)
        transport = HTTP.MockTransport(lambda request: provider(request))
        client, said = Client(settings, transport=transport), []
        made = batches.Batches(client, said.append, live, poll_s=0)
        client.prefetch = made.run
        return client, made.notes, said, faults.requests_of(40, settings)

    return client_of


def test_a_part_failed_batch_is_finished_live(provider, opened):
    client, notes, said, requests = opened()
    client.server.without = {"top_p", "max_tokens"}
    answers = client.complete_many(requests)
    assert [a.key for a in answers] == [r.key for r in requests]
    assert len(provider.batches) == 1 and len(client.store) == 40
    failed = [r.key for n, r in enumerate(requests) if n % 5 == 4]
    assert sorted(provider.chats) == sorted(failed)
    assert client.attempts == client.requested == 8  # files and looks are none
    assert json.loads(notes.read_text()) == []
    assert any("32 answers, 8 without one; 8: busy" in line for line in said)
    wanted = provider.answers[requests[0].messages[0]["content"]]
    assert (answers[0].text, answers[0].usage["completion_tokens"]) == (wanted, 200)
    client.complete_many(requests)
    assert len(provider.batches) == 1 and len(provider.chats) == 8
    # a line of the file carries a request as it would be asked live
    rows = [json.loads(row) for row in provider.files["file-0"].splitlines()]
    assert [row["custom_id"] for row in rows] == [r.key for r in requests]
    place = next(n for n, request in enumerate(requests) if request.schema == "seed")
    body, request = rows[place]["body"], requests[place]
    assert body["messages"] == list(request.messages)
    assert body["response_format"]["json_schema"]["name"] == "seed"
    assert body["max_completion_tokens"] == request.decoding["max_tokens"]
    assert not {"top_p", "max_tokens"} & set(body)


def test_what_a_batch_leaves_is_not_asked_live_unless_the_user_says_so(
    provider, opened
):
    client, *_, requests = opened(live=False)
    with pytest.raises(LabError, match=r"8 of 40 requests .*--live"):
        client.complete_many(requests)
    assert len(client.store) == 32 and not provider.chats
    client, *_ = opened(live=False)
    with pytest.raises(LabError, match="1 of 8 "):  # in a batch again, however few
        client.complete_many([r for r in requests if not client.find(r)])
    assert len(provider.batches) == 2 and not provider.chats


def test_a_batch_that_failed_as_a_whole_is_named_and_nothing_is_asked_live(
    provider, opened
):
    fault = {"code": "token_limit_exceeded", "message": "Enqueued limit: 90,000"}
    errors = {"object": "list", "data": [fault]}
    provider.work = lambda batch: batch.update(status="failed", errors=errors)
    client, _, said, requests = opened(live=False)
    with pytest.raises(LabError, match="40 of 40 requests"):
        client.complete_many(requests)
    reason = "token_limit_exceeded Enqueued limit: 90,000"
    assert said[-1].endswith(f"failed: 0 answers, 40 without one; 40: {reason}")
    assert not provider.chats


def test_few_requests_are_asked_live(provider, opened):
    client, *_, requests = opened()
    client.complete_many(requests[: batches.FEWEST - 1])
    assert not provider.batches and len(provider.chats) == batches.FEWEST - 1


def killed(opened, provider, deadly, count=40, **changes):
    """Ask, and be killed at a path; returns a client opened after it."""
    provider.deadly = deadly
    client, *_, requests = opened(**changes)
    with pytest.raises(Killed):
        client.complete_many(requests[:count])
    provider.deadly = ""
    client, notes, _, requests = opened(**changes)
    assert json.loads(notes.read_text())
    return client, notes, requests


# before it is created, and while it is worked on
@pytest.mark.parametrize("deadly", ["batches", "batch-0"])
def test_a_broken_run_waits_for_its_batch_and_submits_it_once(deadly, provider, opened):
    client, notes, requests = killed(opened, provider, deadly)
    client.complete_many(requests)
    assert len(provider.batches) == 1 and len(client.store) == 40
    assert len([name for name in provider.files if name.startswith("file-")]) == 1
    assert json.loads(notes.read_text()) == []


def test_a_batch_of_other_requests_is_left_for_the_run_that_asked(provider, opened):
    client, notes, _ = killed(opened, provider, "batch-0", 20)
    client.complete_many(faults.requests_of(50, client.settings)[10:])  # some of them
    assert len(provider.batches) == 2
    assert json.loads(notes.read_text())[0]["batch"] == "batch-0"


@pytest.fixture
def priced(tmp_path):
    """Settings under which 300 tokens cost 1 + 4 = 5 live, and half by batch."""
    path = tmp_path / "prices.csv"
    columns = ",".join(costs.Price.model_fields)
    path.write_text(f"{columns}\nserved,10000,20000,0.5,XYZ,2026-11\n")
    return {"llm_prices": str(path), "llm_max_tokens": 400}


def test_a_batch_that_may_pass_the_budget_is_not_uploaded(provider, opened, priced):
    client, notes, _, requests = opened(llm_max_cost=160, **priced)  # 40 take 100
    with pytest.raises(costs.BudgetReached, match=r"of 40 requests .*--max-cost.*or "):
        client.complete_many(requests)
    assert not provider.files and not provider.chats and not notes.exists()
    most = costs.price_of(client.settings).cost(
        sum(r.tokens for r in requests), 400 * len(requests)
    )
    client, *_ = opened(llm_max_cost=most / 2, **priced)
    client.complete_many(requests)
    assert len(client.store) == 40
    assert client.budget.spent == pytest.approx(32 * 2.5 + 8 * 5)


def test_a_batch_of_an_earlier_run_is_counted_once_at_its_price(
    provider, opened, priced
):
    budget = {"llm_max_cost": 1e4, **priced}
    client, _, requests = killed(opened, provider, "batch-0", live=False, **budget)
    usage = {"prompt_tokens": 100, "completion_tokens": 200}
    kept = Answer(requests[0].key, "of a merge that was broken off", usage)
    client.store.keep(requests[0], kept)
    with pytest.raises(LabError, match="1 of 39"):
        client.complete_many(requests)
    # what the first batch left without an answer, and no more, is in a second
    file = provider.files[provider.batches["batch-1"]["input_file_id"]]
    assert len(file.splitlines()) == 8
    assert client.budget.spent == pytest.approx(5 + 38 * 2.5)
    client, *_ = opened(**budget)
    assert client.budget.spent == pytest.approx(39 * 5)  # the store does not say how


def test_a_refusal_is_one_line_without_the_key(provider, opened, monkeypatch):
    error = {"error": {"message": f"bad key: Bearer {faults.KEY}"}}
    refused = HTTP.Response(401, json=error)
    monkeypatch.setattr(Provider, "__call__", lambda self, request: refused)
    client, *_, requests = opened()
    with pytest.raises(LabError, match="could not be submitted") as caught:
        client.complete_many(requests)
    assert "planted" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "without a word"),
        ({"response": None, "error": {"code": "batch_expired"}}, "batch_expired"),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, "empty choices"),
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "no"}}}},
            "no",
        ),
        ({"response": {"status_code": 500, "body": {}}}, "without a word"),
        (
            {"response": {"body": {"error": {"code": "content_filter"}}}},
            "content_filter",
        ),
    ],
)
def test_a_line_that_is_no_answer_tells_its_reason_or_finish(more, reason):
    request = chat_request("a", "x", "", resolve())
    lines = ["", "{", "[]", '{"custom_id": "other"}']  # of no request: left out
    text = "\n".join([*lines, json.dumps({"custom_id": "k", **more})])
    ((key, said),) = batches.answers_in(text, {"k": request})
    assert key == request.key
    assert (said if isinstance(said, str) else said.finish) == reason
