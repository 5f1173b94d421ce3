"""Anchors: real tokens only, their classes, and one pass for every pooling."""

import numpy as np
import pytest

from nbutils import anchors, encoder
from nbutils.pooling import POOLINGS
from nbutils.settings import resolve

TEXTS = ["Bees dance, in the dark.", "Tax!", "A longer text that needs more tokens."]


@pytest.fixture(scope="module")
def settings():
    return resolve("smoke", {"compute_dtype": "float32"})


@pytest.fixture(scope="module")
def student(settings):
    return encoder.build_student(settings)


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
    found = anchors.pooled(student, TEXTS, batch=2)
    assert set(found) == set(POOLINGS)
    alone = encoder.embed(student, TEXTS, settings, cache=None)
    assert np.allclose(found["ata"], alone, atol=1e-5)
    assert np.abs(found["mean"] - found["last"]).max() > 1e-3
