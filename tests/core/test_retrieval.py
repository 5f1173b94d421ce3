"""Retrieval sets in BEIR's format: what is read, and faults in one clear line."""

import json

import pytest

from nbutils.core.errors import LabError
from nbutils.core.retrieval import read_set


@pytest.fixture
def folder(tmp_path):
    """Three documents, one without a text; three queries, two with positives."""
    documents = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "2"}]
    documents.append({"_id": "empty", "title": "", "text": ""})
    queries = [{"_id": f"q{n}", "text": f"ask {n}"} for n in (1, 2, 3)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "qrels").mkdir()
    rows = [("query-id", "corpus-id", "score"), ("q2", "d2", 1), ("q2", "d1", 2)]
    rows += [("q1", "d1", 1), ("q3", "d1", 0)]
    table = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "qrels" / "dev.tsv").write_text(table)
    return tmp_path


def test_a_set_is_the_queries_with_positives_and_every_document_with_a_text(folder):
    data = read_set(folder, "dev")
    assert data.name == folder.name
    assert data.queries == {"q2": "ask 2", "q1": "ask 1"}
    assert data.positives == {"q2": ["d2", "d1"], "q1": ["d1"]}
    assert data.corpus["id"].tolist() == ["d1", "d2"]
    assert data.corpus["text"].tolist() == ["T\none", "2"]


BAD = {
    "no split 'train' in BEIR's format: it has dev": lambda f: None,
    "it has no qrels": lambda f: (f / "qrels" / "dev.tsv").unlink(),
    "needs the columns query-id": lambda f: train(f, "a\tb\nc\td\n"),
    "marks no positive": lambda f: train(f, "query-id\tcorpus-id\tscore\nq1\td1\t0\n"),
    "no text of 'd99', which the qrels name": lambda f: train(
        f, "query-id\tcorpus-id\tscore\nq1\td99\t1\n"
    ),
    "no text of 'q99', which the qrels name": lambda f: train(
        f, "query-id\tcorpus-id\tscore\nq99\td1\t1\n"
    ),
    "id 'd1' stands twice": lambda f: both(f, '{"_id": "d1", "text": "x"}\n' * 2),
    "a line has no text `_id`": lambda f: both(f, '{"id": "d1", "text": "x"}\n'),
    "corpus.jsonl, line 1": lambda f: both(f, "{not json\n"),
    "corpus.jsonl does not exist": lambda f: (
        train(f, "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
        (f / "corpus.jsonl").unlink(),
    ),
}


def train(folder, text):
    (folder / "qrels" / "train.tsv").write_text(text)


def both(folder, text):
    train(folder, "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (folder / "corpus.jsonl").write_text(text)


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_clear_line(folder, message):
    BAD[message](folder)
    with pytest.raises(LabError) as caught:
        read_set(folder, "train")
    assert message in str(caught.value) and "\n" not in str(caught.value)
