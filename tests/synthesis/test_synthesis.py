"""Synthesis: the plan, the records, the ladder and the text-only check."""

import hashlib
import shutil
from dataclasses import replace
from functools import partial
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from conftest import coverage
from sklearn.metrics import roc_auc_score

from nbutils.core import retrieval
from nbutils.core.errors import LabError
from nbutils.core.files import write_jsonl, write_sums
from nbutils.core.records import GROUPS, KINDS, read_records
from nbutils.core.sections import FAMILIES
from nbutils.core.settings import DATA, resolve
from nbutils.core.text import distinct_n, has_spaces, normalise, words
from nbutils.synthesis import generate, ladder, overlap, prompts


@pytest.fixture(scope="module")
def loaded():
    return generate.load(resolve())


# -- recordings and plan


def test_the_planned_requests_are_those_that_were_asked_and_all_differ():
    settings = resolve()
    requests = [r for family in FAMILIES for r, _ in prompts.recorded(family)]
    keys = [request.chat(settings).key for request in requests]
    assert len({r.text for r in requests}) < len({*keys}) == 1700  # by their sample
    asked = hashlib.sha256("".join(keys).encode()).hexdigest()
    assert asked.startswith("f6692f4a6cbbe89d"), "a draw or a prompt has changed"


def test_a_changed_or_missing_file_and_an_unknown_family_are_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(prompts, "RECORDINGS", tmp_path / "recordings")
    shutil.copytree(DATA / "recordings", prompts.RECORDINGS)
    path, settings = prompts.RECORDINGS / "answers/home.jsonl", resolve().changed
    path.write_bytes(path.read_bytes().replace(b"the", b"thE", 1))
    with pytest.raises(LabError, match=r"home\.jsonl is truncated or changed"):
        generate.open_client(settings(families=["home"]))
    path.unlink()
    with pytest.raises(LabError, match=r"home\.jsonl is missing"):
        generate.open_client(settings(families=["home"]))
    with pytest.raises(LabError, match="unknown family 'homes'; did you mean 'home'"):
        prompts.recorded("homes")


def test_languages_take_turns_and_the_default_stays_what_was_recorded(loaded):
    plain = list(prompts.mgh_requests(loaded.tasks[:1]))
    mixed = list(prompts.mgh_requests(loaded.tasks[:1], ["English", "German"]))
    assert [r.variables["language"] for r in mixed] == ["English", "German"] * 3
    assert [r.text for r in mixed][::2] == [r.text for r in plain][::2]
    with pytest.raises(LabError, match="twice"):
        resolve(overrides={"languages": ["English", "English"]})


# -- records


def test_counts_and_no_rejections(loaded):
    assert generate.counts(loaded) == {
        "tasks": 140, "graded": 840, "items": 336,
        "syneg_matched": 336, "syneg_free": 153, "rejections": 0,
    }  # fmt: skip
    bare = loaded.syneg[0].model_copy(update={"attribute": "none"})
    found = generate.counts(replace(loaded, syneg=[bare]))
    assert found["syneg_matched"] == found["syneg_free"] == 0


def test_nothing_held_out_is_in_train_and_records_point_at_each_other(loaded):
    last = dict(zip(GROUPS, (5, 3, 3, 2, 2), strict=True))
    tasks = {task.id: task for task in loaded.tasks}
    for task in loaded.tasks:
        held = task.family == "industry" or task.index == last[task.group]
        assert held == (task.split != "train")
    for example in loaded.graded:
        task = tasks[example.task_id]
        held, number = task.split != "train", example.id.split("/")[-1]
        assert example.task == task.text
        assert held == example.split.startswith("held-out"), example.id
        assert (example.split == "dev") == (not held and number == "5"), example.id
    for record in (*loaded.items, *loaded.syneg):
        wanted = "held-out-family" if record.family == "industry" else "train"
        assert record.split == wanted
    assert {e.item_id for e in loaded.syneg} == {i.id for i in loaded.items}


@pytest.mark.parametrize(
    ("profile", "changes"),
    [("workshop", {}), ("smoke", {}), ("smoke", {"families": ["home", "computing"]})],
)
def test_the_shipped_records_are_what_the_recordings_parse_to(profile, changes, loaded):
    settings = resolve(profile, changes)
    found = loaded if profile == "workshop" else generate.load(settings)
    assert read_records(settings) == found
    own = [e for e in found.graded if e.family == settings.synthesis.families[0]]
    assert {e.group for e in own} == set(GROUPS)  # also of a few
    assert {e.split for e in own} == {"train", "dev", "held-out-tasks"}


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


# -- text, repeats and leaks


def test_text_is_counted_by_what_changes_its_meaning():
    assert normalise("  The CAT,\nsat—down. ") == normalise("the cat sat down")
    assert len({normalise(t) for t in ("C", "C#", "C++", "5", "-5", "5 %")}) == 6
    assert words("COVID-19 isn't 3.5 %") == ["covid-19", "isn't", "3.5"]
    assert words("咖啡和 tea。ชา") == ["咖", "啡", "和", "tea", "ช", "า"]
    assert words("हिन्दी में, קָפֶה") == ["हिन्दी", "में", "קָפֶה"]
    assert has_spaces("I like 東京 a lot") and not has_spaces("我用 Python 写程序。")
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n([], 2) == 0


def test_repeats_are_dropped_with_a_named_reason(loaded):
    first, other = loaded.tasks[:2]
    twin = first.model_copy(update={"id": "twin", "text": f"  {first.text.upper()}!"})
    made = [first, twin, other], []
    kept, (gone,) = generate.without(made, "text", overlap.repeats, "duplicate_task")
    assert kept == [first, other] and first.id in gone.detail
    assert (gone.id, gone.reason) == ("twin", "duplicate_task")


def test_a_query_that_was_written_before_is_refused(answering, live, loaded):
    said = {request.id: text for request, text in prompts.recorded("health")}
    answering(lambda prompt: said["health/mgh/sts/0/0"])
    tasks = [task for task in loaded.tasks if task.id == "health/brainstorm/sts/0"]
    client = generate.open_client(live())
    (kept,), refused = generate.graded_examples(tasks, client)
    assert [r.reason for r in refused] == ["duplicate_query"] * 5
    assert {r.detail for r in refused} == {f"repeats {kept.id}"}


@pytest.mark.parametrize("least", [0.5, 0.1])  # at 0.1 some near only a repeat
def test_near_duplicates_are_those_of_the_definition(least):
    rng, vocabulary = np.random.default_rng(0), [f"w{n}" for n in range(6)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(1, 9))) for _ in range(120)]
    sets, wanted = [set(overlap.shingles(text)) for text in texts], []
    for i, own in enumerate(sets):
        kept = [j for j in range(i) if wanted[j] < 0]
        near = (j for j in kept if len(own & sets[j]) / len(own | sets[j]) >= least)
        wanted.append(next(near, -1))
    assert sum(place >= 0 for place in wanted) > 5
    assert overlap.near_duplicates(texts, least).tolist() == wanted
    assert overlap.near_duplicates([], least).tolist() == []


def test_graded_examples_are_freed_of_near_duplicates_by_the_setting():
    settings = resolve("smoke")
    tasks = read_records(settings).tasks
    kept, rejections = generate.graded_examples(tasks, generate.open_client(settings))
    assert rejections == []
    loose = generate.open_client(settings.changed(near_duplicate=1e-9))
    fewer, refused = generate.graded_examples(tasks, loose)
    assert len(fewer) + len(refused) == len(kept) and refused
    assert {r.reason for r in refused} == {"near_duplicate"}


def test_a_shared_run_of_words_is_a_leak_also_in_scripts_without_spaces():
    evaluation = {"e1": "one two three four five six", "e2": "nothing alike is here"}
    texts = {"a": "he said ONE, two three four five.", "b": "one two three", "c": ""}
    assert overlap.shared_runs(texts, evaluation, n=5).to_dict("records") == [
        {"id": "a", "evaluation_id": "e1", "run": "one two three four five"}
    ]
    coffee, bridge = "咖啡会让人在夜里保持清醒。", "这座桥在春天开通。"
    asked = coffee.replace("。", "吗")
    assert overlap.near_duplicates([coffee, asked, bridge], 0.8).tolist() == [-1, 0, -1]
    found = overlap.shared_runs({"a": asked}, {"e": coffee, "f": bridge}, n=8)
    assert list(found["evaluation_id"]) == ["e"]


# -- the ladder


def test_ladder_by_hand():
    found = ladder.ladder(
        [[0.9, 0.7, 0.5, 0.3, 0.1], [0.6, 0.7, 0.5, 0.5, 0.1], [1, 2, 3, 4, 5]]
    )
    assert list(found["inversions"]) == [0, 2, 10]  # the tie of N2 and N3 counts
    assert list(found["monotone"]) == [True, False, False]
    orders = ["P N1 N2 N3 N4", "N1 P N2 N3 N4", "N4 N3 N2 N1 P"]
    assert list(found["order"]) == orders
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


@pytest.mark.parametrize(
    ("rule", "kept"), [("monotone", [0, 3]), ("positive_first", [0, 1, 3])]
)
def test_a_ladder_out_of_order_is_refused_by_name(rule, kept, loaded):
    examples, scores = loaded.graded[:4], np.tile([0.9, 0.8, 0.7, 0.6, 0.5], (4, 1))
    scores[1, 2] = 0.85  # N2 above N1
    scores[2, 0] = 0.75  # N1 above P
    scores[3, 0] = 0.81
    found, rejections = ladder.in_order(examples, scores, rule)
    assert found == [examples[n] for n in kept]
    assert {r.id for r in rejections} == {e.id for e in examples if e not in found}
    last = rejections[-1]
    assert (
        last.reason == "ladder"
        and "is N1 P N2 N3 N4, P above N1 by -0.050" in last.detail
    )
    with pytest.raises(LabError, match="did you mean 'monotone'"):
        ladder.in_order(examples, scores, "monoton")


def test_diversity_tells_copies_from_different_texts(loaded):
    vectors = np.random.default_rng(0).normal(size=(12, 6, 32))
    vectors[:, 1] = vectors[0, 1]  # all positives alike
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    found = ladder.diversity(loaded.graded[:12], vectors.reshape(-1, 32))
    found = found.set_index("rung")
    assert found.loc["P", "alike"] == pytest.approx(1)
    assert found.loc["N1", "minus_high"] < -0.5
    assert 0 < found.loc["N4", "distinct_2"] <= 1


def test_the_more_varied_generator_is_found():
    vocabulary, rng = [f"w{n}" for n in range(400)], np.random.default_rng(1)
    dull = {f"p{n}": ["the same old text again"] * 3 for n in range(6)}
    varied = {p: [" ".join(rng.choice(vocabulary, 5)) for _ in range(4)] for p in dull}
    table = ladder.compare_diversity(dull, varied).set_index("measure")
    assert (table.loc[["distinct_1", "distinct_2", "distinct_3"], "low"] > 0).all()
    assert table.loc["self_overlap", "high"] < 0
    assert table.loc["self_overlap", "one"] == 1
    assert (ladder.compare_diversity(varied, varied)["difference"] == 0).all()
    with pytest.raises(LabError, match="two prompts"):
        ladder.compare_diversity(dull, {"p0": ["x"]})


# -- the text-only check


def test_auc_with_ties_and_its_interval():
    draw = np.random.default_rng(0)
    labels, items = np.repeat([0, 1], 60), np.tile(np.arange(60), 2)
    scores = np.round(draw.normal(labels * 0.7, 1), 1)
    area, _, _ = ladder.auc_interval(labels, scores, items, samples=500)
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    both = ([(text, item) for item in "abcdefghi"] for text in ("one two", "one"))
    assert ladder.text_only_auc(*both, kind="length")[0] == 1
    with pytest.raises(LabError, match="two items or more"):
        ladder.text_only_auc([], [])

    def trial(draw):
        shared = draw.normal(size=60)  # both texts of an item score alike
        both = [shared + draw.normal(size=60), shared + draw.normal(size=60) + 1]
        return ladder.auc_interval(labels, np.concatenate(both), items, samples=300)

    assert 0.89 <= coverage(trial, NormalDist().cdf(1 / 2)) <= 0.99


def test_the_text_only_check_finds_the_leak_and_its_absence(loaded):
    free = {e.item_id for e in loaded.syneg if e.attribute == "free"}
    genuine = [(p, i.id) for i in loaded.items if i.id in free for p in i.positives]
    negatives = {"matched": [], "free": []}
    for e in loaded.syneg:
        own = [(text, e.item_id) for text in e.negatives if e.item_id in free]
        negatives[e.attribute] += own

    leak = partial(ladder.text_only_auc, genuine)
    found = {attribute: leak(own) for attribute, own in negatives.items()}
    assert len(free) == 153
    assert found["free"][1] > found["matched"][2]  # intervals apart
    assert found["free"][0] > 0.8 and found["matched"][0] < 0.7
    same = ladder.text_only_auc(genuine[::2], genuine[1::2])
    assert same[1] < 0.5  # texts of one kind: no leak is claimed


# -- the papers' tables


def published(name):
    return pd.read_csv(DATA / "published" / f"{name}.csv")


def test_published_tables_are_listed_known_and_average_their_columns():
    card = (DATA / "published" / "README.md").read_text()
    files = sorted((DATA / "published").glob("*.csv"))
    assert len(files) >= 16
    for path in files:
        if path.stem != "comparisons":  # ours, not a paper's
            assert set(pd.read_csv(path)["known"].astype(str)) <= {"T", "S", "2"}, path
        assert f"`{path.name}`" in card
    beir = published("nv_retriever_beir").groupby("method")["ndcg_at_10_percent"].mean()
    at_scale = published("nv_retriever_methods").query("dataset == '15 BEIR sets'")
    for row in at_scale.itertuples():
        assert beir[row.method] == pytest.approx(100 * row.ndcg_at_10, abs=0.015)
    for name, index, values, most in [
        ("syneg_main", ["model", "training"], "ndcg_at_10_percent", 0.06),
        ("nv_retriever_teachers", "teacher", "ndcg_at_10", 1e-4),
    ]:
        table = published(name).pivot(index=index, columns="dataset", values=values)
        off = table.drop(columns="average").mean(axis=1) - table["average"]
        assert off.abs().max() < most
