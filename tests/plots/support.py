"""What holds for every plot: readable, told in one line, nothing over the data."""

import matplotlib.pyplot as plt
import pandas as pd

from nbutils.core.settings import DATA

plt.switch_backend("Agg")


def check(plot, *told: str):
    """The figure of a plot whose line holds each of the texts `told`."""
    figure, text = plot
    assert figure.dpi == plt.rcParams["savefig.dpi"] == 160
    assert figure.axes and figure.get_figwidth() <= 8
    figure.canvas.draw()
    for axis in figure.axes:
        if legend := axis.get_legend():
            assert min(t.get_fontsize() for t in legend.get_texts()) >= 9
            assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
        labels = [axis.xaxis.label, axis.yaxis.label]
        for label in [*labels, *axis.get_xticklabels(), *axis.get_yticklabels()]:
            assert label.get_fontsize() >= 9 and "_" not in label.get_text(), label
    assert "\n" not in text and text == text.strip() and text.endswith(".")
    for part in told:
        assert part in text, text
    assert "nan" not in text
    plt.close(figure)
    return figure


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def frame(columns: str, *rows: tuple, spread: str = "") -> pd.DataFrame:
    """A table; `spread` names the column that has an interval of ± 0.05."""
    table = pd.DataFrame(rows, columns=columns.split())
    if spread:
        table = table.assign(low=table[spread] - 0.05, high=table[spread] + 0.05)
    return table


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / "published" / f"{name}.csv")
