"""Figures of the GPT-2 study's page. Each function draws from a frame and returns a Figure."""

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.studies.gpt2.specs import RANK
from seqlib.summaries import log_ticks

_PALETTE = sns.color_palette("colorblind")
FAMILY = {"full": 3, "lora": 0, "lora-all": 2, "rslora": 1, "dora": 4, "frozen": 7}
NEAR = 0.15  # nats


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


def shades(data: pd.DataFrame) -> dict[str, tuple]:
    """A colour a label, in the order of legends: an arm in its own, lower ranks of LoRA lighter and higher ones darker."""
    rank = {label: int(label.partition("-r")[2] or RANK) for label in data.label.unique()}
    order = sorted(rank, key=lambda label: (list(FAMILY).index(label.partition("-r")[0]), rank[label]))
    found = {label: colour(label) for label in order}
    for palette, ranks in ((sns.light_palette, [x for x in order if x.startswith("lora-r") and rank[x] < RANK]),
                           (sns.dark_palette, [x for x in reversed(order) if x.startswith("lora-r") and rank[x] > RANK])):
        found |= dict(zip(ranks, palette(_PALETTE[FAMILY["lora"]], len(ranks) + 2)[1:]))
    return found


def frontier(data: pd.DataFrame) -> Figure:
    """What is forgotten against the validation loss, a line a label along its rates, up to NEAR above the lowest loss."""
    figure, ax = plt.subplots(figsize=(9, 3.8))
    for name, shade in shades(data).items():
        own = data[data.label == name].sort_values("lr")
        ax.plot(own.value, own.forgotten, marker="o", ms=4, lw=1.2, label=name, color=shade)
    inside = data[data.value <= data.value.min() + NEAR]
    ax.set(xlabel="validation loss, nats", ylabel="forgotten, nats")
    frame_of(ax.set_xlim, inside.value)
    frame_of(ax.set_ylim, inside.forgotten)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def rates(data: pd.DataFrame) -> Figure:
    """Validation loss by learning rate: `data` has label, lr, value; full fine-tuning and adapters in panels of their own.
    Losses above the worst start of a line are cut off."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    whole = data.label == "full"
    for ax, title, own in zip(axes, ("full fine-tuning", "adapters"), (data[whole], data[~whole])):
        means = own.groupby(["lr", "label"]).value.mean().unstack("label")
        for label, shade in shades(own).items():
            ax.plot(means.index, means[label], marker="o", ms=4, lw=1.4, color=shade, label=label)
        ax.set(title=title, xlabel="learning rate")
        log_ticks(ax, means.index)
    worst_start = data.loc[data.groupby("label").lr.idxmin()].value.max()
    frame_of(axes[0].set_ylim, data.value[data.value <= worst_start])
    axes[0].set_ylabel("validation loss, nats")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def frame_of(limit, values: pd.Series) -> None:
    """Set an axis around some values."""
    margin = 0.06 * (values.max() - values.min()) or 0.05
    limit(values.min() - margin, values.max() + margin)
