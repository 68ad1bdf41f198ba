"""Summaries of records that every study's page uses: frames of curves, intervals as text, the table of verdicts."""

import functools

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from seqlib import claims, data, ledger, show, stats
from seqlib.errors import SeqlibError, UsageError
from seqlib.study import get

NOT_YET = "There are no runs of this yet."
VERDICT_COLUMNS = {"id": "claim", "verdict": "verdict", "seeds": "seeds", "p_holm": "p (Holm)",
                   "probability": "P(A better)", "says": "the document says", "reason": "why"}


def curve_frame(records, name: str, first: int = 0) -> pd.DataFrame:
    """One row a record and step of a curve: arm, seed, x (counted from `first`), value."""
    return pd.DataFrame([(r.spec["arm"], r.spec["seed"], first + i, v) for r in records
                         for i, v in enumerate(r.curves.get(name, []))], columns=["arm", "seed", "x", "value"])


def quantiles(data: pd.DataFrame) -> pd.DataFrame:
    """Median over seeds and the range that holds 95% of them, by arm and x."""
    by = data.groupby(["arm", "x"], sort=False).value
    return pd.DataFrame({"low": by.quantile(0.025), "median": by.median(), "high": by.quantile(0.975)}).reset_index()


def band(ax, data: pd.DataFrame, arms, colours: dict, styles: dict | None = None, **line) -> None:
    """Median over seeds with the range of 95% of them, for those of `arms` that `data` (arm, seed, x, value) has."""
    told = quantiles(data)
    for arm in (a for a in arms if a in set(told.arm)):
        own = told[told.arm == arm].sort_values("x")
        ax.fill_between(own.x, own.low, own.high, color=colours[arm], alpha=0.2, lw=0)
        ax.plot(own.x, own["median"], (styles or {}).get(arm, "-"), color=colours[arm], label=arm, **line)


def log_ticks(ax, values, base: float = 10) -> None:
    """A logarithmic x axis with a tick at each of `values` and no others."""
    ticks = sorted(values)
    ax.set_xscale("log", base=base)
    ax.set_xticks(ticks, [f"{t:,g}" for t in ticks])
    ax.minorticks_off()


def seed_dots(ax, values: dict[str, pd.Series], colour, ink) -> None:
    """A row a name, downwards: every seed a dot, their mean a bar. `colour` gives a name's, `ink` is that of the bars."""
    for y, (name, own) in enumerate(values.items()):
        ax.scatter(own, np.full(len(own), y), s=14, color=colour(name), alpha=0.7, zorder=3)
        ax.plot(own.mean(), y, "|", color=ink, ms=13, mew=2)
    ax.set(yticks=range(len(values)), ylim=(len(values) - 0.5, -0.5))
    ax.set_yticklabels(values)
    ax.grid(axis="y", visible=False)


def dot_panels(frame: pd.DataFrame, metrics: dict[str, str], colour, ascending: bool = True):
    """A figure with a panel a metric (with the label of its axis): every seed a dot, means as bars, labels in the order of the
    first metric's means."""
    order = frame.groupby("label")[next(iter(metrics))].mean().sort_values(ascending=ascending).index
    figure, axes = plt.subplots(1, len(metrics), figsize=(9, 1.2 + 0.32 * len(order)), sharey=True, squeeze=False)
    for ax, (metric, title) in zip(axes[0], metrics.items()):
        seed_dots(ax, {label: frame.loc[frame.label == label, metric].dropna() for label in order}, colour, show.ink())
        ax.set_xlabel(title)
    figure.tight_layout()
    return figure


def summary(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and BCa interval of a metric by arm, lowest mean first."""
    rows = [(arm, len(v), v.mean(), *stats.bca_interval(v)) for arm, v in frame.groupby("arm")[metric]]
    return pd.DataFrame(rows, columns=["arm", "seeds", "mean", "low", "high"]).sort_values("mean", ignore_index=True)


def span(mean: float, low: float, high: float) -> str:
    """An effect with its interval; alone where one seed gives none."""
    form = "+.4f" if abs(mean) < 10 else "+,.0f"
    return f"{mean:{form}}" if np.isnan(low) else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def first_effect(row: claims.Verdict) -> str:
    """The effect of a claim's first pair with its interval."""
    name, effect = next(iter(row.ours.items()))
    return span(effect, *row.ci[name])


def trained_now(records, trained) -> str:
    """How many of the live `records` the notebook has `trained` itself, how long all took, and where."""
    machine, seconds = records[0].provenance["machine"], sum(r.metrics.get("seconds", 0) for r in records)
    new = len({r.key for r in trained} & {r.key for r in records})
    return f"{new} of them trained now: {seconds:.0f} s of training on {machine['cpu']}, {machine['cores']} cores."


def describe_live(records, trained) -> str:
    """The live runs in a sentence."""
    steps = sorted({r.spec["steps"] for r in records})
    return f"{len(records)} runs of {' or '.join(map(str, steps))} steps, {trained_now(records, trained)}"


def interval(values, digits: int = 1) -> str:
    """`mean [low, high]` with a 95% interval of the mean; `mean (lowest to highest)` of too few values for an interval, the
    mean alone of one."""
    if len(values) < 2:
        return f"{np.mean(values):.{digits}f}"
    if len(values) < stats.MINIMUM:
        return f"{np.mean(values):.{digits}f} ({np.min(values):.{digits}f} to {np.max(values):.{digits}f})"
    low, high = stats.bca_interval(values)
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def more(own: pd.DataFrame, metric: str, one: str, than: str) -> pd.Series:
    """By how much the runs of label `one` exceed those of label `than`, by seed."""
    runs = by_seed(own, metric, one, than)
    return runs[one] - runs[than]


def by_seed(own: pd.DataFrame, metric: str, *labels: str) -> pd.DataFrame:
    """A figure of the runs of some labels: a column a label, a row a seed that all of them have."""
    runs = {name: own[own.label == name].set_index("seed")[metric] if len(own) else pd.Series(dtype=float) for name in labels}
    return pd.DataFrame(runs).dropna()


def share_of_the_machine(records) -> str:
    """On how many threads some runs trained, where their time is told."""
    threads = sorted({r.provenance["threads"] for r in records})
    return f"Each run trained on {' or '.join(map(str, threads))} thread{'s' * (threads[-1] > 1)}." if threads else ""


def show_table(make, own, title: str, digits: int = 4) -> None:
    """The table that `make` makes of some runs, or that there are none."""
    table = make(own) if len(own) else own
    show.table(table, title, digits) if len(table) else show.say(NOT_YET)


def sizes(name: str) -> pd.DataFrame:
    """Trainable and total parameters of a study's arms."""
    counts = {arm: count() for arm, count in get(name).arms.items()}
    return pd.DataFrame([{"arm": arm, "trainable": f"{n['trainable']:,}", "total": f"{n['total']:,}",
                          "percent": f"{100 * n['trainable'] / n['total']:.4f}"} for arm, n in counts.items()])


def planned(name: str, params) -> tuple[list, str]:
    """The runs that a notebook's parameters ask for, as far as that can be told, and what data of theirs cannot be had and how
    to get it, in a sentence; empty where all is there."""
    specs = []
    try:
        specs = get(name).specs(params)
        for wanted in get(name).data(specs):
            data.locate(wanted)
    except (data.WrongFile, UsageError):
        raise
    except SeqlibError as error:
        return specs, f"**Nothing was trained here, for want of data.** {error}."
    return specs, ""


def chosen_rates(tried: pd.DataFrame, highest: bool = False) -> pd.Series:
    """The learning rate of lowest (or highest) mean value by label, of runs that choose one (label, lr, value)."""
    means = tried.groupby(["label", "lr"]).value.mean() * (1 if highest else -1)
    return means.groupby("label").idxmax().map(lambda at: at[1]) if len(means) else pd.Series(dtype=float)


def told_rates(tried: pd.DataFrame, chosen: pd.Series, used: pd.Series, criterion: str, whose: str, first_seed: int) -> str:
    """Whether final runs (`used`: their rate by label) have the rates that were chosen among `tried`, and whether a choice lies
    at the grid's end. `whose` begins the sentence that says so."""
    if chosen.empty or used.empty:
        return NOT_YET
    other = [name for name in used.index if used[name] != chosen.get(name)]
    ends = tried.groupby("label").lr.agg(["min", "max"])
    at_end = [name for name in chosen.index if chosen[name] in tuple(ends.loc[name])]
    return ((f"{whose} the rate of {criterion}" if not other else f"**Not at the rate of {criterion}: {', '.join(other)}**")
            + f" ({len(tried)} runs with seeds from {first_seed} on, none of which is reported below)."
            + (f" At an end of the grid, so a better one may lie beyond: {', '.join(at_end)}." if at_end else ""))


@functools.cache  # a page reads them in several places, and its archive once as well
def own_verdicts(study: str) -> dict[str, claims.Verdict]:
    """A study's verdicts by claim."""
    return {row.id: row for row in claims.ledger([study])}


def show_verdicts(study: str) -> None:
    """A study's claims with their verdicts, a row each."""
    rows = pd.DataFrame(ledger.as_rows(list(own_verdicts(study).values())))
    show.table(rows[list(VERDICT_COLUMNS)].rename(columns=VERDICT_COLUMNS), "Verdicts on the document's claims",
               wide=("the document says", "why"), width="28%")


def recorded_on(records) -> str:
    """The machine and code of archived runs."""
    machines = {(r.provenance["machine"]["cpu"], r.provenance["machine"]["cores"], r.provenance["versions"]["torch"])
                for r in records}
    older = sum(not get(r.spec["study"]).current(r) for r in records)
    told = "; ".join(f"{cpu}, {cores} cores, torch {version}" for cpu, cores, version in sorted(machines))
    dirty = sum(bool(r.provenance["git"]["dirty"]) for r in records)
    return (f"{len(records)} archived runs, recorded on {told}." + (
        f" **{older} of them were recorded with older code.**" if older else " All with this version's training code.")
        + (f" {dirty} were recorded while other files of the package had uncommitted changes." if dirty else ""))
