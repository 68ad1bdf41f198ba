"""Figures of the ERNIE page. Each function draws from a frame and returns a Figure."""

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.show import ink
from seqlib.studies.ernie.specs import ARMS
from seqlib.summaries import log_ticks

_PALETTE = sns.color_palette("colorblind")
COLOURS = dict(zip(ARMS, (_PALETTE[i] for i in (3, 0, 9, 2, 4))))  # full as in the GPT-2 study, and LoRA


def colour(label: str):
    """One colour an arm; its variants share it, random weights are grey."""
    arm = max((a for a in ARMS if label.startswith(a)), key=len)
    return _PALETTE[7] if label.endswith("random") and arm == "full" else COLOURS[arm]


def lines(panels: dict[tuple[str, str], pd.DataFrame]) -> Figure:
    """One panel a pair of labels (of its x and its y axis), one line a label over x: mean of `value` with the range of the
    seeds."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.4), squeeze=False)
    for ax, ((xlabel, ylabel), data) in zip(axes[0], panels.items()):
        sns.lineplot(data, x="x", y="value", hue="label", palette={name: colour(name) for name in data.label.unique()},
                     errorbar=("pi", 100), marker="o" if data.x.nunique() < 20 else None, markersize=4, markeredgewidth=0,
                     ax=ax)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=8)
    figure.tight_layout()
    return figure


def ranks(data: pd.DataFrame, levels: dict[str, float], ylabel: str) -> Figure:
    """Accuracy by rank, a line a rule for alpha; `levels` are drawn across."""
    figure, ax = plt.subplots(figsize=(9, 3.4))
    for (rule, own), style, shade in zip(data.groupby("rule"), ("-", "--"), (_PALETTE[0], _PALETTE[2])):
        sns.lineplot(own, x="x", y="value", errorbar=("pi", 100), ax=ax, color=shade, label=rule, marker="o", markersize=5,
                     markeredgewidth=0, linestyle=style)
    for name, level in levels.items():
        ax.axhline(level, color=colour(name), ls=":", lw=1.4, label=name)
    log_ticks(ax, data.x.unique(), 2)
    ax.set(xlabel="rank", ylabel=ylabel)
    ax.legend(fontsize=8)
    figure.tight_layout()
    return figure


def rates(data: pd.DataFrame) -> Figure:
    """Accuracy on the development set by learning rate, a line a label."""
    figure, ax = plt.subplots(figsize=(9, 3.4))
    for name, own in data.groupby("label"):
        means = own.groupby("lr").value.mean()
        ax.plot(means.index, 100 * means, marker="o", ms=4, lw=1.4, color=colour(name), label=name,
                ls="--" if name.endswith("random") else "-" if name in ARMS else ":")
    log_ticks(ax, data.lr.unique())
    ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel="learning rate", ylabel="accuracy on the development set, %")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """A heat map of shares in percent: rows are true classes."""
    figure, ax = plt.subplots(figsize=(9, 1.6 + 0.38 * len(table)))
    sns.heatmap(100 * table, ax=ax, cmap="viridis", vmin=0, vmax=100, annot=True, fmt=".0f", annot_kws={"fontsize": 8},
                cbar=False)
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=45)
    figure.tight_layout()
    return figure


def curve(data: pd.DataFrame, levels: dict[str, float]) -> Figure:
    """Loss of a pretraining by step: `data` has label, x, value; `levels` are drawn across."""
    figure, ax = plt.subplots(figsize=(9, 3.2))
    for shade, (name, own) in zip(_PALETTE, data.groupby("label")):
        ax.plot(own.x, own.value, color=shade, lw=1.2, label=name)
    for name, level in levels.items():
        ax.axhline(level, color=ink(), ls=":", lw=1.2, label=name)
    ax.set(xlabel="steps", ylabel="loss of masked tokens, nats")
    ax.legend(fontsize=8)
    figure.tight_layout()
    return figure
