"""Anchors: real tokens only, their classes, and one pass for every pooling."""

import numpy as np
import pytest
import torch

from nbutils.encoder import anchors, vectors
from nbutils.encoder.pooling import POOLINGS, ata_weights
from nbutils.encoder.student import build_student

TEXTS = ["Bees dance, in the dark.", "Tax!", "A longer text that needs more tokens."]


@pytest.fixture(scope="module")
def entries(student):
    return anchors.inspect(student, TEXTS)


def test_only_real_tokens_are_inspected(student, entries):
    for text, entry in zip(TEXTS, entries, strict=True):
        count = len(entry["tokens"])
        body = student.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert count == len(body) + 5  # <s> [INST] space … space [/INST]
        assert entry["tokens"][-1] == "[/INST]"
        assert entry["attention"].shape == (4, count, count)
        assert entry["hidden"].shape == (count, 64)
        for weights in (entry["attention"], entry["received"]):
            assert np.allclose(weights.sum(-1), 1, atol=1e-5)


def test_what_is_received_is_of_each_layer_and_of_the_pooling_in_the_last(entries):
    for entry in entries:
        attention = torch.from_numpy(entry["attention"])[None]
        wanted = ata_weights(attention, torch.ones(1, attention.shape[-1]))[0]
        first, last = entry["received"]
        assert np.allclose(last, wanted, atol=1e-5)
        assert np.abs(first - last).max() > 1e-4
    table = anchors.by_layer(entries, 100, 0)
    assert table["layer"].unique().tolist() == [1, 2]
    weights = [entry["received"][1] for entry in entries]
    wanted = anchors.class_means(anchors.anchor_table(entries, weights), 100, 0)
    assert table[table["layer"] == 2]["mean"].tolist() == wanted["mean"].tolist()


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


def test_causal_attention_favours_the_beginning_also_where_it_is_even(settings):
    found, relative = {}, {}
    for both_ways in (True, False):
        model = build_student(settings.changed(bidirectional=both_ways))
        seen = [entry["attention"] for entry in anchors.inspect(model, TEXTS)]
        weights = [one.sum((0, 1)) / one.sum() for one in seen]
        found[both_ways] = anchors.by_place(weights, 100, 0)["mean"].tolist()
        relative[both_ways] = [
            anchors.relative_attention(one, causal=not both_ways)[0] for one in seen
        ]
    assert found[False][0] > 1.3 > 0.7 > found[False][-1]
    assert max(found[True]) - min(found[True]) < 0.5
    for first in relative.values():  # random weights prefer no token
        assert np.mean(first) == pytest.approx(1, abs=0.15)


def test_places_of_a_text_by_hand():
    table = anchors.by_place([np.array([0.5, 0.3, 0.2, 0.0])], 100, 0, parts=2)
    assert table["mean"].tolist() == pytest.approx([1.6, 0.4])
    assert table["part"].tolist() == [1, 2]


def test_an_even_causal_attention_by_hand():
    """Of three tokens the first receives 1 + 1/2 + 1/3, the last 1/3."""
    assert anchors.even_causal(3) == pytest.approx([11 / 6, 5 / 6, 1 / 3])
    sink = np.array([[[1, 0, 0], [1, 0, 0], [0.5, 0.25, 0.25]]])
    wanted = [2.5 / (11 / 6), 0.25 / (5 / 6), 0.25 * 3]
    assert anchors.relative_attention(sink, causal=True) == pytest.approx(wanted)
    both_ways = anchors.relative_attention(sink, causal=False)
    assert both_ways == pytest.approx([2.5, 0.25, 0.25])
