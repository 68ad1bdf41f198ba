"""Figures of the attention search's page. Each function draws from a frame and returns a Figure."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.show import ink
from seqlib.studies.attention_search.arms import FAIR
from seqlib.summaries import log_ticks, seed_dots

_PALETTE = sns.color_palette("colorblind")
FAMILY = {"baseline": 7, "lora": 0, "enhanced": 1, "rope": 2, "bias": 4}


def colour(arm: str):
    """One colour a family of configurations; the fair search has its own."""
    return _PALETTE[3 if arm in FAIR else FAMILY[arm.replace("-matched", "").partition("_")[0]]]


def ranks(panels: dict[str, pd.DataFrame], metric: str, label: str) -> Figure:
    """One panel a protocol: every seed a dot, the mean a bar, arms in the order of the first panel's means."""
    order = next(iter(panels.values())).groupby("arm")[metric].mean().sort_values().index
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 1.2 + 0.32 * len(order)), sharey=True, squeeze=False)
    for ax, (title, frame) in zip(axes[0], panels.items()):
        seed_dots(ax, {arm: frame.loc[frame.arm == arm, metric] for arm in order}, colour, ink())
        ax.set(title=title, xlabel=label)
        ax.title.set_fontsize(10)
    figure.tight_layout()
    return figure


def lines(data: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """Mean over seeds of `value` against `x`, one line an arm, named at its end."""
    figure, ax = plt.subplots(figsize=(9, 4.2))
    means = data.groupby(["arm", "x"]).value.mean().unstack("arm")
    ends = means.iloc[-1].sort_values()
    room = (means.max().max() - means.min().min()) / 24
    places = np.maximum.accumulate(ends.to_numpy() - room * np.arange(len(ends))) + room * np.arange(len(ends))
    for arm, place in zip(ends.index, places):
        ax.plot(means.index, means[arm], color=colour(arm), lw=1.4, marker="o", ms=3)
        ax.annotate(arm, (means.index[-1], place), xytext=(8, 0), textcoords="offset points", fontsize=8, va="center",
                    color=colour(arm))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    log_ticks(ax, means.index)
    figure.tight_layout()
    return figure


def bands(data: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """Mean over seeds with their range, one line a `what`: `data` has what, x, seed, value."""
    figure, ax = plt.subplots(figsize=(9, 3.4))
    sns.lineplot(data, x="x", y="value", hue="what", errorbar=("pi", 100), marker="o", markersize=5, markeredgewidth=0, ax=ax)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    log_ticks(ax, data.x.unique())
    ax.legend(fontsize=8)
    return figure


def intervals(told: pd.DataFrame, names: dict[str, str], xlabel: str) -> Figure:
    """Effects with their intervals, zero marked: `told` has effect, mean, low, high."""
    figure, ax = plt.subplots(figsize=(9, 0.9 + 0.3 * len(told)))
    for y, row in enumerate(told.itertuples()):
        ax.plot([row.low, row.high], [y, y], color=_PALETTE[0], lw=2)
        ax.plot(row.mean, y, "o", color=_PALETTE[0], ms=5)
    ax.axvline(0, color=ink(), lw=0.8)
    ax.set(yticks=range(len(told)), xlabel=xlabel, ylim=(len(told) - 0.5, -0.5))
    ax.set_yticklabels([names.get(effect, effect) for effect in told.effect])
    ax.grid(axis="y", visible=False)
    return figure

