"""Figures of the airline page. Each function draws from records (as a frame or curves) and returns a Figure."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib.show import ink
from seqlib.stats import bca_interval
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import PUBLISHED
from seqlib.summaries import band, curve_frame, quantiles, summary

COLOURS = dict(zip(PUBLISHED, sns.color_palette("colorblind")))


def losses(records) -> Figure:
    """Training and validation loss by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for ax, name, title in zip(axes, ("train_loss", "val_loss"), ("Training (dropout on)", "Validation")):
        band(ax, curve_frame(records, name, first=1), PUBLISHED, COLOURS, lw=1.6)
        ax.set(yscale="log", xlabel="epoch", title=title)
    axes[0].set_ylabel("MSE, standardised")
    axes[1].legend(ncols=2, loc="upper right")
    figure.tight_layout()
    return figure


def errors(frame: pd.DataFrame, lines: dict[str, float], metric: str = "test_mae",
           label: str = "test MAE, thousands of passengers") -> Figure:
    """Every seed as a dot, mean with interval, baselines as labelled lines."""
    order = summary(frame, metric)
    figure, ax = plt.subplots(figsize=(9, 1.7 + 0.32 * len(order)))
    for y, row in order.iterrows():
        values = frame.loc[frame.arm == row.arm, metric]
        colour = COLOURS[row.arm.split("-")[0]]
        jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
        ax.scatter(values, y + jitter, s=9, color=colour, alpha=0.45, lw=0)
        ax.plot([row.low, row.high], [y, y], color=ink(), lw=2.2, solid_capstyle="butt")
        ax.plot(row["mean"], y, "D", color=ink(), ms=4.5)
    for i, (name, value) in enumerate(sorted(lines.items(), key=lambda item: item[1])):
        ax.axvline(value, color=ink(), lw=1, ls=(0, (4, 2)), alpha=0.7)
        ax.annotate(name, (value, 1), (2, 3 + 11 * (i % 3)), xycoords=("data", "axes fraction"),
                    textcoords="offset points", fontsize=8)
    ax.set(yticks=range(len(order)), yticklabels=order.arm, xlabel=label, xscale="log", ylim=(len(order) - 0.4, -0.6))
    ticks = [t for t in (5, 8, 10, 12, 15, 20, 30, 40, 60, 80, 120) if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.grid(axis="y", visible=False)
    return figure


def bars(counts: dict[str, int], seconds: pd.DataFrame) -> Figure:
    """Trainable parameters, and seconds for one seed: plain loop against all seeds at once."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    axes[0].barh(list(counts), list(counts.values()), color=[COLOURS[a] for a in counts], height=0.6)
    for i, n in enumerate(counts.values()):
        axes[0].annotate(f"{n:,}", (n, i), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=9,
                         color="white")
    axes[0].set(title="Trainable parameters")
    wide = seconds.pivot(index="arm", columns="engine", values="mean").reindex(list(counts))
    for offset, engine, alpha in ((-0.19, "loop", 0.45), (0.19, "stacked", 1.0)):
        if engine not in wide:
            continue
        at = np.arange(len(counts)) + offset
        axes[1].barh(at, wide[engine], height=0.34, color=[COLOURS[a] for a in counts], alpha=alpha)
        for y, value in zip(at, wide[engine]):
            axes[1].annotate(f"{value:.2f} {engine}", (value, y), (3, 0), textcoords="offset points", va="center",
                             fontsize=8)
    axes[1].set(title="Seconds a seed, 150 epochs", yticks=range(len(counts)), yticklabels=list(counts),
                xlim=(0, 1.3 * np.nanmax(wide.to_numpy())))
    for ax in axes:
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def profiles(records, arms: tuple[str, ...]) -> Figure:
    """Attention of the last query by month of the window."""
    data = curve_frame([r for r in records if r.spec["arm"] in arms], "attention_profile")
    figure, ax = plt.subplots(figsize=(9, 3.4))
    band(ax, data, arms, COLOURS, lw=2, marker="o", ms=3.5)
    ax.axhline(1 / protocol.WINDOW, color=ink(), lw=1, ls=":", label="uniform")
    ax.set(xlabel="month of the window", ylabel="attention weight", xticks=range(protocol.WINDOW),
           xticklabels=[f"t-{protocol.WINDOW - i}" for i in range(protocol.WINDOW)])
    ax.legend(ncols=4, loc="upper right")
    return figure


def forecasts(records, arms: tuple[str, ...], lines: dict[str, np.ndarray]) -> Figure:
    """Test months: truth, each arm's median forecast with the range of its seeds, baselines."""
    split = protocol.splits("published")[0]
    series = protocol.load_series()[split.validation_end : split.test_end]
    data = quantiles(curve_frame([r for r in records if r.spec["arm"] in arms], "forecast_test"))
    figure, axes = plt.subplots(1, len(arms), figsize=(9, 3.2), sharey=True)
    for ax, arm in zip(np.atleast_1d(axes), arms):
        own, colour = data[data.arm == arm], COLOURS[arm.split("-")[0]]
        ax.plot(own.x, series, color=ink(), lw=1.8, label="truth")
        ax.fill_between(own.x, own.low, own.high, color=colour, alpha=0.22, lw=0)
        ax.plot(own.x, own["median"], color=colour, lw=1.6, label="median of seeds")
        for name, values in lines.items():
            ax.plot(range(len(values)), values, color=ink(), lw=1, ls=":", label=name)
        ax.set(title=arm, xticks=range(0, len(series), 4))
        ax.set_xticklabels([str(series.index[i].strftime("%b %y")) for i in range(0, len(series), 4)], fontsize=8,
                           rotation=30, ha="right")
    np.atleast_1d(axes)[0].set_ylabel("passengers, thousands")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, labels, ncols=len(labels), fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def rolling(frame: pd.DataFrame, arms: dict[str, str], baselines: tuple[str, ...]) -> Figure:
    """Test MAE by test year; `arms` maps an arm to its line style."""
    figure, ax = plt.subplots(figsize=(9, 3.8))
    years, columns = protocol.ROLLING_YEARS, [f"test_mae_{year}" for year in protocol.ROLLING_YEARS]
    for arm, style in arms.items():
        values = frame.loc[frame.arm == arm, columns]
        ax.plot(years, values.mean(), style, color=COLOURS[arm.split("-")[0]], lw=1.8, ms=4, label=arm)
        low, high = zip(*(bca_interval(values[c]) for c in columns))
        ax.fill_between(years, low, high, color=COLOURS[arm.split("-")[0]], alpha=0.2, lw=0)
    for name, marker in zip(baselines, "sX"):
        ax.plot(years, frame.loc[frame.arm == name, columns].mean(), ":", marker=marker, color=ink(), lw=1.4, label=name)
    ax.set(yscale="log", xlabel="test year", ylabel="test MAE, thousands", xticks=years)
    ticks = (5, 10, 20, 40, 80)
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.legend(ncols=3, fontsize=8)
    return figure


