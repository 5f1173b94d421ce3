"""Batch files against a server on loopback: written, fetched, merged, resumed."""

import json
import re

import faults
import pytest

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm import batches
from nbutils.llm.client import Client
from nbutils.llm.store import chat_request


class BatchServer(faults.FaultServer):
    """The provider's /files and /batches, and chat; every fifth line of a batch fails.

    A batch is in progress at the first look, and completed at the second.
    """

    def __init__(self):
        super().__init__(handler=_Handler)
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict] = {}
        self.chats: list[str] = []

    def work(self, batch: dict) -> None:
        """Answer the lines of a batch's file into an output and an error file."""
        done, failed = [], []
        rows = [json.loads(r) for r in self.files[batch["input_file_id"]].splitlines()]
        for number, row in enumerate(rows):
            good = number % 5 != 4
            body = self.completion(row["body"]) if good else {"error": "busy"}
            response = {"status_code": 200 if good else 500, "body": body}
            line = {"custom_id": row["custom_id"], "response": response, "error": None}
            (done if good else failed).append(json.dumps(line))
        for name, lines in (("output", done), ("error", failed)):
            self.files[f"{name}-{batch['id']}"] = "\n".join(lines)
            batch[f"{name}_file_id"] = f"{name}-{batch['id']}"


class _Handler(faults._Handler):
    def do_POST(self):
        server = self.server
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if server.status != 200:
            return self._json({"error": {"message": self.headers["Authorization"]}})
        if self.path.endswith("/files"):
            name = f"file-{len(server.files)}"
            part = r'filename="requests.jsonl".*?\r\n\r\n(.*?)\r\n--'
            server.files[name] = re.search(part, data.decode(), re.S)[1]
            return self._json({"id": name, "object": "file", "bytes": 1,
                               "created_at": 0, "filename": "r", "purpose": "batch",
                               "status": "processed"})  # fmt: skip
        body = json.loads(data)
        if self.path.endswith("/batches"):
            name = f"batch-{len(server.batches)}"
            server.batches[name] = {
                "id": name, "object": "batch", "endpoint": body["endpoint"],
                "input_file_id": body["input_file_id"], "created_at": 0,
                "completion_window": "24h", "status": "in_progress", "looks": 0,
            }  # fmt: skip
            return self._json(server.batches[name])
        server.chats.append(self.headers["Idempotency-Key"])
        return self._json(server.completion(body))

    def do_GET(self):
        server = self.server
        if self.path.endswith("/content"):
            return self._json(server.files[self.path.split("/")[-2]])
        name = self.path.split("?")[0].split("/")[-1]
        if name == "batches":
            data = list(server.batches.values())
            return self._json({"object": "list", "data": data, "has_more": False})
        batch = server.batches[name]
        batch["looks"] += 1
        if batch["looks"] > 1 and batch["status"] == "in_progress":
            batch["status"] = "completed"
            server.work(batch)
        return self._json(batch)

    def _json(self, value):
        payload = (value if isinstance(value, str) else json.dumps(value)).encode()
        self._send(self.server.status, "application/json", payload, len(payload))


@pytest.fixture
def server(server, monkeypatch):
    made = BatchServer()
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    yield made
    made.shutdown()
    made.server_close()


def client_of(folder, live=True):
    settings = faults.settings_for(folder / "s.sqlite", llm_retries=0)
    client, said = Client(settings), []
    made = batches.Batches(client, said.append, live, poll_s=0)
    client.prefetch = made.run
    return client, made, said, faults.requests_of(40, settings)


def test_a_part_failed_batch_is_finished_live(server, tmp_path):
    client, made, said, requests = client_of(tmp_path)
    answers = client.complete_many(requests)
    assert [a.key for a in answers] == [r.key for r in requests]
    assert len(server.batches) == 1 and len(client.store) == 40
    failed = [r.key for n, r in enumerate(requests) if n % 5 == 4]
    assert sorted(server.chats) == sorted(failed)
    assert json.loads(made.notes.read_text()) == []
    assert any("32 answers, 8 without one; 8: busy" in line for line in said)
    wanted = server.answers[requests[0].messages[0]["content"]]
    assert (answers[0].text, answers[0].usage["completion_tokens"]) == (wanted, 200)
    client.complete_many(requests)
    assert len(server.batches) == 1 and len(server.chats) == 8


def test_what_a_batch_leaves_is_not_asked_live_unless_the_user_says_so(
    server, tmp_path
):
    client, *_, requests = client_of(tmp_path, live=False)
    with pytest.raises(LabError, match=r"8 of 40 requests .*--live"):
        client.complete_many(requests)
    assert len(client.store) == 32 and not server.chats
    client, *_ = client_of(tmp_path, live=False)
    with pytest.raises(LabError, match="1 of 8 "):  # in a batch again, however few
        client.complete_many([r for r in requests if not client.find(r)])
    assert len(server.batches) == 2 and not server.chats


def test_a_batch_that_failed_as_a_whole_is_named_and_nothing_is_asked_live(
    server, tmp_path, monkeypatch
):
    def fail(self, batch):
        fault = {"code": "token_limit_exceeded", "message": "Enqueued limit: 90,000"}
        batch |= {"status": "failed", "errors": {"object": "list", "data": [fault]}}

    monkeypatch.setattr(BatchServer, "work", fail)
    client, _, said, requests = client_of(tmp_path, live=False)
    with pytest.raises(LabError, match="40 of 40 requests"):
        client.complete_many(requests)
    assert said[-1].endswith(
        "failed: 0 answers, 40 without one; 40: token_limit_exceeded Enqueued limit: "
        "90,000"
    )
    assert not server.chats


def test_a_line_carries_the_request_as_it_would_be_asked_live(server, tmp_path):
    client, _, _, requests = client_of(tmp_path)
    client.server.without = {"top_p", "max_tokens"}
    client.complete_many(requests)
    rows = [json.loads(row) for row in server.files["file-0"].splitlines()]
    assert [row["custom_id"] for row in rows] == [r.key for r in requests]
    body, request = next(
        (row["body"], request)
        for row, request in zip(rows, requests, strict=True)
        if request.schema == "seed"
    )
    assert body["messages"] == list(request.messages)
    assert body["response_format"]["json_schema"]["name"] == "seed"
    assert body["max_completion_tokens"] == request.decoding["max_tokens"]
    assert "top_p" not in body and "max_tokens" not in body


def test_few_requests_are_asked_live(server, tmp_path):
    client, _, _, requests = client_of(tmp_path)
    client.complete_many(requests[: batches.FEWEST - 1])
    assert not server.batches and len(server.chats) == batches.FEWEST - 1


class Killed(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize("where", ["before it was created", "while it was worked on"])
def test_a_broken_run_waits_for_its_batch_and_submits_it_once(
    where, server, tmp_path, monkeypatch
):
    client, made, _, requests = client_of(tmp_path)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if where == "before it was created":
            patch.setattr(batches.Batches, "_started", die)
        else:
            patch.setattr(batches.time, "sleep", die)
        with pytest.raises(Killed):
            client.complete_many(requests)
    assert made.notes.is_file()
    client, made, _, requests = client_of(tmp_path)
    client.complete_many(requests)
    assert len(server.batches) == 1 and len(client.store) == 40
    assert len([name for name in server.files if name.startswith("file-")]) == 1
    assert json.loads(made.notes.read_text()) == []


def test_a_batch_of_other_requests_is_left_for_the_run_that_asked(server, tmp_path):
    client, made, _, requests = client_of(tmp_path)
    made._submit(requests[:20])
    more = faults.requests_of(80, client.settings)[40:]
    client.complete_many(more)
    assert len(server.batches) == 2
    assert json.loads(made.notes.read_text())[0]["batch"] == "batch-0"


def test_a_refusal_is_one_line_without_the_key(server, tmp_path):
    client, _, _, requests = client_of(tmp_path)
    server.status = 401
    with pytest.raises(LabError, match="could not be submitted") as caught:
        client.complete_many(requests)
    assert "planted" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [("", None), ("{", None), ("[]", None), ('{"custom_id": "other"}', None),
     ('{"custom_id": "k"}', "without a word"),
     ('{"custom_id": "k", "response": null, "error": {"code": "batch_expired"}}',
      "batch_expired"),
     ('{"custom_id": "k", "response": {"status_code": 200, "body": {"choices": []}}}',
      "empty choices"),
     ('{"custom_id": "k", "response": {"status_code": 400, "body": {"error": '
      '{"message": "no max_tokens"}}}}', "no max_tokens"),
     ('{"custom_id": "k", "response": {"status_code": 500, "body": {}}}',
      "without a word")],
)  # fmt: skip
def test_a_line_that_is_no_answer_tells_its_reason(row, reason):
    request = chat_request("a", "x", "", resolve())
    found = [said for _, said in batches.answers_in(row, {"k": request})]
    assert found == [reason] * (reason is not None)


def test_a_filtered_line_is_an_answer_as_it_is_live():
    request = chat_request("a", "x", "", resolve())
    body = {"error": {"code": "content_filter", "message": "no"}}
    row = {"custom_id": "k", "response": {"status_code": 400, "body": body}}
    ((_, answer),) = batches.answers_in(json.dumps(row), {"k": request})
    assert (answer.text, answer.finish) == ("", "content_filter")
