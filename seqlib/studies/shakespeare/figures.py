"""Figures of the Tiny Shakespeare page. Each function draws from a frame and returns a Figure."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.show import ink
from seqlib.studies.shakespeare.arms import ARMS
from seqlib.summaries import band, log_ticks

COLOURS = dict(zip(ARMS, [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 8, 4, 3, 7)]))
STYLES = {"transformer-rope": "--", "transformer-fast": ":"}


def panels(frames: dict[str, pd.DataFrame], ylabel: str, log: tuple[str, ...] = (), marker: str = "",
           legend: int = -1) -> Figure:
    """One panel a title (which is the label of its x axis), one line an arm."""
    figure, axes = plt.subplots(1, len(frames), figsize=(9, 3.5), sharey=True, squeeze=False)
    for ax, (label, data) in zip(axes[0], frames.items()):
        band(ax, data, ARMS, COLOURS, STYLES, lw=1.7, marker=marker, ms=4)
        ax.set_xlabel(label)
        if label in log:
            log_ticks(ax, data.x.unique(), 2)
    axes[0][0].set_ylabel(ylabel)
    axes[0][legend].legend(fontsize=8)
    figure.tight_layout()
    return figure


def seeds(frame: pd.DataFrame, metric: str, label: str, reference: dict[str, float]) -> Figure:
    """Every seed as a dot, those of the arms with most seeds joined, mean of each arm, the document's figure as a cross."""
    order = frame.groupby("arm")[metric].mean().sort_values().index
    figure, ax = plt.subplots(figsize=(9, 1.2 + 0.42 * len(order)))
    counts = frame.groupby("arm").seed.nunique()
    joined = [y for y, arm in enumerate(order) if counts[arm] == counts.max()]
    for _, own in frame.groupby("seed"):
        ax.plot(own.set_index("arm")[metric].reindex(order).iloc[joined], joined, color=ink(), lw=0.5, alpha=0.35)
    for y, arm in enumerate(order):
        values = frame.loc[frame.arm == arm, metric]
        ax.scatter(values, np.full(len(values), y), s=22, color=COLOURS[arm], zorder=3)
        ax.plot(values.mean(), y, "|", color=ink(), ms=16, mew=2)
        if arm in reference:
            ax.plot(reference[arm], y, "x", color=ink(), ms=8, mew=2)
    ax.set(yticks=range(len(order)), yticklabels=order, xlabel=label, ylim=(len(order) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    return figure


def bars(data: pd.DataFrame, names: list[str], xlabel: str) -> Figure:
    """Accuracy by group: `data` has arm, seed, x (number of the group), value."""
    figure, ax = plt.subplots(figsize=(9, 3.4))
    told = data.groupby(["arm", "x"]).value.mean().unstack("arm")
    arms = [a for a in ARMS if a in told]
    width = 0.8 / len(arms)
    for i, arm in enumerate(arms):
        ax.bar(told.index + (i - (len(arms) - 1) / 2) * width, told[arm], width, color=COLOURS[arm], label=arm)
    ax.set(xticks=range(len(names)), xticklabels=names, xlabel=xlabel, ylabel="accuracy")
    ax.legend(ncols=len(arms), fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.14))
    ax.grid(axis="x", visible=False)
    return figure


def grid(table: pd.DataFrame, arms: list[str]) -> Figure:
    """Recall accuracy: one panel an arm, width by sequence length, mean over seeds."""
    figure, axes = plt.subplots(1, len(arms), figsize=(9, 2.4), sharey=True, squeeze=False)
    for ax, arm in zip(axes[0], arms):
        wide = table[table.arm == arm].pivot_table(index="width", columns="context", values="recall_accuracy")
        sns.heatmap(wide, ax=ax, vmin=0, vmax=1, cmap="viridis", annot=True, fmt=".2f", cbar=False, square=False,
                    annot_kws={"fontsize": 9})
        ax.set(title=arm, xlabel="length", ylabel="width" if arm == arms[0] else "")
        ax.title.set_fontsize(9)
    figure.tight_layout()
    return figure


def attention(looks: dict[str, tuple[str, np.ndarray]]) -> Figure:
    """Weights (T, T) over a short text, one panel an arm: rows predict the next character, columns are looked at."""
    rows = -(-len(looks) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 4.6 * rows), squeeze=False)
    for ax in axes.flat[len(looks) :]:
        ax.set_axis_off()
    for ax, (arm, (text, weights)) in zip(axes.flat, looks.items()):
        shown = [{"\n": "¶", " ": "·"}.get(c, c) for c in text]
        ax.imshow(np.sqrt(weights), cmap="viridis", vmin=0)
        ax.set(title=arm, xticks=range(len(shown)), yticks=range(len(shown)))
        ax.set_xticklabels(shown, fontsize=7)
        ax.set_yticklabels(shown, fontsize=7)
        ax.tick_params(length=0)
        ax.grid(visible=False)
    figure.tight_layout()
    return figure
