"""The plots of page 04."""

import numpy as np
import pandas as pd
from plots.support import check, frame, texts

from nbutils.plots import attention

TOKENS = ["[CLS]", " bees", " dance", "[SEP]"]


def test_a_strip_holds_every_token_once_and_hatches_what_is_not_pooled():
    parts = ["first token", "first word", "other", "template: [SEP]"]
    plot = attention.token_strip(TOKENS, [0, 1, 1, 0], parts, width=3)
    (axis,) = check(plot, "4 tokens", "not pooled: [CLS] [SEP]").axes
    assert texts(axis.texts) == ["[CLS]", "bees", "dance", "[SEP]"]
    assert [bool(p.get_hatch()) for p in axis.patches] == [True, False, False, True]
    assert texts(axis.get_legend().get_texts()) == [*parts, "not pooled"]


def test_a_long_template_has_a_colour_for_every_part():
    parts = [f"template: {number}" for number in range(15)]
    check(attention.token_strip(parts, [0] * 15, parts), "15 tokens")


def test_matrices_stand_side_by_side_and_name_their_leaders():
    received = np.full((2, 4, 4), 0.2)
    received[:, :, 1] = 0.4
    matrices = {"causal": received, "both ways": received[..., ::-1]}
    relative = {"causal": np.array([1, 2, 4, 3]), "both ways": np.array([5, 2, 1, 1])}
    figure = check(
        attention.attention_matrices(TOKENS, matrices, relative),
        "4 tokens: causal, 'bees' receives most (1.6)",
        "of an even share 'dance' (4.0)",
        "both ways, 'dance' receives most (1.6), and of an even share '[CLS]' (5.0)",
    )
    assert len(figure.axes) == 7  # two columns of three, and the colours' scale


def test_series_are_marks_of_their_own_with_and_without_intervals():
    rows = ("causal", "other", 0.9), ("both ways", "other", 1.2)
    table = frame("direction class mean", *rows, spread="mean")
    columns = "class", "direction", "Received"
    plot = attention.by_series(table, *columns, even=True, form=".2f")
    told = "Received, highest and lowest: causal other 0.90 (0.85 to 0.95)"
    (axis,) = check(plot, told, "both ways other 1.20 (1.15 to 1.25)").axes
    assert axis.get_xscale() == "log"
    assert texts(axis.get_legend().get_texts()) == ["causal", "both ways"]
    marks = [container.lines[0].get_ydata()[0] for container in axis.containers]
    assert np.allclose(marks, [-0.1, 0.1])  # around their line, the first above
    rows = ("ata", "before", 0.3), ("ata", "after", 0.55), ("mean", "after", 0.6)
    bare = frame("pooling when mean", *rows, ("last", "after", 0.57))
    check(
        attention.by_series(bare, "pooling", "when", "NDCG@10"),
        "lowest: before ATA 0.300; after mean 0.600, ATA 0.550.",
    )


def test_weights_are_strips_in_even_shares_and_name_their_heaviest():
    weights = {"last": np.eye(4)[-1], "ATA": np.array([0.1, 0.6, 0.2, 0.1])}
    plot = attention.weight_strips(TOKENS, weights)
    strips, _ = check(plot, "last, '[SEP]' 4.0; ATA, 'bees' 2.4").axes
    shown = strips.images[0].get_array()
    assert shown.mask[0].tolist() == [True, True, True, False]  # what weighs nothing
    assert texts(strips.get_xticklabels()) == TOKENS


def test_layers_have_a_panel_for_each_direction():
    rows = [(2, "other", 0.8), (1, "other", 1.2), (1, "comma", 0.9), (2, "comma", 1.5)]
    table = frame("layer class mean", *rows)
    both = [table.assign(direction=name) for name in ("both ways", "causal")]
    plot = attention.classes_by_layer(pd.concat(both, ignore_index=True), kept=1)
    last = "comma in layer 2 (1.5), and in the last layer comma (1.5)"
    figure = check(plot, f"both ways, {last}; causal, {last}")
    panels = figure.axes[:2]
    assert texts(a.title for a in panels) == ["both ways", "causal"]
    assert texts(panels[0].get_yticklabels()) == ["other", "comma"]
    line = panels[0].lines[0]
    assert set(line.get_xdata()) == {1}  # behind the first layer, which is kept
