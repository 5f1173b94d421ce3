"""Training data: nothing held out, no right answer as a negative, foreign rows said."""

import pandas as pd
import pytest

from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_table
from nbutils.core.records import GradedExample, Records, RetrievalItem, read_records
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import resolve
from nbutils.core.text import normalise
from nbutils.training import instances


@pytest.fixture(scope="module")
def records():
    return read_records(resolve())


def test_nothing_held_out_and_none_of_its_own_is_an_instances_negative(records):
    held_out = {
        normalise(text)
        for record in [*records.graded, *records.items]
        if record.split != "train"
        for text in (record.query, *record.documents().values())
    }
    data = instances.training_data(records)
    assert len(data) == 738 and sum(bool(i.retrieved) for i in data) > 700
    for i in data:
        own = {i.query, i.positive, *i.graded.values()}
        assert not own & set(i.retrieved), i.id
        assert not {*map(normalise, (*own, *i.synthetic, *i.retrieved))} & held_out


def test_foreign_rows_are_left_out_and_a_foreign_table_is_refused(
    records, tmp_path, capsys
):
    path = tmp_path / "mined.parquet"
    with pytest.raises(LabError, match="does not exist"):
        instances.training_data(records, path)
    table = read_table(instances.MINED)
    held_out = next(g for g in records.graded if g.split == "held-out-tasks")
    foreign = table.head(3).assign(document_id=f"{held_out.id}/P")
    write_table(path, pd.concat([table, foreign]))
    assert instances.training_data(records, path) == instances.training_data(records)
    assert "3 of" in capsys.readouterr().out
    write_table(path, foreign)
    with pytest.raises(LabError, match="run notebook 03 first"):
        instances.training_data(records, path)
    write_table(path, table.drop(columns="document_id"))
    with pytest.raises(LabError, match="no table of mined negatives"):
        instances.training_data(records, path)


def test_a_set_takes_mined_rows_by_names_that_look_like_numbers(tmp_path):
    corpus = pd.DataFrame({"id": ["07", "448"], "text": ["right", "wrong"]})
    data = RetrievalSet("own", {"1": "which?"}, corpus, {"1": ["07"]})
    mined = pd.DataFrame({"query_id": ["1"], "document_id": ["448"]})
    for path in (tmp_path / "mined.csv", tmp_path / "mined.parquet"):
        write_table(path, mined)
        (made,) = instances.set_instances(data, read_table(path))
        assert (made.positive, made.retrieved) == ("right", ("wrong",))
    with pytest.raises(LabError, match="document 'x' is mined and not in this set"):
        instances.set_instances(data, mined.assign(document_id="x"))
    with pytest.raises(LabError, match="no table of mined negatives"):
        instances.set_instances(data, pd.DataFrame({"anchor": ["which?"]}))
    with pytest.raises(LabError, match="no mined negative is for a query of this part"):
        instances.set_instances(data, mined.assign(query_id="2"))


def test_a_set_takes_the_ladders_that_were_written_for_its_queries(records):
    corpus = pd.DataFrame({"id": ["d"], "text": ["right"]})
    data = RetrievalSet(
        "own", {"1": "which?", "2": "who?"}, corpus, {"1": ["d"], "2": ["d"]}
    )
    ladder = records.graded[0].model_copy(update={"query": "which?"})
    one, other = instances.set_instances(data, graded=[ladder])
    assert tuple(one.graded.values()) == ladder.negatives and other.graded == {}
    with pytest.raises(LabError, match="no graded example is for a query"):
        instances.set_instances(data, graded=records.graded[:1])


def test_records_that_ask_the_same_share_their_positives(tmp_path):
    item = RetrievalItem(
        id="f/item/0", family="f", domain="d", query="What is it?", title="t",
        positives=("labelled", "planted", "b"), split="train",
    )  # fmt: skip
    changes = {"id": "f/item/1", "query": "what is it", "positives": ("own", "c", "d")}
    other = item.model_copy(update=changes)
    apart = item.model_copy(update={"id": "f/item/2", "query": "another"})
    example = GradedExample(
        id="f/mgh/0", family="f", group="sts", task_id="t", task="t", split="train",
        query="WHAT IS IT", positive="graded", negatives=("1", "2", "3", "4"),
    )  # fmt: skip
    pair = {"query_id": ["f/item/2"], "document_id": ["f/item/1/P0"]}
    write_table(tmp_path / "mined.parquet", pd.DataFrame(pair))
    records = Records(graded=[example], items=[item, other, apart])

    def known(which: str) -> dict[str, set[str]]:
        data = instances.training_data(records, tmp_path / "mined.parquet", which)
        assert {i.id: i.retrieved for i in data if i.retrieved} == {
            "f/item/2": ("own",)
        }
        return {i.id: set(i.known_positives) for i in data}

    assert known("labelled") == {
        "f/mgh/0": {"labelled", "own"}, "f/item/0": {"graded", "own"},
        "f/item/1": {"graded", "labelled"}, "f/item/2": set(),
    }  # fmt: skip
    whole = known("all")
    assert whole["f/item/2"] == {"planted", "b"}
    assert whole["f/mgh/0"] == {"labelled", "own", "planted", "b", "c", "d"}
