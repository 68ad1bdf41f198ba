"""The figures of the Tiny Shakespeare page with their captions, which state findings computed from the same records."""

import numpy as np
import pandas as pd

from seqlib import claims, show
from seqlib.studies.shakespeare import evaluate, figures, recall
from seqlib.studies.shakespeare.page import DOCUMENT, MAIN, chosen, frame_of
from seqlib.studies.shakespeare.specs import TOKENS
from seqlib.studies.shakespeare.train import GROUP
from seqlib.study import get
from seqlib.summaries import NOT_YET, curve_frame, interval, quantiles


def each(values: pd.Series, form: str) -> str:
    """`arm value, arm value, ...`"""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def progress(records, against: str) -> pd.DataFrame:
    """Validation loss against steps, characters, FLOP or seconds: arm, seed, x, value. Seconds are steps times the median
    step, which a machine's other work disturbs least."""
    rows = []
    for r in records:
        m, tokens = r.metrics, r.spec["batch"] * r.spec["context"]
        unit = {"steps": 1, "characters": tokens / 1e6, "flop": tokens * m["flop_per_token"] / 1e12,
                "seconds": m["step_seconds"]}[against]
        rows += [(r.spec["arm"], r.spec["seed"], step * unit, loss)
                 for step, loss in zip(r.curves["val_steps"], r.curves["val_loss"])]
    data = pd.DataFrame(rows, columns=["arm", "seed", "x", "value"])
    if against == "seconds":  # one axis for all seeds of an arm, so that they can be summarised point by point
        data["x"] = data.groupby(["arm", data.groupby(["arm", "seed"]).cumcount()]).x.transform("median")
    return data


def show_curves(records, where: str) -> None:
    data = {"steps": progress(records, "steps"), "million characters": progress(records, "characters"),
            "TFLOP": progress(records, "flop"), "seconds": progress(records, "seconds")}
    last = claims.frame(records).groupby("arm").agg(loss=("val_loss_nats", "mean"), step=("step_seconds", "median"))
    told = ", ".join(f"{a} {row.loss:.3f} ({1e3 * row.step:.0f} ms)" for a, row in last.sort_values("loss").iterrows())
    show.figure(lambda: figures.panels(data, "validation loss, nats", legend=0), name=f"shakespeare-curves-{where}",
                data=pd.concat([quantiles(d).assign(against=name) for name, d in data.items()]),
                alt="Validation loss against steps, characters, arithmetic and seconds, one line an arm.",
                caption=f"Loss after the last step (median time of a step): {told}. Line: median; band: 95% of seeds.")


def show_training(records) -> None:
    """Training loss, ten steps a point, beside the validation loss."""
    training = curve_frame(records, "train_loss")
    training["x"] = GROUP * (training.x + 1)
    data = {"steps (training, mean of ten)": training, "steps (validation, exact)": progress(records, "steps")}
    frame = claims.frame(records).groupby("arm").generalisation_gap_nats.mean()
    show.figure(lambda: figures.panels(data, "loss, nats"), name="shakespeare-training",
                data=pd.concat([quantiles(d).assign(curve=name) for name, d in data.items()]),
                alt="Training loss every ten steps and validation loss by step, one line an arm.",
                caption="Loss on unseen text above that on a stretch of training text of the same length, after the last step: "
                        + each(frame.sort_values(), ".3f") + " nats.")


def show_seeds(records) -> None:
    frame = frame_of(records)
    wide = frame.pivot(index="seed", columns="arm", values="val_loss_nats")
    paired = (wide["additive"] - wide["lstm"]).dropna()
    show.figure(lambda: figures.seeds(frame, "val_loss_nats", "validation loss, nats", DOCUMENT), name="shakespeare-seeds",
                data=frame[["arm", "seed", "val_loss_nats"]],
                alt="Validation loss of every seed by arm, seeds joined by lines, the document's figures as crosses.",
                caption=f"Attention changes the LSTM's loss by {interval(paired, 4)} nats over {len(paired)} paired seeds; the "
                        f"document has {DOCUMENT['additive'] - DOCUMENT['lstm']:+.4f} from one run (crosses).")


def given_frame(records) -> pd.DataFrame:
    return pd.DataFrame([(r.spec["arm"], r.spec["seed"], k, loss) for r in records
                         for k, loss in zip(r.curves["given"], r.curves["loss_given"])], columns=["arm", "seed", "x", "value"])


def show_memory(records) -> None:
    """S08: loss by how much context a model is given, and where attention looks."""
    records = chosen(records)
    data, looks = given_frame(records), curve_frame(records, "attention_by_distance")
    mean = data.groupby(["arm", "x"]).value.mean().unstack("x")
    share = ((mean[1] - mean[16]) / (mean[1] - mean[128]))[list(MAIN)]
    caption = f"Share of the gain from 128 characters that the last 16 give: {each(share, '.0%')}."
    show.figure(lambda: figures.panels({"characters of context": data}, "loss on the same 2,048 targets, nats",
                                       log=("characters of context",), marker="o"),
                name="shakespeare-given", data=quantiles(data),
                alt="Loss against the number of characters of context a model is given, from 1 to 128.", caption=caption)
    mass = claims.frame([r for r in records if "attention_mass_last8" in r.metrics]).groupby("arm").attention_mass_last8.mean()
    show.figure(lambda: distance(looks), name="shakespeare-distance", data=quantiles(looks),
                alt="Mean attention weight by distance in characters, one line an arm, both axes logarithmic.",
                caption=f"Attention on the last eight characters, mean over layers and heads: {each(mass, '.0%')}; "
                        "uniform attention over the queries shown would give "
                        f"{np.mean([8 / (i + 1) for i in range(96, 128)]):.0%}.")


def distance(looks: pd.DataFrame):
    figure = figures.panels({"characters back": looks.assign(x=looks.x + 1)}, "attention weight")
    figure.axes[0].set(xscale="log", yscale="log", xlabel="characters back, plus one")
    return figure


def show_frequency(records) -> None:
    records = chosen(records, MAIN)
    data = curve_frame(records, "accuracy_by_frequency")
    counts = records[0].curves["count_by_frequency"]
    ends = [*evaluate.FREQUENCIES, None]
    names = [("never" if low == 0 else f"{low:,} to {high - 1:,}" if high else f"{low:,} or more") + f"\n(n = {n:,})"
             for low, high, n in zip(ends, ends[1:], counts)]
    mean = data.groupby(["arm", "x"]).value.mean().unstack("x").loc[list(MAIN)]
    show.figure(lambda: figures.bars(data, names, f"times the {evaluate.GRAM} characters before stand in the training text"),
                name="shakespeare-frequency", data=quantiles(data),
                alt="Accuracy by how often the five characters before the target stand in the training text.",
                caption=f"Accuracy where those characters never stand in the training text: {each(mean[0], '.1%')}; where they "
                        f"stand there 100 to 999 times: {each(mean[3], '.1%')}.")


def show_position(records) -> None:
    data = curve_frame(chosen(records, MAIN), "accuracy_by_position", first=1)
    data["x"] = 2 ** np.ceil(np.log2(data.x))
    data = data.groupby(["arm", "seed", "x"], as_index=False).value.mean()
    mean = data.groupby(["arm", "x"]).value.mean().unstack("x").loc[list(MAIN)]
    show.figure(lambda: figures.panels({"characters of the window seen, up to": data}, "accuracy",
                                       log=("characters of the window seen, up to",), marker="o"),
                name="shakespeare-position", data=quantiles(data),
                alt="Accuracy by position in the window, from the first character to the last.",
                caption=f"Accuracy in the second half of the window: {each(mean[mean.columns.max()], '.1%')}.")


def sweep_frame(records) -> pd.DataFrame:
    """Runs of the sweep over contexts, at the characters that it saw; the published context enters from its curve."""
    planned = get("shakespeare").parameters("full")
    published = frame_of(records, planned.sweep_arms)
    parts = [frame_of(records, planned.sweep_arms, context=c, batch=TOKENS // c, epochs=planned.sweep_epochs)
             for c in planned.contexts]
    if not published.empty:
        published = published[published.seed < planned.sweep_seeds]
        parts.append(published.assign(val_loss_nats=published[f"val_loss_nats_epoch{planned.sweep_epochs}"]))
    return pd.concat(parts) if parts else pd.DataFrame()


def show_contexts(records) -> None:
    """S09 and the second half of S06."""
    frame, planned = sweep_frame(records), get("shakespeare").parameters("full")
    if frame.empty or frame.context.nunique() < 2:
        show.say(NOT_YET)
        return
    wide = frame.pivot(index=["seed", "context"], columns="arm", values="val_loss_nats")
    gain = (wide["lstm"] - wide["additive"]).groupby("context").mean()
    seconds = frame.pivot_table(index="context", columns="arm", values="step_cpu_seconds")
    extra = (seconds["additive"] - seconds["lstm"]) * seconds.index / TOKENS  # a sequence
    seen = planned.sweep_epochs * planned.epoch_steps * TOKENS / 1e6
    extra = extra[extra > 0]
    slope = np.polyfit(np.log(extra.index), np.log(extra), 1)[0]
    data = frame.rename(columns={"context": "x", "val_loss_nats": "value"})
    show.figure(lambda: figures.panels({"context, characters": data}, "validation loss, nats", log=("context, characters",),
                                       marker="o"), name="shakespeare-contexts",
                data=frame[["arm", "seed", "context", "val_loss_nats", "step_cpu_seconds"]],
                alt="Validation loss by context from 32 to 512 characters at equal characters seen.",
                caption=f"What attention gains over the LSTM, nats, after {seen:.1f} million characters "
                        f"({frame.seed.nunique()} paired seeds): " + ", ".join(f"{c}: {g:+.3f}" for c, g in gain.items())
                        + f". Its extra time a sequence grows with the context to the power {slope:.1f}.")


def show_recall(records) -> None:
    table = claims.frame([r for r in records if r.spec["corpus"] == "mqar"])
    if table.empty:
        show.say(NOT_YET)
        return
    longest = table.context.max()
    arms = [a for a in recall.ARMS if a in set(table.arm)]
    best = table.groupby(["arm", "context", "width"]).recall_accuracy.mean()
    hardest = best.xs(longest, level="context").groupby("arm").max()
    steps = table.epochs.iloc[0] * table.epoch_steps.iloc[0]
    show.figure(lambda: figures.grid(table, arms), name="shakespeare-recall",
                data=table[["arm", "seed", "context", "width", "pairs", "recall_accuracy"]],
                alt="Recall accuracy by sequence length and width, one panel an arm.",
                caption=f"Accuracy at length {longest}, {recall.pairs_of(longest)} pairs, best width: "
                        f"{each(hardest.sort_values(ascending=False), '.0%')}; guessing among the values in the sequence "
                        f"would give {1 / recall.pairs_of(longest):.0%}. {steps:,} steps, {table.seed.nunique()} seeds.")
