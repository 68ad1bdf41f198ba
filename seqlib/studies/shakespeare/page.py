"""What the Tiny Shakespeare page says, computed from records: tables, figures with captions, sentences with numbers."""

import functools

import numpy as np
import pandas as pd

from seqlib import claims, show
from seqlib.studies.shakespeare import corpus, evaluate, figures, recall
from seqlib.studies.shakespeare.arms import ARMS, build
from seqlib.studies.shakespeare.specs import TOKENS
from seqlib.study import get
from seqlib.summaries import curve_frame, interval, quantiles, verdict_table

MAIN = ("lstm", "additive", "transformer")
PUBLISHED = claims.load()["shakespeare"]["settings"]
LOSS = "loss, nats [95% CI]"
DOCUMENT = {"lstm": 1.7179, "additive": 1.7076}


def chosen(records, arms=ARMS, **settings) -> list:
    """Records of `arms` at the published settings, or at others."""
    wanted = {**PUBLISHED, **settings}
    return [r for r in records if r.spec["arm"] in arms and all(r.spec[k] == v for k, v in wanted.items())]


def frame_of(records, arms=ARMS, **settings) -> pd.DataFrame:
    return claims.frame(chosen(records, arms, **settings))


def results(records) -> pd.DataFrame:
    """One row an arm, lowest validation loss first."""
    frame, rows = claims.frame(records), []
    for arm, own in sorted(frame.groupby("arm"), key=lambda item: item[1].val_loss_nats.mean()):
        rows.append({"arm": arm, "seeds": len(own), LOSS: interval(own.val_loss_nats, 4),
                     "bits": own.val_bits_per_character.mean(), "perplexity": own.val_perplexity.mean(),
                     "accuracy": own.val_accuracy.mean(), "gap": own.generalisation_gap_nats.mean(),
                     "ms / step": 1e3 * own.step_seconds.median()})
    return pd.DataFrame(rows)


def sizes() -> pd.DataFrame:
    """Parameters and arithmetic of every arm at the published setting."""
    rows = []
    for arm in ARMS:
        model = build(arm, 65, PUBLISHED["context"])
        rows.append({"arm": arm, "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                     "MFLOP a character, training": model.flop_per_token(PUBLISHED["context"]) / 1e6})
    return pd.DataFrame(rows)


def show_results(records, title: str) -> None:
    show.table(results(records), title, digits=4, wide=LOSS, width="27%")


def progress(records, against: str) -> pd.DataFrame:
    """Validation loss against characters, FLOP or seconds: arm, seed, x, value. Seconds are steps times the median step, which
    a machine's other work disturbs least."""
    rows = []
    for r in records:
        m, tokens = r.metrics, r.spec["batch"] * r.spec["context"]
        unit = {"characters": tokens / 1e6, "flop": tokens * m["flop_per_token"] / 1e12, "seconds": m["step_seconds"]}[against]
        rows += [(r.spec["arm"], r.spec["seed"], step * unit, loss)
                 for step, loss in zip(r.curves["val_steps"], r.curves["val_loss"])]
    data = pd.DataFrame(rows, columns=["arm", "seed", "x", "value"])
    if against == "seconds":  # one axis for all seeds of an arm, so that they can be summarised point by point
        data["x"] = data.groupby(["arm", data.groupby(["arm", "seed"]).cumcount()]).x.transform("median")
    return data


def show_curves(records, where: str) -> None:
    data = {"million characters": progress(records, "characters"), "TFLOP": progress(records, "flop"),
            "seconds": progress(records, "seconds")}
    last = claims.frame(records).groupby("arm").agg(loss=("val_loss_nats", "mean"), step=("step_seconds", "median"))
    told = ", ".join(f"{a} {row.loss:.3f} ({1e3 * row.step:.0f} ms)" for a, row in last.sort_values("loss").iterrows())
    show.figure(lambda: figures.panels(data, "validation loss, nats", legend=0), name=f"shakespeare-curves-{where}",
                data=pd.concat([quantiles(d).assign(against=name) for name, d in data.items()]),
                alt="Validation loss against characters seen, arithmetic and seconds, one line an arm.",
                caption=f"Loss after the last step (median time of a step): {told}. Line: median; band: 95% of seeds.")


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
    share = {a: (mean.loc[a, 1] - mean.loc[a, 16]) / (mean.loc[a, 1] - mean.loc[a, 128]) for a in MAIN}
    caption = "Share of the gain from 128 characters that the last 16 give: " + ", ".join(
        f"{a} {v:.0%}" for a, v in share.items()) + "."
    show.figure(lambda: figures.panels({"characters of context": data}, "loss on the same 2,048 targets, nats",
                                       log=("characters of context",), marker="o"),
                name="shakespeare-given", data=quantiles(data),
                alt="Loss against the number of characters of context a model is given, from 1 to 128.", caption=caption)
    mass = claims.frame([r for r in records if "attention_mass_last8" in r.metrics]).groupby("arm").attention_mass_last8.mean()
    show.figure(lambda: distance(looks), name="shakespeare-distance", data=quantiles(looks),
                alt="Mean attention weight by distance in characters, one line an arm, both axes logarithmic.",
                caption="Attention on the last eight characters, mean over layers and heads: " + ", ".join(
                    f"{a} {v:.0%}" for a, v in mass.items()) + "; uniform attention over the queries shown would give "
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
    mean = data.groupby(["arm", "x"]).value.mean().unstack("x")
    show.figure(lambda: figures.bars(data, names, f"times the {evaluate.GRAM} characters before stand in the training text"),
                name="shakespeare-frequency", data=quantiles(data),
                alt="Accuracy by how often the five characters before the target stand in the training text.",
                caption="Accuracy where those characters never stand in the training text: " + ", ".join(
                    f"{a} {mean.loc[a, 0]:.1%}" for a in MAIN) + "; where they stand there 100 to 999 times: " + ", ".join(
                    f"{a} {mean.loc[a, 3]:.1%}" for a in MAIN) + ".")


def show_position(records) -> None:
    data = curve_frame(chosen(records, MAIN), "accuracy_by_position", first=1)
    data["x"] = 2 ** np.ceil(np.log2(data.x))
    data = data.groupby(["arm", "seed", "x"], as_index=False).value.mean()
    mean = data.groupby(["arm", "x"]).value.mean().unstack("x")
    show.figure(lambda: figures.panels({"characters of the window seen, up to": data}, "accuracy",
                                       log=("characters of the window seen, up to",), marker="o"),
                name="shakespeare-position", data=quantiles(data),
                alt="Accuracy by position in the window, from the first character to the last.",
                caption="Accuracy in the second half of the window: " + ", ".join(
                    f"{a} {mean.loc[a, mean.columns.max()]:.1%}" for a in MAIN) + ".")


def sweep_frame(records) -> pd.DataFrame:
    """Runs of the sweep over contexts, at the characters that it saw; the published context enters from its curve."""
    planned = get("shakespeare").parameters("full")
    rows = []
    for r in records:
        if r.spec["corpus"] != PUBLISHED["corpus"] or r.spec["arm"] not in planned.sweep_arms:
            continue
        published = r.spec["context"] == PUBLISHED["context"] and r.spec["epochs"] == PUBLISHED["epochs"]
        if published and r.spec["seed"] < planned.sweep_seeds:
            loss = r.metrics[f"val_loss_nats_epoch{planned.sweep_epochs}"]
        elif r.spec["context"] in planned.contexts and r.spec["epochs"] == planned.sweep_epochs:
            loss = r.metrics["val_loss_nats"]
        else:
            continue
        rows.append({"arm": r.spec["arm"], "seed": r.spec["seed"], "context": r.spec["context"], "loss": loss,
                     "step_seconds": r.metrics["step_cpu_seconds"]})
    return pd.DataFrame(rows)


def show_contexts(records) -> None:
    """S09 and the second half of S06."""
    frame, planned = sweep_frame(records), get("shakespeare").parameters("full")
    wide = frame.pivot(index=["seed", "context"], columns="arm", values="loss")
    gain = (wide["lstm"] - wide["additive"]).groupby("context").mean()
    seconds = frame.pivot_table(index="context", columns="arm", values="step_seconds")
    extra = (seconds["additive"] - seconds["lstm"]) * seconds.index / TOKENS  # a sequence
    seen = planned.sweep_epochs * planned.epoch_steps * TOKENS / 1e6
    slope = np.polyfit(np.log(extra.index), np.log(extra), 1)[0]
    data = frame.rename(columns={"context": "x", "loss": "value"})
    show.figure(lambda: figures.panels({"context, characters": data}, "validation loss, nats", log=("context, characters",),
                                       marker="o"), name="shakespeare-contexts", data=frame,
                alt="Validation loss by context from 32 to 512 characters at equal characters seen.",
                caption=f"What attention gains over the LSTM, nats, after {seen:.1f} million characters ({planned.sweep_seeds} "
                        "seeds): " + ", ".join(f"{c}: {g:+.3f}" for c, g in gain.items())
                        + f". Its extra time a sequence grows with the context to the power {slope:.1f}.")


def leak(records) -> str:
    """S07 in words."""
    without, masked = frame_of(records, ("additive-unmasked",), epochs=1), frame_of(records, ("additive",))
    return (f"After one epoch the loss without a mask is {interval(without.val_loss_nats, 3)} nats, with it "
            f"{interval(masked.val_loss_nats_epoch1, 3)}. Deprived of the future that it was trained to look at, the unmasked "
            f"model has {interval(without.val_loss_masked_nats, 3)}. Of the words that it writes "
            f"{without.sample_known_words.mean():.0%} stand in the training text (the masked model, trained five times as "
            f"long: {masked.sample_known_words.mean():.0%}). "
            f"Verdict on S07: **{own_verdicts()['S07'].verdict}**.")


def samples(records, arms=MAIN, **settings) -> pd.DataFrame:
    """The texts that the first seed's models wrote when they were recorded."""
    first = [r for r in chosen(records, arms, **settings) if r.spec["seed"] == 0]
    return pd.DataFrame([{"arm": r.spec["arm"], "temperature": t, "text": text.replace("\n", " / ")}
                         for r in first for t, text in zip((0.5, 0.8, 1.0), r.curves["samples"])])


def recalled(records) -> pd.DataFrame:
    return claims.frame([r for r in records if r.spec["corpus"] == "mqar"])


def show_recall(records) -> None:
    table = recalled(records)
    longest = table.context.max()
    arms = [a for a in recall.ARMS if a in set(table.arm)]
    best = table.groupby(["arm", "context", "width"]).recall_accuracy.mean()
    hardest = best.xs(longest, level="context").groupby("arm").max()
    steps = table.epochs.iloc[0] * table.epoch_steps.iloc[0]
    show.figure(lambda: figures.grid(table, arms), name="shakespeare-recall",
                data=table[["arm", "seed", "context", "width", "pairs", "recall_accuracy"]],
                alt="Recall accuracy by sequence length and width, one panel an arm.",
                caption=f"Accuracy at length {longest}, {recall.pairs_of(longest)} pairs, best width: " + ", ".join(
                    f"{a} {hardest[a]:.0%}" for a in hardest.sort_values(ascending=False).index)
                + f"; guessing among the values in the sequence would give {1 / recall.pairs_of(longest):.0%}. {steps:,} "
                f"steps, {table.seed.nunique()} seeds.")


@functools.cache
def own_verdicts() -> dict[str, claims.Verdict]:
    return {row.id: row for row in claims.study_verdicts("shakespeare", claims.load()["shakespeare"]["claims"])}


def verdicts() -> pd.DataFrame:
    return verdict_table(list(own_verdicts().values()))


def apart(row: claims.Verdict) -> str:
    """The effect of a claim's first pair with its interval."""
    name, effect = next(iter(row.ours.items()))
    low, high = row.ci[name]
    return f"{effect:+.4f} [{low:+.4f}, {high:+.4f}]"


def headline() -> str:
    """The answer in one line, for the front page."""
    if len(claims.archived("shakespeare")) < len(get("shakespeare").specs(get("shakespeare").parameters("full"))):
        return "The archive is not complete."
    rows = own_verdicts()
    return (f"Attention on top of the LSTM: {rows['S04'].verdict} ({apart(rows['S04'])} in perplexity). Transformer "
            f"instead: {rows['S11'].verdict} ({apart(rows['S11'])} nats against the LSTM with attention, at equal parameters, "
            "steps and learning rate).")


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    rows, means = own_verdicts(), frame_of(records).groupby("arm").val_loss_nats.mean()
    s04, s11 = rows["S04"], rows["S11"]
    fast = s11.repairs["time matched to the LSTM"]
    return (f"**Attention on top of the LSTM: {s04.verdict}.** Over {s04.seeds} paired seeds the final perplexity differs by "
            f"{apart(s04)} (loss {means['lstm']:.4f} without, {means['additive']:.4f} with attention; the document has "
            f"{DOCUMENT['lstm']} and {DOCUMENT['additive']}). **A transformer instead: {s11.verdict}.** With the parameters of "
            f"the LSTM with attention, the same steps and the same learning rate its loss is {means['transformer']:.4f}, "
            f"a difference of {apart(s11)} nats; with the LSTM's time a step it is {fast['verdict']}.")


def describe_data(name: str) -> str:
    text = corpus.load(name)
    note = "" if name == PUBLISHED["corpus"] else (
        f" **This is the stand-in {name}, not Tiny Shakespeare:** the same plays in another edition. Its live figures do not "
        "compare with the archive's.")
    return (f"{len(text.train) + len(text.validation):,} characters, {text.V} distinct, from {text.source} (sha256 "
            f"`{text.sha256[:16]}…`): {len(text.train):,} for training, the last {len(text.validation):,} for "
            f"validation.{note}")


def describe_live(records, trained) -> str:
    machine, seconds = records[0].provenance["machine"], sum(r.metrics["seconds"] for r in records)
    steps = records[0].spec["epochs"] * records[0].spec["epoch_steps"]
    new = len({r.key for r in trained} & {r.key for r in records})
    return (f"{len(records)} runs of {steps:,} steps on {records[0].spec['corpus']}, {new} of them trained now, the others "
            f"earlier by the same code: {seconds:.0f} s of training on {machine['cpu']}, {machine['cores']} cores.")


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v, frame = own_verdicts(), frame_of(records)
    means = frame.groupby("arm").mean(numeric_only=True)

    def lead(metric):
        wide = frame.pivot(index="seed", columns="arm", values=metric)
        return interval((wide["additive"] - wide["lstm"]).dropna(), 4)

    gap = means.generalisation_gap_nats
    return "\n".join([
        f"- **Figures.** The document's losses of single runs: S01 is {v['S01'].verdict}, S02 {v['S02'].verdict}, S03 "
        f"{v['S03'].verdict}.",
        f"- **Attention over recurrence.** S04 is {v['S04'].verdict}, S05 (ahead after every epoch) {v['S05'].verdict}. "
        f"Attention changes the loss by {lead('val_loss_nats_epoch1')} nats after the first epoch and by "
        f"{lead('val_loss_nats_epoch5')} after the last.",
        f"- **Cost.** S06 is {v['S06'].verdict}: a step takes {1e3 * means.step_seconds['additive']:.0f} ms with attention, "
        f"{1e3 * means.step_seconds['lstm']:.0f} ms without, on one thread of a busy machine.",
        f"- **Memory.** S08 is {v['S08'].verdict}. S09 is {v['S09'].verdict} ({v['S09'].seeds} paired seeds).",
        f"- **Overfitting.** S10 is {v['S10'].verdict}: the loss on unseen text lies {gap['lstm']:.3f} (LSTM) and "
        f"{gap['additive']:.3f} nats (with attention) above that on a stretch of training text of the same length.",
        f"- **Transformer.** S11 is {v['S11'].verdict}: {means.val_loss_nats['transformer']:.4f} nats against "
        f"{means.val_loss_nats['additive']:.4f} at equal parameters, steps and learning rate.",
    ])
