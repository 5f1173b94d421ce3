"""The plots of page 04."""

import numpy as np
from plots.support import check, frame, texts

from nbutils.plots import attention

TOKENS = ["[CLS]", "bees", "dance", "[SEP]"]


def test_attention_matrix_and_running_sums_name_their_leaders():
    received = np.full((2, 4, 4), 0.2)
    received[:, :, 1] = 0.4
    told = ("4 tokens", "'bees' receives most, 1.6 times an even share")
    check(attention.attention_with_columns(TOKENS, received), *told)
    running = np.array([[2.0, 1.0, 1.0], [3.0, 2.0, 7.0]])
    first = "2 blocks of 4 queries: 'a' leads after the first block"
    last = "'c' after the last with 1.75 even shares"
    check(attention.sums_by_block(["a", "b", "c"], running, 4), first, last)


def test_heat_strips_hold_every_token_once_and_name_the_heaviest():
    entries = [{"tokens": TOKENS}, {"tokens": ["a", "photosynthesis"]}]
    weights = [np.array([0.2, 0.5, 0.2, 0.1]), np.array([0.3, 0.7])]
    told = "2 texts as heat strips; the heaviest tokens are 'bees', 'photosynthesis'"
    figure = check(attention.heat_strips(entries, weights, width=3), told)
    assert [*filter(None, texts(figure.axes[0].texts))] == [*TOKENS, "a", "photosy…"]


def test_weights_by_class_have_intervals_and_both_ends_of_the_layers():
    means = frame("class mean", ("word", 0.9), ("punctuation", 1.2), spread="mean")
    told = "word 0.90 (0.85 to 0.95), punctuation 1.20 (1.15 to 1.25)"
    check(attention.anchor_classes(means), told)
    rows = [(2, "word", 0.8), (1, "word", 1.2), (1, "comma", 0.9), (2, "comma", 1.5)]
    table = frame("layer class mean", *rows, spread="mean")
    told = "first to last layer: word 1.20 to 0.80; comma 0.90 to 1.50"
    check(attention.weights_along(table, "layer", "class", "layer"), told)


def test_poolings_have_intervals_before_and_both_scores_after_training():
    table = frame("pooling mean", ("weighted_mean", 0.4), ("ata", 0.5), spread="mean")
    told = "weighted mean 0.400 (0.350 to 0.450), ATA 0.500 (0.450 to 0.550)"
    check(attention.pooling_scores(table), told)
    table = frame("pooling before after", ("mean", 0.4, 0.5), ("ata", 0.3, 0.55))
    told = "held-out tasks: mean 0.400 to 0.500; ATA 0.300 to 0.550"
    check(attention.pooling_before_after(table, "held-out tasks"), told)
