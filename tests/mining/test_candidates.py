"""The candidate table: exact, deterministic, deepened, bound to what made it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from worlds import CORPUS, Given, grid

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.mining import scoring
from nbutils.mining.candidates import Search, search_stored
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine_until_full
from nbutils.mining.teachers import BM25Teacher


def one(teacher, positives, depth=2):
    """The search of one query among five documents."""
    data = RetrievalSet("one", {"q": "ask"}, CORPUS, {"q": positives})
    return Search(teacher, data, depth)


def test_the_table_is_a_full_sort_whatever_the_blocks(monkeypatch):
    """Equal scores stand in the documents' order; positives below are scored too."""
    teacher, data = grid(30, 50, levels=3)
    monkeypatch.setattr(scoring, "BYTES", 4 * 50 * 7)
    data = replace(data, positives={q: ["d49", "d0"] for q in data.queries})
    found = Search(teacher, data, 10).candidates()
    assert teacher.calls == [7, 7, 7, 7, 2]
    scores = np.array(list(teacher.given.values()), np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    assert found.documents.tolist() == order.tolist()
    assert (found.scores == np.take_along_axis(scores, order, axis=1)).all()
    assert found.positive_score.tolist() == scores[:, [49, 0]].ravel().tolist()
    assert found.table["document_id"].tolist() == [f"d{n}" for n in order.ravel()]
    assert found.positives["document_id"].tolist() == ["d49", "d0"] * 30


def test_deepening_ends_when_the_corpus_has_no_more():
    search = one(Given({"ask": [0.9, 0.8, 0.7, 0.6, 0.1]}), ["starter"])
    recipe = {"mining_method": "abs", "abs_threshold": 0.5, "negatives_per_query": 3}
    mined = mine_until_full(prepare(search.candidates()), search, **recipe)
    assert mined.negatives["document_id"].tolist() == ["moon"]
    assert mined.shortfalls["found"].tolist() == [1]


def test_anything_that_changes_the_table_changes_the_fingerprint():
    teacher, data = grid(3, 9)
    others = [
        Search(grid(3, 9, seed=1)[0], data, 4),
        Search(teacher, replace(data, queries={**data.queries, "q1": "other"}), 4),
        Search(teacher, replace(data, corpus=data.corpus.assign(text="other")), 4),
        Search(teacher, replace(data, positives={**data.positives, "q1": ["d8"]}), 4),
        Search(teacher, data, 5),
        Search(teacher, data, 4, index="Flat"),
    ]
    names = {search.fingerprint for search in [Search(teacher, data, 4), *others]}
    assert len(names) == 7


def test_a_stored_search_is_not_repeated_but_a_stale_one_is_replaced(tmp_path):
    teacher, data = grid(3, 9)
    path = tmp_path / "table.parquet"
    first = search_stored(path, Search(teacher, data, 4))
    teacher.calls.clear()
    again = search_stored(path, Search(teacher, data, 4))
    assert teacher.calls == [] and again.teacher == "given"
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.positives, again.positives)
    deeper = search_stored(path, Search(teacher, data, 5))
    assert teacher.calls == [3] and len(deeper) == 15
    for damage in (path.read_bytes()[:-50], b""):
        path.write_bytes(damage)
        teacher.calls.clear()
        assert search_stored(path, Search(teacher, data, 5)).table.equals(deeper.table)
        assert teacher.calls == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": CORPUS[:0]}, "no documents to mine from"),
        ({"corpus": pd.concat([CORPUS, CORPUS])}, "'bread' stands twice"),
        ({"queries": {}}, "no queries"),
        ({"positives": {"q": []}}, "'q' has no labelled positive"),
        ({"positives": {"q": ["cake"]}}, "document 'cake' .* not in the corpus"),
        ({"excluded": {"q": ["cake"]}}, "document 'cake' .* not in the corpus"),
    ],
)
def test_misuse_is_one_clear_line(change, message):
    data = RetrievalSet("one", {"q": "bread"}, CORPUS, {"q": ["bread"]})
    with pytest.raises(LabError, match=message) as caught:
        prepare(Search(BM25Teacher(), replace(data, **change), 3).candidates())
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_numbers_and_an_index_without_vectors_are_refused():
    with pytest.raises(LabError, match="not numbers"):
        one(Given({"ask": [0.1, np.nan, 0.2, 0.3, 0.4]}), ["bread"]).candidates()
    search = replace(one(BM25Teacher(), ["bread"]), index="Flat")
    with pytest.raises(LabError, match="'bm25' has no vectors to `index`"):
        search.candidates()
