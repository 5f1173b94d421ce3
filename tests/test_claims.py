"""The verdicts' rule, and that table, page and README say the same."""

import json
import re

import pandas as pd
import pytest

from nbutils import claims
from nbutils.core.errors import LabError
from nbutils.core.retrieval import HELD_OUT
from nbutils.core.settings import DATA, ROOT
from nbutils.core.statistics import in_words
from nbutils.evaluation.studies import difference, read_claims, read_study

README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(value, half=0.01, expects="above"):
    interval = {"value": value, "low": value - half, "high": value + half}
    return {"comparison": "a − b", **interval, "expects": expects}


@pytest.mark.parametrize(
    ("rows", "verdict", "outcomes"),
    [
        ([row(0.05), row(0.04), row(0.001)], "reproduced", "holds holds open"),
        ([row(0.05), row(0.001)], "not distinguishable here", "holds open"),
        ([row(0.05), row(0.05), row(-0.05)], "contradicted", "holds holds fails"),
        # above zero alone, not so among six
        ([row(0.011)] + [row(0.0)] * 5, "not distinguishable here", "open " * 6),
        ([row(0.011)], "reproduced", "holds"),
        ([row(-0.005, expects="no worse")], "reproduced", "holds"),
        ([row(0.5, expects="no worse")], "reproduced", "holds"),
        ([row(-0.015, expects="no worse")], "not distinguishable here", "open"),
        ([row(-0.05, expects="no worse")], "contradicted", "fails"),
        ([row(0.005, expects="little")], "reproduced", "holds"),
        ([row(0.05, expects="little")], "contradicted", "fails"),
    ],
)
def test_the_verdict_follows_its_rule(rows, verdict, outcomes):
    table = claims.judged(rows)
    assert set(table["verdict"]) == {verdict}
    assert list(table["outcome"]) == outcomes.split()


def test_holm_multiplies_the_smallest_p_by_their_number():
    table = claims.judged([row(0.02), row(0.011), row(0.0)])
    alone = [claims.judged([row(value)])["holm"][0] for value in (0.02, 0.011)]
    assert list(table["holm"]) == pytest.approx([3 * alone[0], 2 * alone[1], 1])


def test_table_page_and_readme_say_the_same():
    table = read_claims()
    published = pd.read_csv(DATA / "published" / "claims.csv", dtype=str)
    one_each = table.drop_duplicates("number").set_index("number")
    assert (
        one_each["claim"].to_dict() == published.set_index("number")["claim"].to_dict()
    )
    verdicts = one_each["verdict"]
    for number, own in table.dropna(subset="value").groupby("number"):
        again = claims.judged(own.drop(columns=["holm", "outcome"]).to_dict("records"))
        assert list(again["verdict"]) == list(own["verdict"]), number
        assert list(again["outcome"]) == list(own["outcome"]), number
    page = json.loads((ROOT / "notebooks" / "06_evaluation.ipynb").read_text())
    shown = json.dumps([cell.get("outputs") for cell in page["cells"]])
    told = dict(re.findall(r"^\| (\d+[ab]?) \|.*\| ([a-z ]+) \|$", README, re.M))
    assert told == verdicts.to_dict()
    for verdict, count in verdicts.value_counts().items():
        assert re.search(rf"{verdict} +{count}\b", shown), verdict


def test_the_table_is_made_of_the_shipped_data(monkeypatch):
    """Once more but for what an encoder takes long for; the README's gains too."""
    for name in ("levels_fall", "fewer_planted"):
        monkeypatch.setitem(claims.COMPUTED, name, list)
    stored = read_claims().dropna(subset="value")
    slow = stored["comparison"].str.contains("under MiniLM|planted answers")
    for number, own in stored[~slow].groupby("number"):
        again = pd.DataFrame(claims.rows_of(number)[0])
        assert list(again["comparison"]) == list(own["comparison"])
        assert list(again["expects"]) == list(own["expects"])
        bounds = ["value", "low", "high"]
        assert again[bounds].to_numpy() == pytest.approx(own[bounds], abs=1e-3), number
    assert (stored.loc[stored["unit"] == "NDCG@10", "seeds"] >= claims.SEEDS).all()
    seeds = read_study("seeds")[0]
    for student in ("SmolLM2", "MiniLM"):
        for split in HELD_OUT:
            gain = difference(seeds, student, f"untrained, {student}", split)
            assert f"| {in_words(gain)} |" in README, (student, split)


def test_a_comparison_needs_three_seeds(monkeypatch):
    rows = [
        {"variant": name, "seed": seed, "split": "dev", "query_id": query, "ndcg": ndcg}
        for seed in range(3)
        for query in ("q1", "q2")
        for name, ndcg in (("a", 0.6), ("b", 0.5))
    ]
    scores = pd.DataFrame(rows)
    asked = {"study": "made up", "one": "a", "other": "b", "split": "dev"}
    monkeypatch.setattr(claims, "_scores", lambda study: scores)
    (found,) = claims.compared(**asked, expects="little")
    assert (found["seeds"], found["expects"]) == (3, "little")
    assert found["value"] == pytest.approx(0.1)
    scores = scores[scores["seed"] < 2]
    assert claims.compared(**asked, expects="little") == []


def test_levels_under_trained_students_are_paired_by_ladder_and_seed(monkeypatch):
    cosines = {"N1": [0.9, 0.7], "N2": [0.8, 0.5], "N3": [0.5, 0.5], "N4": [0.4, 0.6]}
    ladders = pd.DataFrame({"query_id": ["a/mgh/sts/0/0", "b/mgh/sts/0/0"], **cosines})
    item = pd.DataFrame({"query_id": ["a/seed/0"]})  # it has no ladder
    first = pd.concat([ladders.assign(P=1.0), item]).assign(seed=0)
    second = first.assign(seed=1, N1=first["N1"] + 0.1)
    untrained = first.assign(seed=-1, N1=9.0)
    scores = pd.concat([first, second, untrained])
    monkeypatch.setattr(claims, "_scores", lambda study: scores)
    rows = claims.levels_fall_trained()
    assert [row["value"] for row in rows] == pytest.approx([0.2, 0.15, 0.0])
    assert {row["seeds"] for row in rows} == {2}
    assert [row["comparison"][:7] for row in rows] == ["N1 − N2", "N2 − N3", "N3 − N4"]


def test_a_claim_does_not_wait_for_a_study_that_is_not_made(monkeypatch):
    def missing():
        raise LabError("make it")

    monkeypatch.setitem(claims.COMPUTED, "levels_fall_trained", missing)
    monkeypatch.setitem(claims.COMPUTED, "levels_fall", lambda: [row(0.1)])
    assert claims.rows_of("1") == ([row(0.1)], "make it")
    monkeypatch.setitem(claims.COMPUTED, "levels_fall", missing)
    assert claims.rows_of("1") == ([], "make it")
