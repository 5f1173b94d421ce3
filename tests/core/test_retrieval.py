"""Retrieval sets in BEIR's format: what is read, and faults in one clear line."""

import gzip
import json

import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbutils.core.errors import LabError
from nbutils.core.files import write_table
from nbutils.core.retrieval import pair_set, read_set

HEAD = "query-id\tcorpus-id\tscore\n"
FILES = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv")


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


D1 = {"_id": "d1", "title": "T", "text": "one"}
GOOD = [
    lines(D1, {"_id": "d2", "text": "2"}, {"_id": "no", "title": " ", "text": ""}),
    lines(*({"_id": f"q{n}", "text": f"ask {n}"} for n in (1, 2, 3))),
    f"{HEAD}q2\td2\t1\nq2\td1\t2\nq1\td1\t1\nq1\td1\t1\nq3\td1\t0\n",
]


@pytest.fixture
def written(tmp_path):
    """Writes the good set with some of its files (corpus, queries, qrels) otherwise."""

    def write(**changes):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        for name, text in zip(FILES, GOOD, strict=True):
            text = changes.get(name.partition(".")[0].partition("/")[0], text)
            data = text if isinstance(text, bytes) else text.encode()
            (tmp_path / name).write_bytes(data)
        return tmp_path

    return write


@pytest.mark.parametrize("change", ["none", "BOM", "CRLF", "NaN", "null", "gz"])
def test_a_set_is_queries_with_positives_and_documents_with_a_text(change, written):
    """As others write it: with a byte order mark, CRLF, NaN for no title, packed."""
    folder = written()
    for path in map(folder.joinpath, FILES):
        if change == "BOM":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        elif change == "CRLF":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n"))
        elif change in ("NaN", "null"):
            path.write_text(path.read_text().replace('" "', change))
        elif change == "gz" and path.suffix == ".jsonl":
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    data = read_set(folder)
    assert data.name == folder.name
    assert data.queries == {"q2": "ask 2", "q1": "ask 1"}
    assert data.positives == {"q2": ["d2", "d1"], "q1": ["d1"]}
    assert data.corpus.to_dict("list") == {"id": ["d1", "d2"], "text": ["T\none", "2"]}
    assert data.grades == {"q2": {"d1": 2}}


BAD = [
    ({"qrels": "a\tb\nc\td\n"}, "train.tsv, line 1: it needs the columns query-id"),
    ({"qrels": f"{HEAD}q1\td1\t0\n"}, "marks no positive"),
    ({"qrels": f"{HEAD}q1\td1\t1\nq1 d1 1\n"}, "line 3: it needs the columns"),
    ({"qrels": f"{HEAD}q1\td1\tnan\n"}, "train.tsv, line 2: .*a number"),
    ({"qrels": f"{HEAD}q1\td1\t{'9' * 5000}\n"}, "train.tsv, line 2: .*a number"),
    ({"qrels": f"{HEAD}q1\td1\t1\n".encode("utf-16")}, "line 1: not in UTF-8"),
    ({"qrels": HEAD.encode() + b"q1\t\xe9\t1\n"}, "train.tsv, line 2: not in UTF-8"),
    ({"corpus": lines(D1, D1)}, "id 'd1' stands twice"),
    ({"corpus": '{"id": "d", "text": "x"}\n'}, "corpus.jsonl, line 1: _id: .*required"),
    ({"corpus": "{not json\n"}, "corpus.jsonl, line 1: .*JSON"),
    ({"corpus": lines(D1, 3)}, "corpus.jsonl, line 2: .*object"),
    ({"corpus": lines(D1, {"_id": 7})}, "line 2: _id: .*string"),
    ({"corpus": lines({"_id": "d1", "text": ["a"]})}, "line 1: text: .*string"),
    ({"corpus": lines({"_id": "d1", "title": 1984})}, "line 1: title: .*string"),
    ({"corpus": lines(D1, {"_id": "d\ud83d"})}, "line 2: .*hex escape"),
    ({"corpus": f'{{"_id": "x", "n": {"9" * 5000}}}'}, "line 1: .*number out of range"),
    ({"corpus": lines(D1).encode("utf-16")}, "corpus.jsonl, line 1: not in UTF-8"),
    ({"queries": b'\n{"_id": "q1", "text": "caf\xe9"}'}, "queries.jsonl, line 2: not"),
    ({"queries": "[" * 100_000}, "queries.jsonl, line 1: .*recursion"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_is_one_line_with_file_and_line(change, message, written):
    with pytest.raises(LabError, match=message) as caught:
        read_set(written(**change))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_split_or_file_is_named(written, tmp_path):
    with pytest.raises(LabError, match="nosuch is no folder: give one that holds"):
        read_set(tmp_path / "nosuch")
    written()
    with pytest.raises(LabError, match="no split 'dev' in BEIR's format: it has train"):
        read_set(tmp_path, "dev")
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(LabError, match=r"corpus\.jsonl does not exist"):
        read_set(tmp_path)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(GOOD[0].encode())[:-9])
    with pytest.raises(LabError, match=r"corpus\.jsonl\.gz, after line .: "):
        read_set(tmp_path)
    (tmp_path / "qrels" / "train.tsv").unlink()
    with pytest.raises(LabError, match="it has no qrels"):
        read_set(tmp_path)


def test_what_the_files_lack_is_listed_at_once_and_can_be_left_out(written):
    more = "q1\tgone\t1\nq9\td1\t1\nq3\tno\t1\nq2\talso\t0\n"
    folder = written(qrels=GOOD[2] + more)
    named = "queries.jsonl has no text of 1: 'q9'; corpus.jsonl has no text of 2: "
    with pytest.raises(LabError, match=f"{named}'gone', 'no': .*--skip-missing"):
        read_set(folder)
    said = []
    data = read_set(folder, skip_missing=True, say=said.append)
    assert data.positives == {"q2": ["d2", "d1"], "q1": ["d1"]}
    assert len(said) == 1 and said[0].startswith("left out: ") and named in said[0]
    written(qrels=f"{HEAD}q9\td1\t1\n")
    with pytest.raises(LabError, match="has a positive with a text"):
        read_set(folder, skip_missing=True, say=said.append)


PAIRS = [("ask 2", "two"), ("ask 1", "one"), ("ask 2", "one"), ("ask 2", "two")]


@pytest.mark.parametrize("form", ["Dataset", "rows", "csv", "parquet", "jsonl"])
def test_pairs_of_a_query_and_a_positive_are_a_set(form, tmp_path):
    frame = pd.DataFrame(PAIRS, columns=["anchor", "positive"]).assign(label=1)
    if form == "Dataset":
        data = pair_set(Dataset.from_pandas(frame))
    elif form == "rows":
        data = pair_set(PAIRS, corpus=["3", "one"])
        assert data.corpus["text"].tolist() == ["two", "one", "3"]
    else:
        path = tmp_path / f"pairs.{form}"
        if form == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            write_table(path, frame)
        data = read_set(path)
        assert data.name == "pairs"  # of which results are named
    assert list(data.queries.values()) == ["ask 2", "ask 1"]
    assert data.corpus["text"].tolist()[:2] == ["two", "one"]
    texts = data.corpus.set_index("id")["text"]
    told = [[texts[i] for i in own] for own in data.positives.values()]
    assert told == [["two", "one"], ["one"]]
    again = pair_set(PAIRS[::-1])  # names are those of the texts, in any order
    assert again.queries == data.queries
    assert {q: {*own} for q, own in again.positives.items()} == {
        q: {*own} for q, own in data.positives.items()
    }


def test_words_that_pandas_takes_for_nothing_and_numbers_are_texts(tmp_path):
    (tmp_path / "pairs.csv").write_text("q,a\nwhich?,None\nwhen?,1984\n07,N/A\n")
    data = read_set(tmp_path / "pairs.csv")
    assert list(data.queries.values()) == ["which?", "when?", "07"]
    assert data.corpus["text"].tolist() == ["None", "1984", "N/A"]
    (tmp_path / "pairs.csv").write_text("q,a\nwhich?,\n")
    with pytest.raises(LabError, match="row 1: nan is no text"):
        read_set(tmp_path / "pairs.csv")


@pytest.mark.parametrize("value", [None, 3, float("nan"), " ", ["a"], {"text": "a"}])
def test_a_pair_without_a_text_is_named_by_its_row(value):
    for pair in (("a", value), (value, "a")):
        with pytest.raises(LabError, match=r"pairs, row 2: .* is no text"):
            pair_set([("a", "b"), pair])
    with pytest.raises(LabError, match="two columns"):
        pair_set([("a",)])
    for pairs, corpus in (([("a", "\ud83d")], []), ([("a", "b")], ["\ud83d"])):
        with pytest.raises(LabError, match="half a character"):
            pair_set(pairs, corpus)


ODD = [None, 3, float("nan"), float("inf"), 10**400, ["a"], {}, "", " ", "d1", "é"]
odd = st.sampled_from([*ODD, "\ud83d", "a\0b", "x\u2028y"]) | st.text()
rows = st.dictionaries(st.sampled_from(["_id", "text", "title", "n"]), odd)
cells = st.lists(odd.map(str), min_size=2, max_size=4).map("\t".join)
raw = st.binary(max_size=40) | st.sampled_from([b"q1\td1\t1", b"\xef\xbb\xbf", b"\r"])
line = (
    rows.map(lambda row: json.dumps(row).encode())
    | cells.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | raw
)


@given(name=st.sampled_from(FILES), line=line, first=st.booleans(), skip=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_line_is_read_or_refused_by_name(written, name, line, first, skip):
    folder = written()
    kept = (folder / name).read_bytes()
    whole = line + b"\n" + kept if first else kept + line + b"\n"
    (folder / name).write_bytes(whole)
    try:
        data = read_set(folder, skip_missing=skip, say=lambda told: None)
    except LabError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    else:
        assert set(data.positives) == set(data.queries)
        texts = [*data.queries.values(), *data.corpus["text"]]
        assert all(text.strip() and text.encode() for text in texts)
