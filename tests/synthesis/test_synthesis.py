"""Synthesis: the plan, the parsers, the records, the ladder and the text-only check."""

from __future__ import annotations

import ast
import hashlib
import inspect
import shutil
from statistics import NormalDist

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import coverage
from sklearn.metrics import roc_auc_score

from nbutils.core import retrieval
from nbutils.core.errors import LabError
from nbutils.core.files import write_jsonl, write_sums
from nbutils.core.records import (
    GROUPS,
    KINDS,
    read_records,
)
from nbutils.core.sections import FAMILIES
from nbutils.core.settings import DATA, ROOT, resolve
from nbutils.core.text import distinct_n, has_spaces, normalise, words
from nbutils.synthesis import generate, ladder, overlap, plan


@pytest.fixture(scope="module")
def loaded():
    return generate.load(resolve())


# -- recordings and plan


def test_the_planned_requests_are_those_that_were_asked_and_all_differ():
    settings = resolve()
    requests = [r for family in FAMILIES for r, _ in plan.recorded(family)]
    prompts = {request.text for request in requests}
    keys = [request.chat(settings).key for request in requests]
    assert len(prompts) < len(requests) == len(set(keys)) == 1700  # by their sample
    asked = hashlib.sha256("".join(keys).encode()).hexdigest()
    assert (
        asked[:16] == "f6692f4a6cbbe89d"
    )  # of draws and templates: no prompt may change


def test_a_changed_or_missing_file_and_an_unknown_family_are_named(
    tmp_path, monkeypatch
):
    shutil.copytree(plan.RECORDINGS, tmp_path / "recordings")
    monkeypatch.setattr(plan, "RECORDINGS", tmp_path / "recordings")
    path, settings = plan.RECORDINGS / "answers/home.jsonl", {"families": ["home"]}
    path.write_bytes(path.read_bytes().replace(b"the", b"thE", 1))
    with pytest.raises(LabError, match=r"home\.jsonl is truncated or changed"):
        generate.open_client(resolve("workshop", settings))
    path.unlink()
    with pytest.raises(LabError, match=r"home\.jsonl is missing"):
        generate.open_client(resolve("workshop", settings))
    with pytest.raises(LabError, match="unknown family 'homes'; did you mean 'home'"):
        plan.recorded("homes")


# -- records


def test_counts_and_no_rejections(loaded):
    assert generate.counts(loaded) == {
        "tasks": 140, "graded": 840, "items": 336,
        "syneg_matched": 336, "syneg_free": 153, "rejections": 0,
    }  # fmt: skip


def test_nothing_held_out_is_in_train(loaded):
    last = dict(zip(GROUPS, (5, 3, 3, 2, 2), strict=True))
    for example in loaded.graded:
        _, _, group, number, k = example.id.split("/")
        held = example.family == "industry" or int(number) == last[group]
        assert held == example.split.startswith("held-out"), example.id
        assert (example.split == "dev") == (not held and k == "5"), example.id
    for record in (*loaded.items, *loaded.syneg):
        wanted = "held-out-family" if record.family == "industry" else "train"
        assert record.split == wanted
    for task in loaded.tasks:
        held = task.family == "industry" or task.index == last[task.group]
        assert held == (task.split != "train")


def test_records_point_at_each_other(loaded):
    tasks = {task.id: task.text for task in loaded.tasks}
    items = {item.id for item in loaded.items}
    assert all(tasks[e.task_id] == e.task for e in loaded.graded)
    assert all(e.item_id in items for e in loaded.syneg)


@pytest.mark.parametrize(
    ("profile", "changes"),
    [("workshop", {}), ("smoke", {}), ("smoke", {"families": ["home", "computing"]})],
)
def test_the_shipped_records_are_what_the_recordings_parse_to(profile, changes, loaded):
    settings = resolve(profile, changes)
    found = loaded if profile == "workshop" else generate.load(settings)
    assert read_records(settings) == found
    if changes:
        return
    assert {e.item_id for e in found.syneg} == {i.id for i in found.items}
    for family in settings.synthesis.families[:1]:
        own = [e for e in found.graded if e.family == family]  # also of a few
        assert {e.split for e in own} == {"train", "dev", "held-out-tasks"}
        assert {e.group for e in own} == set(GROUPS)


def test_records_of_a_run_are_read_and_a_changed_shipped_file_is_refused(
    tmp_path, loaded
):
    for kind in KINDS:
        write_jsonl(tmp_path / f"{kind}.jsonl", getattr(loaded, kind)[:1])
    found = read_records(resolve(), tmp_path)
    assert found.graded == loaded.graded[:1] and found.items == loaded.items[:1]
    write_sums(tmp_path)
    write_jsonl(tmp_path / "items.jsonl", [])
    with pytest.raises(LabError, match=r"items\.jsonl is truncated or changed"):
        read_records(resolve(), tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "tasks.jsonl").unlink()
    with pytest.raises(LabError, match=r"tasks\.jsonl does not exist"):
        read_records(resolve(), tmp_path)


def test_corpus_has_only_its_splits_and_merges_equal_texts(loaded):
    train = retrieval.passages(loaded.items, loaded.graded, ["train"])
    assert "industry" not in set(train["family"])
    splits = ["train", "dev", "held-out-tasks", "held-out-family"]
    everything = retrieval.passages(loaded.items, loaded.graded, splits)
    assert everything["ids"].map(len).sum() == 840 * 5 + 336 * 3
    assert everything["text"].map(normalise).is_unique and everything["id"].is_unique
    first = loaded.items[0]
    texts = (first.positives[0].upper(), "b", "c")
    twin = first.model_copy(update={"id": "x", "positives": texts})
    merged = retrieval.passages([first, twin], [], ["train"])
    assert merged.loc[0, "ids"] == [f"{first.id}/P0", "x/P0"]
    assert list(merged["kind"]) == ["P0", "P1", "P2", "P1", "P2"]


def test_repeats_are_dropped_with_a_named_reason(loaded):
    first = loaded.tasks[0]
    twin = first.model_copy(update={"id": "twin", "text": f"  {first.text.upper()}!"})
    made = [first, twin, loaded.tasks[1]], []
    kept, gone = generate.without(made, "text", overlap.repeats, "duplicate_task")
    assert kept == [first, loaded.tasks[1]]
    assert [(r.id, r.reason) for r in gone] == [("twin", "duplicate_task")]
    assert first.id in gone[0].detail


# -- text


def test_normalise_keeps_what_changes_the_meaning():
    assert normalise("  The CAT,\nsat—down. ") == normalise("the cat sat down")
    assert len({normalise(t) for t in ("C", "C#", "C++", "5", "-5", "5 %")}) == 6


def test_words_and_distinct_n():
    assert words("COVID-19 isn't 3.5 %") == ["covid-19", "isn't", "3.5"]
    assert words("咖啡和 tea。ชา") == ["咖", "啡", "和", "tea", "ช", "า"]
    assert words("हिन्दी में, קָפֶה") == ["हिन्दी", "में", "קָפֶה"]
    assert has_spaces("I like 東京 a lot") and not has_spaces("我用 Python 写程序。")
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n([], 2) == 0


# -- the ladder


def test_ladder_by_hand():
    found = ladder.ladder(
        [[0.9, 0.7, 0.5, 0.3, 0.1], [0.6, 0.7, 0.5, 0.5, 0.1], [1, 2, 3, 4, 5]]
    )
    assert list(found["inversions"]) == [0, 2, 10]  # the tie of N2 and N3 counts
    assert list(found["monotone"]) == [True, False, False]
    assert list(found["order"]) == [
        "P N1 N2 N3 N4", "N1 P N2 N3 N4", "N4 N3 N2 N1 P"
    ]  # fmt: skip
    assert found["margin"].tolist() == pytest.approx([0.2, -0.1, -1])


def test_cosines_to_query_and_positive():
    vectors = np.eye(6, 8)
    vectors[2] = vectors[1]  # N1 equals the positive
    vectors[5] = vectors[0]  # N4 equals the query
    assert ladder.cosines(vectors).tolist() == [[0, 0, 0, 0, 1]]
    assert ladder.cosines(vectors, to="positive").tolist() == [[1, 1, 0, 0, 0]]


def test_summary_has_every_measure_of_every_part():
    scores = np.array([[5, 4, 3, 2, 1.0]] * 3 + [[1, 2, 3, 4, 5.0]] * 3)
    found = ladder.summarise(scores, ["a"] * 3 + ["b"] * 3, samples=200)
    table = found.set_index(["by", "measure"])["value"]
    assert table["a", "monotone"] == 1 and table["b", "monotone"] == 0
    assert table["b", "inversions"] == 10 and table["b", "P above N1"] == 0
    assert table["a", "N2"] == 3


def test_auc_with_ties_and_its_interval():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    scores = np.round(draw.normal(labels * 0.7, 1), 1)
    items = np.tile(np.arange(60), 2)
    area, _, _ = ladder.auc_interval(labels, scores, items, samples=500)
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)

    def trial(draw):
        shared = draw.normal(size=60)  # both texts of an item score alike
        both = [shared + draw.normal(size=60), shared + draw.normal(size=60) + 1]
        return ladder.auc_interval(labels, np.concatenate(both), items, samples=300)

    truth = NormalDist().cdf(1 / 2)
    assert 0.89 <= coverage(trial, truth) <= 0.99


def test_the_text_only_check_finds_the_leak_and_its_absence(loaded):
    free = {e.item_id for e in loaded.syneg if e.attribute == "free"}
    genuine = [(p, i.id) for i in loaded.items if i.id in free for p in i.positives]
    found = {}
    for attribute in ("matched", "free"):
        negatives = [
            (text, e.item_id)
            for e in loaded.syneg
            if e.attribute == attribute and e.item_id in free
            for text in e.negatives
        ]
        texts, ids = zip(*genuine, strict=True)
        others, other_ids = zip(*negatives, strict=True)
        found[attribute] = ladder.text_only_auc(texts, others, ids, other_ids)
    assert len(free) == 153
    assert found["free"][1] > found["matched"][2]  # intervals apart
    assert found["free"][0] > 0.8 and found["matched"][0] < 0.7
    half = [text for text, _ in genuine[::2]], [item for _, item in genuine[::2]]
    rest = [text for text, _ in genuine[1::2]], [item for _, item in genuine[1::2]]
    same = ladder.text_only_auc(half[0], rest[0], half[1], rest[1])
    assert same[1] < 0.5  # texts of one kind: no leak is claimed


def test_diversity_tells_copies_from_different_texts(loaded):
    examples = loaded.graded[:12]
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(12, 6, 32))
    vectors[:, 1] = vectors[0, 1]  # all positives alike
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    found = ladder.diversity(examples, vectors.reshape(-1, 32)).set_index("rung")
    assert found.loc["P", "alike"] == pytest.approx(1)
    assert found.loc["N1", "minus_high"] < -0.5
    assert 0 < found.loc["N4", "distinct_2"] <= 1


# -- pages and tables


def body_of(source: str, name: str) -> str:
    tree = ast.parse(source)
    function = next(
        n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name
    )
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    return ast.dump(function)


def test_the_ladder_in_the_page_is_the_one_of_the_module():
    page = nbformat.read(ROOT / "notebooks/02_graded_negative_synthesis.ipynb", 4)
    cell = next(c.source for c in page.cells if "def ladder(" in c.source)
    assert body_of(cell, "ladder") == body_of(inspect.getsource(ladder), "ladder")


def published(name):
    return pd.read_csv(DATA / "published" / f"{name}.csv")


def test_published_tables_are_listed_known_and_average_their_columns():
    card = (DATA / "published" / "README.md").read_text()
    files = sorted((DATA / "published").glob("*.csv"))
    assert len(files) >= 16
    for path in files:
        assert set(pd.read_csv(path)["known"].astype(str)) <= {"T", "S", "2"}, path
        assert f"`{path.name}`" in card
    beir = published("nv_retriever_beir").groupby("method")["ndcg_at_10_percent"].mean()
    at_scale = published("nv_retriever_methods").query("dataset == '15 BEIR sets'")
    for row in at_scale.itertuples():
        assert beir[row.method] == pytest.approx(100 * row.ndcg_at_10, abs=0.015)
    rows = ["model", "training"], "ndcg_at_10_percent", 0.06
    for name, (index, values, most) in {
        "syneg_main": rows, "nv_retriever_teachers": ("teacher", "ndcg_at_10", 1e-4)
    }.items():  # fmt: skip
        table = published(name).pivot(index=index, columns="dataset", values=values)
        off = table.drop(columns="average").mean(axis=1) - table["average"]
        assert off.abs().max() < most
