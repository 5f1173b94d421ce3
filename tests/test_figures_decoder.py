"""The plots of the bonus page draw, and say in one line what they show."""

import pandas as pd
from test_figures import check, closed  # noqa: F401 (a fixture for every test)

from nbutils import anchors, figures_decoder


def test_losses_name_the_decoder_and_each_counting_model_once():
    curve = pd.DataFrame({"tokens": [0, 2_000_000], "validation_loss": [9.0, 4.5]})
    table = pd.DataFrame(
        {
            "counted": ["seen"] * 3 + ["all"] * 3,
            "model": ["unigram", "trigram", "decoder"] * 2,
            "loss": [7.2, 5.3, 4.6, 7.2, 4.3, 4.6],
        }
    )
    text = check(figures_decoder.losses(curve, table))
    assert "decoder 4.60 after 2.0 million tokens" in text
    assert text.count("unigram") == 1
    assert "trigram of as many tokens 5.30; trigram of all tokens 4.30" in text


def test_sinks_read_the_last_layer_of_each_stage():
    rows = [
        {"stage": stage, "layer": layer, "class": name, "mean": value + layer}
        for stage, value in (("lm", 1.0), ("distill", 2.0))
        for layer in (1, 2)
        for name in anchors.CLASSES
    ]
    table = pd.DataFrame(rows).assign(low=0.5, high=9.0)
    text = check(figures_decoder.sinks(table, {"distill": "both ways", "lm": "causal"}))
    assert "both ways: first token 4.00, last token 4.00" in text
    assert "causal: first token 3.00" in text


def test_stages_stand_in_order_beside_minilm():
    rows = [{"stage": "MiniLM", "kind": "as published", "score": 0.5}]
    rows += [
        {"stage": stage, "kind": f"{mode} {way}", "score": score}
        for stage, way, score in (("lm", "causal", 0.1), ("distill", "both ways", 0.3))
        for mode in ("mean", "ata", "last")
    ]
    kinds = {"lm": "causal", "distill": "both ways"}
    text = check(figures_decoder.by_stage(pd.DataFrame(rows), kinds))
    assert "lm 0.100, distill 0.300; MiniLM 0.500" in text


def test_directions_tell_each_difference_with_its_interval():
    table = pd.DataFrame(
        {
            "set": "tasks",
            "kind": ["mean both ways", "last causal"],
            "difference": [0.0, -0.2],
            "low": [0.0, -0.3],
            "high": [0.0, -0.1],
        }
    )
    text = check(figures_decoder.directions(table, "mean both ways"))
    assert "tasks, last causal -0.200 (-0.300 to -0.100)" in text
