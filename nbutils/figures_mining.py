"""The plots of mining: data frames in, a figure and its one-line description out."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from nbutils.figures import PALETTE, Plot, canvas


def overlap_matrix(pairs: pd.DataFrame) -> Plot:
    """Mean Jaccard overlap of every pair of teachers: one, other, jaccard."""
    means = pairs.groupby(["one", "other"], sort=False)["jaccard"].mean()
    names = list(dict.fromkeys([*pairs["one"], *pairs["other"]]))
    table = pd.DataFrame(1.0, index=names, columns=names)
    for (one, other), value in means.items():
        table.loc[one, other] = table.loc[other, one] = value
    fig, axis = canvas(6.4, 4.2)
    sns.heatmap(
        table, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, ax=axis,
        cbar_kws={"label": "Jaccard overlap"},
    )  # fmt: skip
    least, most = means.idxmin(), means.idxmax()
    return fig, (
        f"Overlap of what {len(names)} teachers mine: least {' and '.join(least)} "
        f"({means.min():.2f}), most {' and '.join(most)} ({means.max():.2f})."
    )


def scaling(curve: pd.DataFrame) -> Plot:
    """Seconds and memory against documents: documents, ours, bare (s), memory (MB)."""
    fig, (left, right) = canvas(8.4, 3.4, columns=2)
    left.plot(curve["documents"], curve["ours"], "o-", color=PALETTE[0], label="search")
    left.plot(
        curve["documents"], curve["bare"], "s--", color=PALETTE[1],
        label="bare float32 product and top-k",
    )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="documents", ylabel="seconds")
    left.legend(frameon=False, fontsize=8)
    right.plot(curve["documents"], curve["memory"], "o-", color=PALETTE[0])
    right.set(xscale="log", xlabel="documents", ylabel="MB beside the vectors")
    right.set_ylim(0, None)
    told = "; ".join(
        f"{row.documents:,}: {row.ours / row.bare:.2f} of the bare time, "
        f"{row.memory:.0f} MB"
        for row in curve.itertuples()
    )
    return fig, f"Exact search as the corpus grows, documents: {told}."
