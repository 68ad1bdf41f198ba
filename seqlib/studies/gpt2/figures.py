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


def rates(data: pd.DataFrame) -> Figure:
    """Validation loss by learning rate: `data` has label, lr, value; adapters and full fine-tuning in panels of their own."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
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
