"""The verdicts' rule, and that table, page and README say the same."""

import json
import re
from contextlib import suppress

import pandas as pd
import pytest

from nbutils import claims
from nbutils.core.errors import LabError
from nbutils.core.retrieval import HELD_OUT
from nbutils.core.settings import DATA, ROOT
from nbutils.core.statistics import in_words
from nbutils.evaluation.studies import difference, read_claims, read_study


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
    assert table["holm"][0] == pytest.approx(3 * alone[0])
    assert table["holm"][1] == pytest.approx(2 * alone[1])
    assert table["holm"][2] == 1


def test_table_page_and_readme_say_the_same():
    table = read_claims()
    one_each = table.drop_duplicates("number").set_index("number")["verdict"]
    assert len(one_each) == 14 and set(one_each.index) >= set(claims.COMPARE)
    for number, own in table.dropna(subset="value").groupby("number"):
        again = claims.judged(own.drop(columns=["holm", "outcome"]).to_dict("records"))
        assert list(again["verdict"]) == list(own["verdict"]), number
        assert list(again["outcome"]) == list(own["outcome"]), number
    page = json.loads((ROOT / "notebooks" / "06_evaluation.ipynb").read_text())
    shown = json.dumps([cell.get("outputs") for cell in page["cells"]])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (\d+[ab]?) \|.*\| ([a-z ]+) \|$", readme, re.M))
    assert told == one_each.to_dict()
    for verdict, count in one_each.value_counts().items():
        assert re.search(rf"{verdict} +{count}\b", shown), verdict


def test_the_table_is_made_of_the_shipped_runs():
    """Those that need no encoder, once more from the runs; the README's gains too."""
    stored = read_claims()
    for number in ("2", "3", "6b", "8", "9", "13"):
        again = claims.judged(claims.rows_of(number)[0])
        own = stored[stored["number"] == number].reset_index(drop=True)
        assert list(again["comparison"]) == list(own["comparison"])
        assert list(again["outcome"]) == list(own["outcome"])
        assert again["value"].to_numpy() == pytest.approx(own["value"], abs=1e-4)
    assert all(own["seeds"] >= claims.SEEDS), "claim 13 has three seeds"
    rows = []
    with suppress(LabError):  # a study that is not made: then the table has none of it
        rows = claims.levels_fall_trained()
    own = stored[stored["comparison"].str.contains("under SmolLM2")]
    assert [row["comparison"] for row in rows] == list(own["comparison"])
    assert [row["value"] for row in rows] == pytest.approx(list(own["value"]), abs=1e-4)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    seeds = read_study("seeds")[0]
    for student in ("SmolLM2", "MiniLM"):
        for split in HELD_OUT:
            gain = difference(seeds, student, f"untrained, {student}", split)
            assert f"| {in_words(gain)} |" in readme, (student, split)


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

    monkeypatch.setitem(claims.COMPARE, "1", [lambda: [row(0.1)], missing])
    assert claims.rows_of("1")[0] == [row(0.1)]
    monkeypatch.setitem(claims.COMPARE, "1", [missing])
    assert claims.rows_of("1") == ([], "make it")


def test_published_claims_are_the_tables_claims():
    published = (DATA / "published" / "claims.csv").read_text(encoding="utf-8")
    for claim in read_claims()["claim"].unique():
        assert claim in published
