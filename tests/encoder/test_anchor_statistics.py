"""Anchors: real tokens only, their classes, and every pooling from one pass."""

import numpy as np
import pytest
import torch

from nbutils.encoder import anchor_statistics as anchors
from nbutils.encoder import vectors
from nbutils.encoder.pooling import ata_weights
from nbutils.encoder.student import build_student

TEXTS = ["Bees dance, in the dark.", "Tax!", "A longer text that needs more tokens."]


@pytest.fixture(scope="module")
def entries(student):
    return anchors.inspect(student, TEXTS)


def test_only_real_tokens_are_inspected(student, entries):
    for text, entry in zip(TEXTS, entries, strict=True):
        count, classes = len(entry["tokens"]), entry["classes"]
        whole = student.tokenizer(f"[INST] {text} [/INST]")["input_ids"]
        assert count == len(whole) and entry["tokens"][-1] == "[/INST]"
        assert classes[:2] == ["first token", "template: [INST]"]
        start = classes.index("first word")
        assert start in (2, 3) and classes[-1] == "template: [/INST]"
        assert entry["pooled"].tolist() == [0] * start + [1] * (count - start)
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
    table = anchors.by_layer(entries, 100, 0, causal=False)
    relative = [entry["received"][1] * len(entry["tokens"]) for entry in entries]
    wanted = anchors.class_means(anchors.anchor_table(entries, relative), 100, 0)
    found = dict(list(table.groupby("layer")["mean"]))
    assert [*found] == [1, 2]
    assert found[2].tolist() == pytest.approx(wanted["mean"].tolist())


def test_what_is_inspected_has_no_dropout(settings):
    model = build_student(settings.changed(lora_dropout=0.5)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    one, other = (anchors.inspect(model, ["A text."])[0]["hidden"] for _ in range(2))
    assert np.array_equal(one, other)


def test_classes_of_tokens():
    wanted = {
        "<|im_start|>": "first token", "user": "template: user", "↵": "template: ↵",
        " bees": "first word", ".": "punctuation", "##-": "punctuation",
        " the": "other", "##s": "other", " ": "other", "c#": "other",
        "<|im_end|>": "template: <|im_end|>",
    }  # fmt: skip
    assert anchors.token_classes([*wanted], 3, 1) == [*wanted.values()]
    assert anchors.token_classes(["a", "!"], 0, 0) == [
        "first token",
        "punctuation",
    ]


def test_table_and_means_by_class():
    word, mark = ["first token", "other"], ["punctuation"]
    entries = [
        {"tokens": ["a", "b", "."], "classes": word + mark},
        {"tokens": ["a", "b"], "classes": word},
    ]
    relative = [np.array([1.5, 0.5, 1.0]), np.array([1.2, 0.8])]
    table = anchors.anchor_table(entries, relative)
    assert table["text"].tolist() == [0, 0, 0, 1, 1]
    assert table["position"].tolist() == [0, 1, 2, 0, 1]
    means = anchors.class_means(table, 200, 0).set_index("class")
    assert means.index.tolist() == word + mark
    assert means.loc["first token", "mean"] == pytest.approx((1.5 + 1.2) / 2)
    assert means.loc["punctuation", "texts"] == 1
    assert (means["low"] <= means["mean"]).all()


def test_one_pass_gives_what_each_pooling_gives_alone(student, settings, entries):
    """The student's rule leaves out the tokens of the template's start."""
    alone = vectors.embed(student, TEXTS, settings, cache=None)
    for entry, wanted in zip(entries, alone, strict=True):
        start = int(entry["pooled"].argmax())
        assert np.allclose(anchors.pool([entry], "ata", start)[0], wanted, atol=1e-5)
    assert np.abs(anchors.pool(entries, "ata") - alone).max() > 1e-3
    last = np.stack([entry["hidden"][-1] for entry in entries])
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    assert np.allclose(anchors.pool(entries, "last"), last, atol=1e-6)


def test_a_causal_first_token_is_the_same_in_every_text_and_no_sink(settings):
    alike = {}
    for causal in (False, True):
        model = build_student(settings.changed(bidirectional=not causal))
        seen = anchors.inspect(model, TEXTS)
        vectors = anchors.pool(seen, "first")
        alike[causal] = anchors.unrelated_cosine(vectors, [*"abc"], 100, 0)[0]
        received = [entry["attention"].sum((0, 1)) for entry in seen]
        first = [anchors.relative_attention(r, causal=causal)[0] for r in received]
        assert np.mean(first) == pytest.approx(1, abs=0.15)  # random weights
    assert alike[True] == pytest.approx(1, abs=1e-5) and alike[False] < 0.9999


def test_an_even_causal_attention_by_hand():
    """Of three tokens the first receives 1 + 1/2 + 1/3, the last 1/3."""
    assert anchors.even_causal(3) == pytest.approx([11 / 6, 5 / 6, 1 / 3])
    received = np.array([2.5, 0.25, 0.25])
    wanted = [2.5 / (11 / 6), 0.25 / (5 / 6), 0.25 * 3]
    assert anchors.relative_attention(received, causal=True) == pytest.approx(wanted)
    both_ways = anchors.relative_attention(received / 3, causal=False)
    assert both_ways == pytest.approx(received)


def test_only_pairs_of_different_groups_count_as_unrelated():
    plane = np.array([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8]])
    mean, low, high = anchors.unrelated_cosine(plane, ["a", "a", "b", "b"], 500, 0)
    assert mean == pytest.approx((0 + 0.6) / 2)
    assert low <= mean <= high
    unlike = anchors.unrelated_cosine(plane, ["a", "b", "c", "d"], 500, 0)[0]
    assert unlike == pytest.approx((1 + 0 + 0.6 + 0 + 0.6 + 0.8) / 6)
