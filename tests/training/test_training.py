"""Curriculum, loss, batches, and training that trains."""

import numpy as np
import pandas as pd
import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.core.records import GradedExample, RetrievalItem, TrainingInstance
from nbutils.core.settings import resolve
from nbutils.encoder import vectors
from nbutils.encoder.student import build_student
from nbutils.synthesis import generate
from nbutils.training import curriculum, gradcache, instances, loop, losses


def instance(number: int, **changes) -> TrainingInstance:
    graded = {f"N{k}": f"negative {k} of {number}" for k in (1, 2, 3, 4)}
    base = {
        "id": f"q{number}", "dataset": "mgh/sts", "instruction": "Find it",
        "query": f"query {number}", "positive": f"positive {number}", "graded": graded,
        "retrieved": tuple(f"found {k} for {number}" for k in range(4)),
    }  # fmt: skip
    return TrainingInstance(**{**base, **changes})


def test_curriculum_goes_from_coarse_to_fine():
    order = curriculum.level_order("curriculum", 2)
    assert order == ["N4", "N4", "N3", "N3", "N2", "N2", "N1", "N1"]
    assert curriculum.level_order("reverse", 2) == order[::-1]
    assert curriculum.level_order("fixed-3", 1) == ["N3"] * 4
    drawn = curriculum.level_order("random", 50, seed=3)
    assert sorted(drawn) == sorted(curriculum.level_order("curriculum", 50))
    assert drawn != curriculum.level_order("random", 50, seed=4)
    with pytest.raises(LabError, match="did you mean 'curriculum'"):
        curriculum.level_order("curiculum", 2)


def test_batches_are_seeded_and_hold_no_instance_twice():
    first = curriculum.batches(10, 4, 5, seed=0)
    again = curriculum.batches(10, 4, 5, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(len(set(batch)) == 4 for batch in first)
    assert not np.array_equal(first, curriculum.batches(10, 4, 5, seed=1))
    with pytest.raises(LabError, match="lower batch_size"):
        curriculum.batches(3, 4, 1, seed=0)


def test_hybrid_gives_every_instance_both_kinds():
    for number in range(20):
        chosen = curriculum.negatives_for(instance(number), "N2", step=number)
        assert chosen[0] == f"negative 2 of {number}"
        assert len(chosen) == 3 and all("found" in text for text in chosen[1:])
        assert len(set(chosen)) == 3


def test_direct_mixes_over_the_data_set_and_keeps_its_draw():
    kinds = {}
    for number in range(60):
        seen = set()
        for step in range(4):
            chosen = curriculum.negatives_for(
                instance(number), "N1", mixing="direct", retrieved=1, step=step
            )
            seen |= {"found" in text for text in chosen}
        assert len(seen) == 1, "one instance, one kind"
        kinds[number] = seen.pop()
    assert 15 < sum(kinds.values()) < 45  # half and half, within chance


def test_negatives_do_not_depend_on_the_order_of_calls():
    calls = [(n, s) for n in range(5) for s in range(5)]
    forward = {
        c: curriculum.negatives_for(instance(c[0]), "N1", step=c[1]) for c in calls
    }
    backward = {
        c: curriculum.negatives_for(instance(c[0]), "N1", step=c[1])
        for c in reversed(calls)
    }
    assert forward == backward
    assert len({tuple(v[1:]) for (n, _), v in forward.items() if n == 0}) > 1


def test_info_nce_against_its_definition():
    torch.manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(7, 5), dim=-1)
    queries = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1)
    excluded = torch.zeros(3, 7, dtype=torch.bool)
    excluded[0, 4] = True
    got = losses.info_nce(queries, documents, excluded, 0.1)
    wanted = 0.0
    for i in range(3):
        terms = [
            np.exp(float(queries[i] @ documents[j]) / 0.1)
            for j in range(7) if not excluded[i, j]
        ]  # fmt: skip
        wanted -= (
            np.log(np.exp(float(queries[i] @ documents[i]) / 0.1) / sum(terms)) / 3
        )
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_a_repeated_negative_weighs_twice():
    documents = torch.eye(4)[[0, 1, 2, 2]]
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    once = losses.info_nce(torch.eye(4)[:1], documents[:3], nothing[:, :3], 1.0)
    twice = losses.info_nce(torch.eye(4)[:1], documents, nothing, 1.0)
    e = np.e
    assert once.item() == pytest.approx(np.log((e + 2) / e))
    assert twice.item() == pytest.approx(np.log((e + 3) / e))


def test_texts_equal_to_a_positive_or_the_query_are_excluded():
    batch = [instance(0), instance(1, positive="Positive  0!")]
    documents = ["positive 0", "Positive  0!", "QUERY 1", "other"]
    excluded = losses.false_negatives(batch, documents).numpy()
    assert excluded.tolist() == [
        [False, True, False, False],
        [True, False, True, False],
    ]


def test_known_positives_come_from_the_records_and_are_masked_in_the_batch():
    """Two records ask the same; a third one's mined negative is a planted positive."""
    item = RetrievalItem(
        id="f/item/0", family="f", domain="d", query="What is it?", title="t",
        positives=("labelled answer", "second answer", "third answer"), split="train",
    )  # fmt: skip
    other = item.model_copy(update={
        "id": "f/item/1", "query": "what is it", "positives": ("own answer", "b", "c"),
    })  # fmt: skip
    apart = item.model_copy(update={
        "id": "f/item/2", "query": "free", "positives": ("far", "d", "e"),
    })  # fmt: skip
    example = GradedExample(
        id="f/mgh/0", family="f", group="sts", task_id="t", task="t", split="train",
        query="WHAT IS IT", positive="graded answer", negatives=("1", "2", "3", "4"),
    )  # fmt: skip
    mined = pd.DataFrame(
        {"query_id": ["f/item/0", "f/item/2"], "text": ["Second answer!", "own answer"]}
    )
    settings = resolve("smoke", {"mixing": "retrieved", "retrieved_per_query": 1})

    def masked(known: str) -> dict[str, set[str]]:
        data = instances.instances(
            [example], [item, other, apart], [], mined, known=known
        )
        batch = gradcache.make_batch(data, "N1", settings, 0)
        texts = np.array(batch.documents)
        rows = zip(data, batch.excluded.numpy(), strict=True)
        return {one.id: set(texts[row]) for one, row in rows}

    asks = {"graded answer", "labelled answer", "own answer"}
    labelled, whole = masked("labelled"), masked("all")
    assert labelled["f/item/0"] == asks - {"labelled answer"}
    assert labelled["f/item/1"] >= asks - {"own answer"}
    assert labelled["f/mgh/0"] == asks - {"graded answer"}
    assert labelled["f/item/2"] == set()
    assert whole["f/item/0"] == labelled["f/item/0"] | {"Second answer!"}
    assert whole["f/mgh/0"] == labelled["f/mgh/0"] | {"Second answer!"}
    assert whole["f/item/2"] == set()
    with pytest.raises(LabError, match="did you mean 'labelled'"):
        masked("labeled")


def test_the_recordings_planted_positives_are_known_only_where_asked():
    records = generate.load(resolve())
    planted = {
        known: sum(
            len(i.known_positives)
            for i in instances.training_data(records, known=known)
        )
        for known in curriculum.KNOWN
    }
    items = sum(item.split == "train" for item in records.items)
    assert planted == {"labelled": 0, "all": 2 * items}


def test_chunks_keep_order_and_encode_equal_texts_once():
    settings = resolve("smoke", {"compute_dtype": "float32"})
    model = build_student(settings)
    texts = ["long text " * 8, "short", "long text " * 8, "middle text here"]
    prompts = ["", "Find it", "", ""]
    chunks = gradcache.make_chunks(model, texts, prompts, size=1)
    assert chunks.sizes == [1, 1, 1]
    with torch.no_grad():
        rows = torch.cat([gradcache.group_vectors(model, g) for g in chunks.groups])
    got = rows[chunks.order].numpy()
    for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        alone = vectors.embed(model, [text], settings, prompt or None, cache=None)
        assert np.allclose(got[i], alone[0], atol=1e-5)


def test_chunks_hold_no_more_tokens_than_asked_and_lose_no_text():
    model = build_student(resolve("smoke"))
    texts = [f"{n} " + "word " * (n % 23) for n in range(60)]
    prompts = ["Find it" if n % 3 else "" for n in range(60)]
    by_count = gradcache.make_chunks(model, texts, prompts, size=7)
    assert by_count.sizes == [7] * 8 + [4]
    chunks = gradcache.make_chunks(model, texts, prompts, size=50, tokens=256)
    shapes = [group["input_ids"].shape for group in chunks.groups]
    assert all(rows * width <= 256 for rows, width in shapes)
    for (rows, width), later in zip(shapes, chunks.groups[1:], strict=False):
        longer = int(later["attention_mask"][0].sum())  # it would not have fitted
        assert (rows + 1) * max(width, gradcache.padded_width(longer)) > 256
    assert sorted(chunks.order) == list(range(60)) and sum(chunks.sizes) == 60
    rows = gradcache.token_rows(model, list(zip(prompts, texts, strict=True)))
    flat = [row for group in chunks.groups for row in group["input_ids"]]
    for i, row in enumerate(rows):
        assert torch.equal(flat[chunks.order[i]][: len(row["input_ids"])],
                           row["input_ids"])  # fmt: skip
    alone = gradcache.make_chunks(model, texts, prompts, size=50, tokens=1)
    assert alone.sizes == [1] * 60


def test_training_lowers_the_loss_and_moves_only_adapters():
    settings = resolve(
        "smoke", {"steps_per_level": 4, "learning_rate": 5e-3, "warmup_steps": 1}
    )
    model = build_student(settings)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    data = [instance(n) for n in range(16)]
    log = loop.train(model, data, settings, progress=False)
    steps, _ = log.frames()
    assert list(steps["level"].unique()) == ["N4", "N3", "N2", "N1"]
    assert steps["loss"].iloc[-4:].mean() < steps["loss"].iloc[:4].mean()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
        elif "lora_B" in name:
            assert parameter.abs().max() > 0, f"{name} did not move"


def test_the_same_seed_gives_the_same_run_and_another_gives_another():
    found = []
    for seed in (0, 0, 1):
        settings = resolve(
            "smoke", {"steps_per_level": 1, "warmup_steps": 1, "seed": seed}
        )
        model = build_student(settings)
        log = loop.train(
            model, [instance(n) for n in range(16)], settings, progress=False
        )
        found.append([row["loss"] for row in log.steps])
    assert found[0] == found[1] != found[2]


def test_bad_steps_are_named():
    with pytest.raises(LabError, match="not finite at step 3"):
        loop.check_step(2, float("nan"), 1.0)
    with pytest.raises(LabError, match="no gradient"):
        loop.check_step(0, 1.0, 0.0)
    loop.check_step(1, 1.0, 0.0)


def test_paged_optimizer_needs_a_gpu():
    settings = resolve("smoke", {"optimizer": "paged_adamw_8bit"})
    with pytest.raises(LabError, match="needs a GPU"):
        loop.make_optimizer([torch.nn.Parameter(torch.ones(1))], settings)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_dropout": 0.3}, {"pooling": "mean"}, {"symmetric": True}],
)
@pytest.mark.parametrize(("size", "tokens"), [(1, 0), (3, 0), (64, 0), (64, 64)])
def test_cached_gradients_equal_those_of_the_whole_batch(changes, size, tokens):
    settings = resolve("smoke", {"compute_dtype": "float32", **changes})
    model = build_student(settings)
    with torch.no_grad():  # adapters that do something
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    batch = gradcache.make_batch([instance(n) for n in range(5)], "N2", settings, 0)
    limits = {"mini_batch": size, "mini_batch_tokens": tokens}
    settings = settings.changed(**limits)
    model.train()
    found = []
    for backward, cache in (
        (plain_backward, False), (gradcache.backward, False), (gradcache.backward, True)
    ):  # fmt: skip
        model.zero_grad()
        torch.manual_seed(7)
        asked = settings.changed(gradient_cache=cache)
        found.append((backward(model, batch, asked).item(), gradients(model)))
    plain, wanted = found[0]
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-4
    for loss, got in found[1:]:
        assert loss == pytest.approx(plain, rel=1e-5)
        for name, gradient in wanted.items():
            assert torch.allclose(got[name], gradient, atol=1e-5), name


def plain_backward(model, batch, settings):
    loss = gradcache.batch_loss(model, batch, settings)
    loss.backward()
    return loss


def gradients(model):
    return {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def test_gradient_checkpointing_trains_and_changes_nothing():
    found = []
    for asked in (False, True):
        settings = resolve(
            "smoke", {"gradient_checkpointing": asked, "compute_dtype": "float32"}
        )
        model = build_student(settings)
        model.train()
        batch = gradcache.make_batch([instance(n) for n in range(4)], "N1", settings, 0)
        plain_backward(model, batch, settings)
        found.append(gradients(model))
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-6) for n in found[0])


def test_rate_warms_up_and_decays_to_zero():
    rates = [loop.learning_rate_at(step, 6, 2) for step in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    settings = resolve("smoke", {"steps_per_level": 1, "warmup_steps": 2})
    model = build_student(settings)
    log = loop.train(model, [instance(n) for n in range(8)], settings, progress=False)
    wanted = [loop.learning_rate_at(step, 4, 2) for step in range(4)]
    rates = [
        row["learning_rate"] / settings.training.learning_rate for row in log.steps
    ]
    assert rates == pytest.approx(wanted)
    with pytest.raises(LabError, match="would never be reached"):
        short = settings.changed(warmup_steps=4)
        loop.train(model, [instance(n) for n in range(8)], short, progress=False)


def test_smoke_trains_on_the_recordings_with_their_own_instructions():
    settings = resolve("smoke", {"steps_per_level": 1, "warmup_steps": 1})
    data = instances.training_data(generate.load(settings))
    model = build_student(settings)
    log = loop.train(model, data, settings, progress=False)
    assert len(log.steps) == 4 and all(row["loss"] > 0 for row in log.steps)


def drawn(number: int, step: int, **asked) -> tuple[int, int]:
    """How many synthetic and retrieved negatives an instance gets."""
    chosen = curriculum.negatives_for(instance(number), "N2", step=step, **asked)
    found = sum("found" in text for text in chosen)
    return len(chosen) - found, found


@pytest.mark.parametrize("ratio", [0.2, 0.7, 1.0, 2.7])
@pytest.mark.parametrize("mixing", ["hybrid", "direct"])
def test_ratio_is_synthetic_to_retrieved_at_an_equal_number(mixing, ratio):
    asked = {"mixing": mixing, "retrieved": 2, "ratio": ratio}
    counts = np.array([drawn(n, s, **asked) for n in range(400) for s in range(4)])
    assert (counts.sum(1) == 3).all()
    share = ratio / (1 + ratio)
    # instances are the units in direct: 400 draws; four standard errors
    assert counts[:, 0].sum() / counts.sum() == pytest.approx(
        share, abs=4 * np.sqrt(share * (1 - share) / 400)
    )
    if mixing == "direct":
        assert set(counts[:, 0]) == {0, 3}
    else:
        assert set(counts[:, 0]) <= {int(3 * share), int(3 * share) + 1}


@pytest.mark.parametrize(("mixing", "wanted"), [("synthetic", 3), ("retrieved", 0)])
def test_a_ratio_gives_one_kind_alone_the_same_number(mixing, wanted):
    assert drawn(0, 1, mixing=mixing, ratio=0.5) == (wanted, 3 - wanted)


def test_a_kind_repeats_only_when_all_of_it_was_drawn():
    few = instance(1, retrieved=("found a", "found b"))
    chosen = curriculum.negatives_for(
        few, "N1", mixing="retrieved", retrieved=2, ratio=1.0
    )
    assert set(chosen) == {"found a", "found b"} and len(chosen) == 3


def test_level_all_brings_every_graded_negative():
    assert curriculum.level_order("all", 2) == ["all"] * 8
    chosen = curriculum.negatives_for(instance(5), "all", retrieved=1)
    assert set(chosen[:4]) == {f"negative {k} of 5" for k in (1, 2, 3, 4)}
    assert "found" in chosen[4] and len(chosen) == 5
    item = instance(5, graded={}, synthetic=("written a", "written b"))
    alone = curriculum.negatives_for(item, "all", mixing="synthetic")
    assert sorted(alone) == ["written a", "written b"]


def test_batches_of_one_source_and_a_retrieval_phase():
    tasks = [instance(n, dataset=f"mgh/{n % 3}") for n in range(30)]
    items = [instance(n, dataset="syneg", graded={}) for n in range(30, 40)]
    data = tasks + items
    changes = {"batch_size": 4, "batches_from": "dataset", "retrieval_steps": 3}
    settings = resolve("smoke", {"steps_per_level": 5, **changes})
    steps = curriculum.plan(data, settings)
    assert len(steps) == 23 and [s.level for s in steps[20:]] == ["retrieval"] * 3
    for step in steps:
        assert len({data[i].dataset for i in step.rows}) == 1
        assert len(set(step.rows)) == len(step.rows) == 4
    assert len({data[s.rows[0]].dataset for s in steps[:20]}) == 4
    assert all(i >= 30 for s in steps[20:] for i in s.rows)
    kept = curriculum.negatives_for(data[35], "retrieval", mixing="synthetic")
    assert len(kept) == 2 and all("found" in text for text in kept)


def test_a_source_smaller_than_a_batch_gives_a_batch_of_its_own():
    names = ["large"] * 10 + ["small"] * 2
    made = curriculum.batches(12, 4, 9, seed=0, sources=names)
    assert sorted({len(rows) for rows in made}) == [2, 4]
    for rows in made:
        assert len({names[i] for i in rows}) == 1
