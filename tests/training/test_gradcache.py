"""Mini-batches lose no text, and their gradients are those of the whole batch."""

import itertools

import pytest
import torch
from training.made import instance

from nbutils.core.settings import resolve
from nbutils.encoder import vectors
from nbutils.encoder.student import build_student
from nbutils.training import checkpoints, gradcache, losses

EXACT = resolve("smoke", {"compute_dtype": "float32"})


def batch_of(count: int, settings=EXACT, **changes) -> gradcache.Batch:
    data = [instance(n, **changes) for n in range(count)]
    return gradcache.make_batch(data, "N2", settings, 0)


def test_without_in_batch_negatives_each_query_has_its_own_alone():
    batch = batch_of(3, EXACT.changed(in_batch=False))
    own = len(batch.documents) // 3 - 1
    mine = torch.eye(3, dtype=bool)
    wanted = torch.cat([mine, mine.repeat_interleave(own, dim=1)], dim=1)
    assert torch.equal(~batch.excluded, wanted)
    assert not batch_of(3).excluded.any()  # usually all others are negatives too


def test_a_batch_knows_whose_each_text_is_and_where_it_is_from():
    batch = batch_of(3, EXACT.changed(mixing="hybrid"))
    synthetic = [text.startswith("negative") for text in batch.documents]
    assert batch.synthetic.tolist() == synthetic and sum(synthetic) == 3
    rows = [[text.endswith(f" {n}") for text in batch.documents] for n in range(3)]
    mine = torch.tensor(rows)
    mine[:, :3] = False  # a query's positive is no negative
    assert torch.equal(batch.own, mine)
    known = batch_of(
        1, EXACT.changed(mixing="hybrid"), known_positives=("negative 2 of 0",)
    )
    assert known.own.tolist() == [[False, False, True]]  # a right answer is none


def vectors_of(model, batch, settings) -> torch.Tensor:
    """Vectors of a batch's queries, then its documents, in one graph."""
    groups, order = gradcache.batch_chunks(model, batch, settings)
    return torch.cat([gradcache.group_vectors(model, g) for g in groups])[order]


def test_chunks_keep_order_and_encode_equal_texts_once():
    model, settings = build_student(EXACT), EXACT.changed(mini_batch=1)
    batch = batch_of(2, query="the same", positive="long text " * 8)
    groups, _ = gradcache.batch_chunks(model, batch, settings)
    assert len(groups) == 6  # two queries and two positives are one each
    with torch.no_grad():
        rows = vectors_of(model, batch, settings)
    texts = [(i.query, "Find it") for i in batch.instances]
    texts += [(text, None) for text in batch.documents]
    for row, (text, prompt) in zip(rows, texts, strict=True):
        alone = vectors.embed(model, [text], EXACT, prompt, cache=None)
        assert torch.allclose(row, torch.from_numpy(alone[0]), atol=1e-5)


def test_chunks_hold_no_more_tokens_than_asked_and_lose_no_text():
    model = build_student(EXACT)
    data = [instance(n, query=f"{n} " + "word " * (n % 23)) for n in range(12)]
    batch = gradcache.make_batch(data, "N2", EXACT, 0)
    count = 12 + len(batch.documents)

    def masks_of(size, tokens):
        asked = EXACT.changed(mini_batch=size, mini_batch_tokens=tokens)
        groups, order = gradcache.batch_chunks(model, batch, asked)
        assert sorted(order) == list(range(count))
        return [group["attention_mask"] for group in groups]

    assert [*map(len, masks_of(7, 0))] == [7] * (count // 7) + [count % 7]
    masks = masks_of(50, 256)
    assert all(mask.numel() <= 256 for mask in masks) and sum(map(len, masks)) == count
    for mask, later in itertools.pairwise(masks):
        longer = gradcache.padded_width(int(later[0].sum()))  # it would not have fitted
        assert (len(mask) + 1) * max(mask.shape[1], longer) > 256
    assert [*map(len, masks_of(50, 1))] == [1] * count


def whole_batch(model, batch, settings) -> tuple[torch.Tensor, dict]:
    """The loss and gradients with all activations in one graph."""
    rows = vectors_of(model, batch, settings)
    both = rows.split([len(batch.instances), len(batch.documents)])
    chosen = settings.training
    loss = losses.contrastive_loss(*both, batch.excluded, chosen)
    if chosen.causalneg:
        penalty = losses.causal_neg(*both, batch.own, batch.synthetic)
        loss = loss + chosen.causalneg * penalty
    loss.backward()
    return loss.detach(), {}


def gradients(model, backward, batch, settings) -> tuple[float, dict]:
    model.zero_grad()
    torch.manual_seed(7)
    loss, _ = backward(model, batch, settings)
    trained = checkpoints.adapters(model)
    return loss.item(), {name: p.grad.clone() for name, p in trained.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_dropout": 0.3},
        {"pooling": "mean"},
        {"symmetric": True, "causalneg": 0.5},
    ],
)
@pytest.mark.parametrize(("size", "tokens"), [(1, 0), (3, 0), (64, 64)])
def test_cached_gradients_equal_those_of_the_whole_batch(changes, size, tokens):
    settings = EXACT.changed(**changes)
    model = build_student(settings)
    with torch.no_grad():  # adapters that do something
        for name, parameter in checkpoints.adapters(model).items():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    batch = batch_of(5, settings)
    settings = settings.changed(mini_batch=size, mini_batch_tokens=tokens)
    model.train()
    loss, wanted = gradients(model, whole_batch, batch, settings)
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-4
    for cache in (False, True):
        asked = settings.changed(gradient_cache=cache)
        found, got = gradients(model, gradcache.backward, batch, asked)
        assert found == pytest.approx(loss, rel=1e-5)
        for name, gradient in wanted.items():
            assert torch.allclose(got[name], gradient, atol=1e-5), name


def test_gradient_checkpointing_trains_and_changes_nothing():
    found = []
    for asked in (False, True):
        settings = EXACT.changed(gradient_checkpointing=asked)
        model = build_student(settings)
        model.train()
        found.append(gradients(model, gradcache.backward, batch_of(4), settings)[1])
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-6) for n in found[0])
