"""Anchors: real tokens only, their classes, and one pass for every pooling."""

import numpy as np
import pytest
import torch

from nbutils.core.settings import resolve
from nbutils.encoder import anchors, vectors
from nbutils.encoder.pooling import POOLINGS, ata_weights
from nbutils.encoder.student import build_student

TEXTS = ["Bees dance, in the dark.", "Tax!", "A longer text that needs more tokens."]


@pytest.fixture(scope="module")
def settings():
    return resolve("smoke", {"compute_dtype": "float32"})


@pytest.fixture(scope="module")
def student(settings):
    return build_student(settings)


def test_only_real_tokens_are_inspected(student):
    for text, entry in zip(TEXTS, anchors.inspect(student, TEXTS), strict=True):
        count = len(entry["tokens"])
        body = student.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert count == len(body) + 5  # <s> [INST] space … space [/INST]
        assert entry["tokens"][-1] == "[/INST]"
        assert entry["attention"].shape == (4, count, count)
        assert entry["hidden"].shape == (count, 64)
        assert np.allclose(entry["attention"].sum(-1), 1, atol=1e-5)


def test_classes_of_tokens():
    assert anchors.token_class("[CLS]", 0, 4) == "first token"
    assert anchors.token_class("[SEP]", 3, 4) == "last token"
    for token in (".", "Ġ,", "##-", "▁!"):
        assert anchors.token_class(token, 1, 4) == "punctuation", token
    for token in ("bees", "Ġthe", "##s", "Ġ", "c#"):
        assert anchors.token_class(token, 1, 4) == "word", token


def test_table_and_means_by_class():
    entries = [{"tokens": ["a", "b", ".", "c"]}, {"tokens": ["a", "b", "c"]}]
    weights = [np.array([0.4, 0.2, 0.3, 0.1]), np.array([0.5, 0.3, 0.2])]
    table = anchors.anchor_table(entries, weights)
    assert table.groupby("text")["relative"].mean().tolist() == pytest.approx([1, 1])
    means = anchors.class_means(table, 200, 0).set_index("class")
    assert means.loc["first token", "mean"] == pytest.approx((1.6 + 1.5) / 2)
    assert means.loc["punctuation", "texts"] == 1
    assert (means["low"] <= means["mean"]).all()


def test_one_pass_gives_what_each_pooling_gives_alone(student, settings):
    found = anchors.pooled(student, TEXTS)
    assert set(found) == set(POOLINGS)
    alone = vectors.embed(student, TEXTS, settings, cache=None)
    assert np.allclose(found["ata"], alone, atol=1e-5)
    assert np.abs(found["mean"] - found["last"]).max() > 1e-3


def test_layers_end_with_what_the_pooling_sees(student, settings):
    table = anchors.by_layer(student, TEXTS, 100, 0)
    assert table["layer"].unique().tolist() == [1, 2]
    entries = anchors.inspect(student, TEXTS)
    weights = []
    for entry in entries:
        attention = torch.from_numpy(entry["attention"])[None]
        mask = torch.ones(1, attention.shape[-1])
        weights.append(ata_weights(attention, mask)[0].numpy())
    wanted = anchors.class_means(anchors.anchor_table(entries, weights), 100, 0)
    last = table[table["layer"] == 2].set_index("class")["mean"]
    assert np.allclose(last, wanted.set_index("class")["mean"].loc[last.index], 1e-3)
    first = table[table["layer"] == 1].set_index("class")["mean"]
    assert np.abs(first - last).max() > 1e-3


def test_causal_attention_favours_the_beginning(settings):
    found = {}
    for both_ways in (True, False):
        change = {"bidirectional": both_ways, "pooling": "ata"}
        model = build_student(settings.changed(**change))
        weights = [
            e["attention"].sum((0, 1)) / e["attention"].sum()
            for e in anchors.inspect(model, TEXTS)
        ]
        found[both_ways] = anchors.by_place(weights, 100, 0)["mean"].tolist()
    assert found[False][0] > 1.3 > 0.7 > found[False][-1]
    assert max(found[True]) - min(found[True]) < 0.5


def test_places_of_a_text_by_hand():
    table = anchors.by_place([np.array([0.5, 0.3, 0.2, 0.0])], 100, 0, parts=2)
    assert table["mean"].tolist() == pytest.approx([1.6, 0.4])
    assert table["part"].tolist() == [1, 2]


def test_an_even_causal_attention_by_hand():
    """Of three tokens the first receives 1 + 1/2 + 1/3, the last 1/3."""
    assert anchors.even_causal(3) == pytest.approx([11 / 6, 5 / 6, 1 / 3])
    even = np.tri(3) / np.tri(3).sum(1, keepdims=True)
    sink = np.array([[1, 0, 0], [1, 0, 0], [0.5, 0.25, 0.25]])
    heads = np.stack([even, sink])
    found = anchors.relative_attention(heads, causal=True)
    wanted = [(11 / 6 + 2.5) / (11 / 3), (5 / 6 + 0.25) / (5 / 3), (1 / 3 + 0.25) * 1.5]
    assert found == pytest.approx(wanted)
    both_ways = anchors.relative_attention(np.full((2, 4, 4), 0.25), causal=False)
    assert both_ways == pytest.approx([1, 1, 1, 1])
