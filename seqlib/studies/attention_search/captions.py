"""The figures of the attention search's page with their captions, which state findings computed from the same records."""

import pandas as pd
from scipy.stats import kendalltau

from seqlib import show
from seqlib.studies.attention_search import figures
from seqlib.studies.attention_search.arms import FACTORIAL, FACTORS, levels
from seqlib.studies.attention_search.page import (
    REPAIRED,
    fair,
    fair_effects,
    large,
    main_effects,
    seed_agreement,
    small,
)
from seqlib.studies.attention_search.run import LONGER
from seqlib.summaries import NOT_YET, span


def show_protocols(records) -> None:
    """The thirteen at the published size, under both protocols."""
    names = {"published": "as published", "repaired": REPAIRED}
    panels = {names[p]: frame for p in names if len(frame := large(records, p))}
    if not panels:
        show.say(NOT_YET)
        return
    lowest = {title: f.groupby("arm").val_loss_nats.mean().nsmallest(3).index for title, f in panels.items()}
    firsts = "; ".join(f"{title}: {', '.join(arms)}" for title, arms in lowest.items())
    data = pd.concat([f.assign(panel=title) for title, f in panels.items()])
    show.figure(lambda: figures.ranks(panels, "val_loss_nats", "validation loss, nats"), name="search-protocols",
                data=data[["panel", "arm", "seed", "val_loss_nats"]],
                alt="Validation loss of every seed by configuration, one panel a protocol.",
                caption=f"The three lowest means: {firsts}. Dots: seeds; bars: means.")


def show_live(frame: pd.DataFrame) -> None:
    if frame.empty:
        show.say(NOT_YET)
        return
    last = frame.groupby("arm").val_loss_nats.mean().sort_values()
    show.figure(lambda: figures.ranks({"live": frame}, "val_loss_nats", "validation loss, nats"), name="search-live",
                data=frame[["arm", "seed", "val_loss_nats"]], alt="Validation loss of the live runs by configuration.",
                caption=f"Lowest: {last.index[0]} {last.iloc[0]:.3f}; highest: {last.index[-1]} {last.iloc[-1]:.3f}.")


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Loss by step: arm, seed, x, value."""
    names = [c for c in frame if c.startswith("val_loss_nats_step")]
    long = frame.melt(["arm", "seed"], names, "x", "value").dropna()
    return long.assign(x=long.x.str.removeprefix("val_loss_nats_step").astype(int)).sort_values("x")


def show_long(records) -> None:
    """X10: what becomes of the order after fifty steps."""
    frame = small(records)
    data = curves(frame) if len(frame) else frame
    if data.empty or data.seed.nunique() < 2 or data.x.nunique() < 2:
        show.say(NOT_YET)
        return
    gap = data.groupby(["x", "arm"]).value.mean().unstack("arm")
    centred = data.assign(value=data.value - data.groupby(["x", "seed"]).value.transform("mean"))
    show.figure(lambda: figures.lines(centred, "steps", "validation loss less the mean of the thirteen, nats"),
                name="search-long", data=data,
                alt="Validation loss of each configuration less the mean of all, by training steps.",
                caption=f"Lowest after {gap.index[0]} steps: {gap.iloc[0].idxmin()}; after {gap.index[-1]:,}: "
                        f"{gap.iloc[-1].idxmin()}. The spread over the thirteen goes from {gap.iloc[0].std(ddof=0):.4f} to "
                        f"{gap.iloc[-1].std(ddof=0):.4f} nats.")
    told = agreements(data)
    mean, first, last = told.groupby(["what", "x"]).value.mean(), gap.index[0], gap.index[-1]
    show.figure(lambda: figures.bands(told, "steps", "Kendall's tau"), name="search-agreement", data=told,
                alt="Agreement of the order of the thirteen with the last step's and with other seeds', by steps.",
                caption=f"The order after {first} steps agrees with that after {last:,} with a tau of "
                        f"{mean[FINAL, first]:+.2f}, and with other seeds' order after {first} steps "
                        f"{mean[OTHERS, first]:+.2f} (after {last:,}: {mean[OTHERS, last]:+.2f}); {between(told)}. Band: range "
                        "of the seeds; of agreement between seeds the mean alone.")


FIRST, FINAL = "with the same seed's order at the first step", "with the same seed's order at the last step"
OTHERS = "with other seeds' order at the same step"


def between(told: pd.DataFrame) -> str:
    """How the first order agrees with later ones."""
    first = told[told.what == FIRST].groupby("x").value.mean()
    return "with that after " + ", ".join(f"{x:,} steps {tau:+.2f}" for x, tau in first.items())


def agreements(data: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of the orders by step (`data` as of `curves`): what, x, seed, value."""
    wide = data.pivot(index="arm", columns=["seed", "x"], values="value")
    last = data.x.max()
    rows = [(FINAL, x, seed, kendalltau(wide[seed, x], wide[seed, last]).statistic) for seed, x in wide if x != last]
    first = data.x.min()
    rows += [(FIRST, x, seed, kendalltau(wide[seed, x], wide[seed, first]).statistic) for seed, x in wide if x != first]
    rows += [(OTHERS, x, 0, seed_agreement(own, "value")) for x, own in data.groupby("x")]
    return pd.DataFrame(rows, columns=["what", "x", "seed", "value"])


def show_effects(records) -> None:
    """The fair search's main effects and pairs."""
    if fair(records).empty:
        show.say(NOT_YET)
        return
    told = fair_effects(records)
    names = FACTORS | {e: " x ".join(FACTORS[f] for f in e.split(" x ")) for e in told.effect if " x " in e}
    show.figure(lambda: figures.intervals(told, names, "change of the validation loss, nats"), name="search-effects", data=told,
                alt="Main effects of the five factors and of their pairs on the validation loss, with 95% intervals.",
                caption=main_effects(records))


def show_lengths(records) -> None:
    """Trained at T, evaluated at T, 2T, 4T: with and without interpolation, in training and in evaluation."""
    frame = fair(records)
    if frame.empty:
        show.say(NOT_YET)
        return
    frame = frame[frame.arm.isin(FACTORIAL)]
    frame = frame.assign(trained=frame.arm.map(
        lambda arm: "interpolated in training" if "P" in levels(arm) else "plain in training"))
    rows = []
    for trained, own in frame.groupby("trained", sort=False):
        for evaluated, suffix in (("evaluated as trained", ""), ("interpolated further", "_interpolated")):
            for x in LONGER:
                name = f"val_loss_nats_{x}x" + (suffix if x > 1 else "")
                means = own.groupby("seed")[name].mean()
                rows += [(f"{trained}, {evaluated}", x, seed, value) for seed, value in means.items()]
    told = pd.DataFrame(rows, columns=["what", "x", "seed", "value"])
    change = told.groupby(["what", "x"]).value.mean().unstack("x")
    change = (change[LONGER[-1]] - change[1]).sort_values()
    changes = "; ".join(f"{what} {value:+.4f}" for what, value in change.items())
    show.figure(lambda: figures.bands(told, "context given, in contexts of the training", "loss on the same targets, nats"),
                name="search-lengths", data=told,
                alt="Loss on the same targets by the context given, with and without position interpolation.",
                caption=f"What four times the context changes, nats: {changes}. Interpolation in training changes the loss by "
                        f"{trained_effect(records)}. Mean over the eight arms of the design that train so; band: range of "
                        "the seeds.")


def trained_effect(records) -> str:
    """The main effect of interpolated positions at every context of the evaluation."""
    told = {x: fair_effects(records, f"val_loss_nats_{x}x").set_index("effect").loc["P"] for x in LONGER}
    return ", ".join(f"{span(row['mean'], row.low, row.high)} at {x}T" for x, row in told.items())
