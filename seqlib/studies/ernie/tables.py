"""Records of the ERNIE study, chosen and set side by side: the tables of its page."""

import numpy as np
import pandas as pd
from scipy import stats as distributions
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar

from seqlib import claims, headlines, summaries
from seqlib.studies.ernie.specs import ALPHA, ARMS, COST, DROPOUT, PRETRAINING, RANK, SAME_RATE, label
from seqlib.summaries import interval

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


def of_arms(own: pd.DataFrame, alone: bool = True) -> pd.DataFrame:
    """Of some runs those of the arms as they stand and from random weights; or, not `alone`, those of LoRA's ranks and
    variants."""
    return own[own.label.isin((*ARMS, "full-random")) == alone] if len(own) else own


def pretrained(records) -> list:
    """Records of the pretraining of bases."""
    return [r for r in records if r.spec["arm"] == PRETRAINING]


def costs(records) -> pd.DataFrame:
    """Runs at the published architecture, which tell what a step takes."""
    return frame(records, stage=COST)


def points_more(records, better: str, than: str) -> pd.Series:
    """Points of test accuracy that one has more than another, each at its own rate, by seed."""
    return 100 * summaries.more(fair(records), "test_accuracy", better, than)


def against_lora(records) -> dict[str, pd.Series]:
    """Points of test accuracy that LoRA's variants have more than LoRA, by seed."""
    gains = {told: points_more(records, name, "lora") for name, told in VARIANTS.items()}
    return {told: gain for told, gain in gains.items() if len(gain)}


def examples(name: str, count: int = 6) -> pd.DataFrame:
    """A headline of some classes, as it stands in the data."""
    from seqlib.studies.ernie import sentences

    found = sentences.load(name)
    first = {c: s for s, c in reversed(list(zip(found.train.sentences, found.train.classes)))}
    return pd.DataFrame([(found.classes[c], first[c]) for c in sorted(first)[:count]], columns=["class", "sentence"])


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
                     "dev loss": runs.dev_loss_nats.mean(), "train loss": runs.train_loss_nats.mean()})
    return pd.DataFrame(rows)


def cost(own: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, batch), runs in sorted(own.groupby(["label", "batch"]), key=lambda item: item[1].step_seconds.median()):
        told = {"arm": name, "batch": batch, "runs": len(runs), "trainable": f"{runs.trainable.iloc[0]:,.0f}",
                "of all": f"{runs.trainable_percent.iloc[0]:.2f}%", "seconds": runs.seconds.median(),
                "s / step": runs.step_seconds.median(), "training's memory, MB": runs.training_memory_mb.median(),
                "peak, MB": runs.peak_memory_mb.median()}
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
