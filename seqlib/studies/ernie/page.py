"""What the ERNIE page says, computed from records: tables and sentences with numbers."""

import numpy as np
import pandas as pd
from scipy import stats as distributions
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar

from seqlib import claims, headlines, summaries
from seqlib.errors import SeqlibError
from seqlib.studies.ernie.framework import need
from seqlib.studies.ernie.specs import ALPHA, ARMS, COST, DROPOUT, GRID_SEED, MADE, PRETRAINING, RANK, SAME_RATE, label
from seqlib.summaries import NOT_YET, first_effect, interval, own_verdicts, trained_now

NAME = "ernie"
PAIR = ("full", "lora")
KB = 2**10
VARIANTS = {"lora-d0": "no dropout", "lora-all": "all linear layers", "lora-r8-a16-d0": "rank 8, alpha 16, no dropout"}


def chosen(records, **settings) -> list:
    """Records of some settings that trained an arm."""
    return [r for r in records if r.spec["arm"] != PRETRAINING and all(r.spec[k] == v for k, v in settings.items())]


def frame(records, **settings) -> pd.DataFrame:
    """A row a record of some settings, with the name of what was trained."""
    own = chosen(records, **settings)
    told = claims.frame(own)
    return told if told.empty else told.assign(label=[label(r.spec) for r in own])


def fair(records) -> pd.DataFrame:
    """The final runs of the fair protocol: every arm at its own rate."""
    return frame(records, protocol="fair", stage="final")


def pretrained(records) -> list:
    """Records of the pretraining of bases."""
    return [r for r in records if r.spec["arm"] == PRETRAINING]


def missing(specs) -> str:
    """What cannot be had for these runs and how to get it, in a sentence; empty where all is there."""
    try:
        need()
    except SeqlibError as error:
        return f"**Nothing was trained here.** {error}."
    return summaries.missing(NAME, specs)


def describe_data(specs) -> str:
    """Text and base of some runs, and what they stand in for."""
    from seqlib.studies.ernie import sentences

    text, base = specs[0].text, specs[0].base
    found = sentences.load(text)
    note = (" **These are the stand-in for TNEWS: reviews in two classes.** Directions can be compared with the document's, "
            "figures cannot." if text == headlines.REVIEWS else "")
    stand_in = (f" **The base `{base}` is the stand-in for {headlines.ERNIE}:** ERNIE's architecture, small, pretrained here. "
                "Directions can be compared with the document's, figures cannot." if base in MADE else "")
    return (f"`{text}`, {found.source}: {len(found.train):,} sentences to train on, {len(found.dev):,} to choose by, "
            f"{len(found.test):,} to test, {len(found.unlabelled):,} unlabelled, {len(found.classes)} classes, "
            f"{found.dropped} dropped because they stand there twice.{note}{stand_in}")


def examples(name: str, count: int = 6) -> pd.DataFrame:
    """A headline of some classes, as it stands in the data."""
    from seqlib.studies.ernie import sentences

    found = sentences.load(name)
    first = {c: s for s, c in reversed(list(zip(found.train.sentences, found.train.classes)))}
    return pd.DataFrame([(found.classes[c], first[c]) for c in sorted(first)[:count]], columns=["class", "sentence"])


def settled(accuracy: pd.DataFrame) -> str:
    """How much the accuracy on the development set still moves in the last quarter of the epochs (label, x, value)."""
    last = accuracy.x.max()
    if last < 4:
        return ""
    means = accuracy.groupby(["label", "x"]).value.mean().unstack("x")
    moved = means[last] - means[last - last // 4]
    return ("Accuracy on the development set in the last quarter of the epochs, points: "
            + ", ".join(f"{name} {value:+.1f}" for name, value in moved.items()) + ".")


def describe_base(records) -> str:
    """How the bases of some runs came about, and whether pretraining has helped."""
    if not pretrained(records):
        return "" if records else NOT_YET
    told = [f"`{r.spec['base']}`: {r.spec['base_steps']:,} steps, {r.metrics['tokens_seen'] / 1e6:.1f} million tokens, "
            f"{r.metrics['seconds'] / 60:.0f} minutes; masked loss on sentences held out {r.metrics['masked_loss_nats']:.3f} "
            f"nats, {r.metrics['unigram_loss_nats']:.3f} by frequencies alone; order of the halves right in "
            f"{r.metrics['halves_accuracy']:.0%}" for r in pretrained(records)]
    return "Pretrained here: " + "; ".join(told) + ". " + helped(records)


def helped(records) -> str:
    """Fine-tuning from the base against fine-tuning from random weights."""
    own = fair(records)
    runs = {name: own[own.label == name].set_index("seed").test_accuracy for name in ("full", "full-random")
            } if len(own) else {}
    gain = runs["full"].sub(runs["full-random"]).dropna() if runs else ()
    return (f"Fine-tuning from it, against random weights: {interval(100 * gain, 1)} points of test accuracy more."
            if len(gain) else "")


def item_interval(accuracy: float, items: int) -> tuple[float, float]:
    """95% interval of an accuracy over items, by the quantiles of a bootstrap of them, which are binomial."""
    return tuple(distributions.binom.ppf((0.025, 0.975), items, accuracy) / items)


def over_items(right: np.ndarray) -> str:
    """Accuracy in percent with its interval over items."""
    low, high = item_interval(right.mean(), len(right))
    return f"{100 * right.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def results(own: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, highest test accuracy first."""
    rows = []
    for name, runs in sorted(own.groupby("label"), key=lambda item: -item[1].test_accuracy.mean()):
        rows.append({"arm": name, "seeds": len(runs), "rate": runs.lr.iloc[0],
                     "test accuracy, %": interval(100 * runs.test_accuracy, 1), "macro F1": runs.test_macro_f1.mean(),
                     "test loss, nats": interval(runs.test_loss_nats, 3), "dev accuracy, %": 100 * runs.dev_accuracy.mean(),
                     "train loss, nats": runs.train_loss_nats.mean()})
    return pd.DataFrame(rows)


def cost(own: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, batch), runs in sorted(own.groupby(["label", "batch"]), key=lambda item: item[1].step_seconds.median()):
        told = {"arm": name, "batch": batch, "runs": len(runs), "trainable": f"{runs.trainable.iloc[0]:,.0f}",
                "of all": f"{runs.trainable_percent.iloc[0]:.2f}%", "seconds": runs.seconds.median(),
                "s / step": runs.step_seconds.median(), "training's memory, MB": runs.training_memory_mb.median()}
        if "saved_bytes" in runs and runs.saved_bytes.notna().any():
            told["saved, KB"] = runs.saved_bytes.median() / KB
        rows.append(told)
    return pd.DataFrame(rows)


def documents_table(records) -> pd.DataFrame:
    """The document's own table with its places filled: as published, one epoch over 512 headlines, and the same with LoRA's
    classifier trained."""
    own, rows = frame(records, protocol="published", stage="final", epochs=1), []
    names = {"lora-frozen-head": f"lora (r={RANK}, α={ALPHA:g}, dropout={DROPOUT:g})", "full": "full_finetune",
             "lora": "the same LoRA, classifier trained"}
    for name, told in names.items():
        runs = own[own.label == name] if len(own) else own
        if len(runs):
            rows.append({"Strategy": told, "Trainable Params": f"{runs.trainable.iloc[0]:,}", "Total Params":
                         f"{runs.total.iloc[0]:,}", "Training Time (s)": interval(runs.seconds, 1),
                         "Dev Accuracy": interval(runs.dev_accuracy, 3), "Test Accuracy": interval(runs.test_accuracy, 3),
                         "Dev Loss": interval(runs.dev_loss_nats, 3), "Test Loss": interval(runs.test_loss_nats, 3)})
    return pd.DataFrame(rows)


def published(records) -> pd.DataFrame:
    """Both published settings, and what the published program called the loss."""
    own, rows = frame(records, protocol="published", stage="final"), []
    for (epochs, name), runs in own.groupby(["epochs", "label"]) if len(own) else ():
        rows.append({"headlines, epochs": f"{runs.examples.iloc[0]:,}, {epochs}", "arm": name, "seeds": len(runs),
                     "test accuracy, %": interval(100 * runs.test_accuracy, 1), "test loss, nats": runs.test_loss_nats.mean(),
                     "by the published program": runs.test_loss_as_published.mean()})
    return pd.DataFrame(rows)


def same_rate(records) -> pd.DataFrame:
    """Full fine-tuning and LoRA, each at the published rate and at its own."""
    own = pd.concat([frame(records, stage=SAME_RATE), fair(records)])
    return results_by_rate(own[own.label.isin(PAIR)]) if len(own) else own


def results_by_rate(own: pd.DataFrame) -> pd.DataFrame:
    rows = [{"arm": name, "rate": lr, "seeds": len(runs), "test accuracy, %": interval(100 * runs.test_accuracy, 1),
             "test loss, nats": interval(runs.test_loss_nats, 3)} for (name, lr), runs in own.groupby(["label", "lr"])]
    return pd.DataFrame(rows)


def paired(records) -> pd.DataFrame:
    """McNemar's test of both arms on the same test items, a row a seed."""
    by = {(label(r.spec), r.spec["seed"]): r for r in chosen(records, protocol="fair", stage="final")
          if label(r.spec) in PAIR}
    rows = []
    for seed in sorted({s for name, s in by if all((other, s) in by for other in PAIR)}):
        told = [by[name, seed].curves for name in PAIR]
        full, lora = (np.array(t["test_predicted"]) == np.array(t["test_classes"]) for t in told)
        table = [[int((full & lora).sum()), int((full & ~lora).sum())], [int((~full & lora).sum()), int((~full & ~lora).sum())]]
        apart = table[0][1] + table[1][0]
        rows.append({"seed": seed, "full, % [items]": over_items(full), "lora, % [items]": over_items(lora),
                     "full alone right": table[0][1], "lora alone right": table[1][0],
                     "p (McNemar)": float(mcnemar(table, exact=False, correction=True).pvalue) if apart else 1.0})
    return pd.DataFrame(rows)


def against_lora(own: pd.DataFrame) -> pd.DataFrame:
    """Points of test accuracy that LoRA's variants have more than LoRA, seed by seed: a column a variant."""
    runs = own[own.label.isin(("lora", *VARIANTS))].pivot(index="seed", columns="label", values="test_accuracy")
    told = [name for name in VARIANTS if name in runs]
    return 100 * runs[told].sub(runs["lora"], axis=0).rename(columns=VARIANTS) if "lora" in runs else runs[[]]


def confusion(records, name: str) -> pd.DataFrame:
    """Share of a class's test items that an arm took for another, mean over seeds; rows are true classes."""
    own = [r for r in chosen(records, protocol="fair", stage="final") if label(r.spec) == name]
    if not own:
        return pd.DataFrame()
    classes = (headlines.SENTIMENTS if own[0].spec["text"] == headlines.REVIEWS else headlines.CLASSES).values()
    tables = [confusion_matrix(r.curves["test_classes"], r.curves["test_predicted"], labels=range(len(classes)),
                               normalize="true") for r in own]
    return pd.DataFrame(np.mean(tables, 0), index=list(classes), columns=list(classes))


def grid(records) -> pd.DataFrame:
    """Accuracy on the development set of the runs that choose the rates: label, lr, value."""
    rows = [(label(r.spec), r.spec["lr"], r.metrics["dev_accuracy"]) for r in chosen(records, stage="grid")]
    return pd.DataFrame(rows, columns=["label", "lr", "value"])


def chosen_rates(records) -> pd.Series:
    """The rate of highest mean accuracy on the development set, by label."""
    return summaries.chosen_rates(grid(records), highest=True)


def told_rates(records) -> str:
    """Whether the final runs have the rates that the development set chose, and whether a choice lies at the grid's end."""
    best, own = chosen_rates(records), fair(records)
    used = own[own.label.isin(best.index)].groupby("label").lr.first() if len(own) else own
    return summaries.told_rates(grid(records), best, used, "highest accuracy on the development set",
                                "LoRA's other ranks and variants have LoRA's rate, the arms have", GRID_SEED)


def describe_live(records, trained) -> str:
    """The live runs in a sentence or two."""
    tuned = chosen(records)  # a base may come from the cache
    return f"{len(tuned)} runs, {trained_now(tuned, trained)} {describe_base(records)}"


def describe_archive(records) -> str:
    bases = sorted({r.spec["base"] for r in chosen(records, stage="final")})
    stand_in = [base for base in bases if base in MADE]
    made = {(r.spec["base"], r.provenance["base_sha256"]) for r in chosen(records, stage="final") if r.spec["base_steps"]}
    mixed = " **Their bases differ: some were pretrained another time.**" if len(made) > len({base for base, _ in made}) else ""
    return f"Archived runs: base {', '.join(bases) or 'none yet'}{mixed}" + (
        f", **the stand-in for {headlines.ERNIE}**: no figure of ours is the document's." if stand_in else ".")


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    own = fair(records)
    means = own.groupby("label").test_accuracy.mean() if len(own) else {}
    figures = ", ".join(f"{name} {100 * means[name]:.1f}%" for name in (*PAIR, "lora-frozen-head") if name in means)
    told = f" Test accuracy on TNEWS: {figures}." if figures else ""
    return f"LoRA within a few points of full fine-tuning: {verdicts['E04'].verdict}.{told}"


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    v = own_verdicts(NAME)
    return (f"**LoRA ends within a few points of full fine-tuning: {v['E04'].verdict}. Rank 16 brings it closer: "
            f"{v['E05'].verdict}. It trains fewer than 1% of the weights: {v['E03'].verdict}.** {fair_pair(records)}")


def fair_pair(records) -> str:
    """All arms on the test set, in a sentence."""
    own = fair(records)
    if own.empty:
        return NOT_YET
    told = "; ".join(f"{name} {interval(100 * own[own.label == name].test_accuracy, 1)}"
                     for name in (*ARMS, "full-random") if name in set(own.label))
    return f"Test accuracy in percent, each arm at its own rate: {told}."


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v = own_verdicts(NAME)

    def told(name):
        row = v[name]
        effect = f" ({next(iter(row.ours))}: {first_effect(row)})" if row.ci and row.p is not None else ""
        repairs = "".join(f"; {what}: {found['verdict']}" for what, found in row.repairs.items())
        return f"{name} is {row.verdict}{effect}{repairs}{'; ' + row.reason if row.reason and not repairs else ''}"

    return "\n".join([
        f"- **The empty table.** E01 is {v['E01'].verdict}, E02 {v['E02'].verdict}: {v['E01'].reason or NOT_YET}.",
        f"- **Parameters.** {told('E03')}.",
        f"- **Accuracy.** {told('E04')}. {frozen_head(records)}",
        f"- **Rank.** {told('E05')}.",
        f"- **Time and memory.** {told('E06')}.",
    ])


def frozen_head(records) -> str:
    """What it costs to leave the random classifier frozen, as the published program did."""
    own = fair(records)
    both = own[own.label.isin(("lora", "lora-frozen-head"))].pivot(index="seed", columns="label", values="test_accuracy"
                                                                   ).dropna() if len(own) else own
    if len(both) < 1 or both.shape[1] < 2:
        return ""
    lost = 100 * (both["lora"] - both["lora-frozen-head"])
    return f"Leaving the classifier frozen, as the published program did, costs LoRA {interval(lost, 1)} points."


def costs(records) -> pd.DataFrame:
    """Runs at the published architecture, which tell what a step takes."""
    return frame(records, stage=COST)
