"""What holds for every plot: readable, told in one line, nothing over the data."""

import matplotlib.pyplot as plt
import pandas as pd

plt.switch_backend("Agg")


def check(plot, *told: str):
    """The figure of a plot whose line holds each of the texts `told`."""
    figure, text = plot
    assert figure.dpi == plt.rcParams["savefig.dpi"] == 160
    assert figure.axes and figure.get_figwidth() <= 8
    figure.canvas.draw()
    for axis in figure.axes:
        labels = [axis.xaxis.label, axis.yaxis.label]
        labels += [*axis.get_xticklabels(), *axis.get_yticklabels()]
        if legend := axis.get_legend():
            assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
            labels += legend.get_texts()
        for label in labels:
            assert label.get_fontsize() >= 9 and "_" not in label.get_text(), label
    assert text == " ".join(text.split()) and text.endswith(".") and "nan" not in text
    for part in told:
        assert part in text, text
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
