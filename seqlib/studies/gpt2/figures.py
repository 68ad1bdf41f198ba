"""Figures of the GPT-2 study's page. Each function draws from a frame and returns a Figure."""

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.summaries import log_ticks

_PALETTE = sns.color_palette("colorblind")
FAMILY = {"full": 3, "lora": 0, "lora-all": 2, "rslora": 1, "dora": 4, "frozen": 7}


def colour(label: str):
    """One colour an arm; ranks of LoRA share LoRA's."""
    return _PALETTE[FAMILY[label.partition("-r")[0]]]


def lines(panels: dict[str, pd.DataFrame], xlabel: str, ylabel: str, log: bool = False,
          levels: dict[str, float] | None = None) -> Figure:
    """One panel a title, one line a label over x: mean of `value` with the range of the seeds; `levels` are drawn across."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.5), sharey=True, squeeze=False)
    for ax, (title, data) in zip(axes[0], panels.items()):
        labels = list(data.label.unique())
        sns.lineplot(data, x="x", y="value", hue="label", palette={name: colour(name) for name in labels}, errorbar=("pi", 100),
                     marker="o" if data.x.nunique() < 20 else None, markersize=5, markeredgewidth=0, ax=ax)
        for name, level in (levels or {}).items():
            ax.axhline(level, color=colour(name), ls="--", lw=1.2, label=name)
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if log:
            log_ticks(ax, data.x.unique())
        ax.legend(fontsize=8)
    figure.tight_layout()
    return figure


def frontier(data: pd.DataFrame) -> Figure:
    """What is forgotten against the validation loss, a line a label along its rates; runs that end no better than the worst
    start of a line are cut off."""
    figure, ax = plt.subplots(figsize=(9, 3.8))
    labels = list(data.label.unique())
    shades = sns.color_palette("viridis", len(labels))
    for name, shade in zip(labels, shades):
        own = data[data.label == name].sort_values("lr")
        ax.plot(own.value, own.forgotten, marker="o", ms=4, lw=1.2, label=name,
                color=colour(name) if name in FAMILY else shade)
    first = data.loc[data.groupby("label").lr.idxmin()]
    ax.set(xlabel="validation loss, nats", ylabel="forgotten, nats")
    ax.set_xlim(right=first.value.max() + 0.05)
    ax.set_ylim(top=data[data.value <= first.value.max() + 0.05].forgotten.max() * 1.1)
    ax.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    return figure


def rates(data: pd.DataFrame) -> Figure:
    """Validation loss by learning rate: `data` has label, lr, value; adapters and full fine-tuning in panels of their own."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    whole = data.label == "full"
    for ax, title, own in zip(axes, ("adapters", "full fine-tuning"), (data[~whole], data[whole])):
        means = own.groupby(["lr", "label"]).value.mean().unstack("label")
        shades = sns.color_palette("viridis", means.shape[1]) if means.shape[1] > 1 else [colour(means.columns[0])]
        for label, shade in zip(means, shades):
            ax.plot(means.index, means[label], marker="o", ms=4, lw=1.4, color=shade, label=label)
        ax.set(title=title, xlabel="learning rate")
        log_ticks(ax, means.index)
        ax.legend(fontsize=7, ncols=2)
    axes[0].set_ylabel("validation loss, nats")
    figure.tight_layout()
    return figure
