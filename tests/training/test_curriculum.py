"""Levels in order, batches, and which negatives an instance gets."""

from collections import Counter

import numpy as np
import pytest
from training.made import instance

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.training import curriculum
from nbutils.training.mixing import negatives_for

SMOKE = resolve("smoke")


def negatives(one, level, step=0, **changes) -> list[str]:
    settings = SMOKE.changed(**{"retrieved_per_query": 2, **changes})
    return negatives_for(one, level, settings, step)


def test_curriculum_goes_from_coarse_to_fine():
    order = curriculum.level_order("curriculum", 2)
    assert order == ["N4", "N4", "N3", "N3", "N2", "N2", "N1", "N1"]
    assert curriculum.level_order("reverse", 2) == order[::-1]
    assert curriculum.level_order("fixed-3", 1) == ["N3"] * 4
    assert curriculum.level_order("all", 2) == ["all"] * 8
    drawn = curriculum.level_order("random", 50, seed=3)
    assert Counter(drawn) == dict.fromkeys(["N1", "N2", "N3", "N4"], 50)
    assert drawn != curriculum.level_order("random", 50, seed=4)
    with pytest.raises(LabError, match="did you mean 'curriculum'"):
        curriculum.level_order("curiculum", 2)


def test_batches_are_seeded_and_hold_no_instance_twice():
    first = curriculum.batches(10, 4, 5, seed=0)
    assert np.array_equal(first, curriculum.batches(10, 4, 5, seed=0))
    assert all(len(set(batch)) == 4 for batch in first)
    assert not np.array_equal(first, curriculum.batches(10, 4, 5, seed=1))
    with pytest.raises(LabError, match="lower batch_size"):
        curriculum.batches(3, 4, 1, seed=0)


def test_a_source_smaller_than_a_batch_gives_a_batch_of_its_own():
    names = ["large"] * 10 + ["small"] * 2
    made = curriculum.batches(12, 4, 9, seed=0, sources=names)
    assert sorted({len(rows) for rows in made}) == [2, 4]
    assert all(len({names[i] for i in rows}) == 1 for rows in made)


def test_batches_of_one_source_and_a_retrieval_phase():
    tasks = [instance(n, dataset=f"mgh/{n % 3}") for n in range(30)]
    items = [instance(n, dataset="syneg", graded={}) for n in range(30, 40)]
    data = tasks + items
    changes = {"batch_size": 4, "batches_from": "dataset", "retrieval_steps": 3}
    steps = curriculum.plan(data, SMOKE.changed(steps_per_level=5, **changes))
    levels, rows = zip(*steps, strict=True)
    assert len(steps) == 23 and set(levels[20:]) == {"retrieval"}
    sources = [{data[i].dataset for i in own} for own in rows]
    assert all(len(own) == 1 for own in sources) and len(set.union(*sources)) == 4
    assert all(len(set(own)) == 4 for own in rows)
    assert np.concatenate(rows[20:]).min() >= 30
    kept = negatives(data[35], "retrieval", mixing="synthetic")
    assert len(kept) == 2 and all("found" in text for text in kept)


def test_hybrid_gives_every_instance_both_kinds_in_whatever_order_it_is_asked():
    calls = [(number, step) for number in range(5) for step in range(5)]
    forward = {call: negatives(instance(call[0]), "N2", call[1]) for call in calls}
    for number, step in reversed(calls):
        first, *others = negatives(instance(number), "N2", step)
        assert first == f"negative 2 of {number}"
        assert len(set(others)) == 2 and all("found" in text for text in others)
        assert forward[number, step] == [first, *others]
    assert len({tuple(forward[0, step]) for step in range(5)}) > 1


def test_direct_mixes_over_the_data_set_and_keeps_its_draw():
    asked = {"mixing": "direct", "retrieved_per_query": 1}
    kinds = []
    for number in range(60):
        steps = [negatives(instance(number), "N1", s, **asked) for s in range(4)]
        (kind,) = {"found" in text for chosen in steps for text in chosen}
        kinds.append(kind)
    assert 15 < sum(kinds) < 45  # half and half, within chance


@pytest.mark.parametrize("ratio", [0.2, 0.7, 2.7])
@pytest.mark.parametrize("mixing", ["hybrid", "direct"])
def test_ratio_is_synthetic_to_retrieved_at_an_equal_number(mixing, ratio):
    asked = {"mixing": mixing, "retrieved_per_query": 2, "synthetic_ratio": ratio}
    settings = SMOKE.changed(**asked)
    counts = np.array(
        [
            ["found" not in t for t in negatives_for(one, "N2", settings, s)]
            for one in map(instance, range(400))
            for s in range(4)
        ]
    ).sum(1)
    share = ratio / (1 + ratio)
    # instances are the units in direct: 400 draws; four standard errors
    margin = 4 * np.sqrt(share * (1 - share) / 400)
    assert counts.mean() / 3 == pytest.approx(share, abs=margin)
    whole = {0, 3} if mixing == "direct" else {int(3 * share), int(3 * share) + 1}
    assert set(counts) <= whole and len(set(counts)) == 2


@pytest.mark.parametrize(
    ("mixing", "kind"), [("synthetic", "neg"), ("retrieved", "fo")]
)
def test_a_ratio_gives_one_kind_alone_the_same_number(mixing, kind):
    few = instance(1, retrieved=("found a", "found b"))
    chosen = negatives(few, "N1", mixing=mixing, synthetic_ratio=0.5)
    assert len(chosen) == 3 and all(text.startswith(kind) for text in chosen)
    # a text comes again only where every one was drawn
    assert len(set(chosen)) == (1 if mixing == "synthetic" else 2)


def test_level_all_brings_every_graded_negative():
    *written, found = negatives(instance(5), "all", retrieved_per_query=1)
    assert sorted(written) == [f"negative {k} of 5" for k in (1, 2, 3, 4)]
    assert "found" in found
    item = instance(5, graded={}, synthetic=("written a", "written b"))
    alone = negatives(item, "all", mixing="synthetic")
    assert sorted(alone) == ["written a", "written b"]
