"""Training data: nothing held out, no right answer as a negative, foreign rows said."""

import pandas as pd
import pytest

from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_table
from nbutils.core.records import GradedExample, Records, RetrievalItem
from nbutils.core.settings import resolve
from nbutils.core.text import normalise
from nbutils.synthesis import generate
from nbutils.training import gradcache, instances


@pytest.fixture(scope="module")
def records():
    return generate.load(resolve())


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


def test_planted_positives_are_known_only_where_asked(records):
    planted = {
        known: sum(
            len(i.known_positives)
            for i in instances.training_data(records, known=known)
        )
        for known in ("labelled", "all")
    }
    items = sum(item.split == "train" for item in records.items)
    assert planted == {"labelled": 0, "all": 2 * items}


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


def test_records_that_ask_the_same_share_their_positives(tmp_path):
    """A third one's mined negative is a positive of the others: it stays there."""
    item = RetrievalItem(
        id="f/item/0", family="f", domain="d", query="What is it?", title="t",
        positives=("labelled answer", "second answer", "third answer"), split="train",
    )  # fmt: skip
    other = item.model_copy(update={
        "id": "f/item/1", "query": "what is it", "positives": ("own answer", "b", "c"),
    })  # fmt: skip
    apart = item.model_copy(update={
        "id": "f/item/2", "query": "free", "positives": ("far", "Second answer!", "e"),
    })  # fmt: skip
    example = GradedExample(
        id="f/mgh/0", family="f", group="sts", task_id="t", task="t", split="train",
        query="WHAT IS IT", positive="graded answer", negatives=("1", "2", "3", "4"),
    )  # fmt: skip
    pairs = [("f/item/0", "f/item/2/P1"), ("f/item/2", "f/item/1/P0")]
    table = pd.DataFrame(pairs, columns=["query_id", "document_id"])
    write_table(tmp_path / "mined.parquet", table)
    records = Records(graded=[example], items=[item, other, apart])
    settings = resolve("smoke", {"mixing": "retrieved", "retrieved_per_query": 1})

    def masked(known: str) -> dict[str, set[str]]:
        path = tmp_path / "mined.parquet"
        data = instances.training_data(records, path, known)
        batch = gradcache.make_batch(data, "N1", settings, 0)
        return {
            one.id: {t for t, out in zip(batch.documents, row, strict=True) if out}
            for one, row in zip(data, batch.excluded, strict=True)
        }

    asks = {"graded answer", "labelled answer", "own answer"}
    labelled, whole = masked("labelled"), masked("all")
    assert labelled["f/item/0"] == asks - {"labelled answer"}
    assert labelled["f/item/1"] >= asks - {"own answer"}
    assert labelled["f/mgh/0"] == asks - {"graded answer"}
    assert labelled["f/item/2"] == set()
    assert whole["f/item/0"] == labelled["f/item/0"] | {"Second answer!"}
    assert whole["f/mgh/0"] == labelled["f/mgh/0"] | {"Second answer!"}
    assert whole["f/item/2"] == {"Second answer!"}
