"""The figures of the ERNIE page with their captions, which state findings computed from the same records."""

import numpy as np
import pandas as pd

from seqlib import show
from seqlib.studies.ernie import figures, page, tables
from seqlib.studies.ernie.pretrain import EVERY
from seqlib.studies.ernie.specs import ALPHA, DROPOUT, RANK, label
from seqlib.summaries import NOT_YET, dot_panels, interval

BROKEN = 0.1  # accuracy below which a model of 15 classes is taken to have learned nothing


def show_pretraining(records, name: str) -> None:
    """Masked loss by step of the bases that were pretrained."""
    own = [r for r in tables.pretrained(records) if r.curves["train_loss"]]
    if not own:
        show.say(f"No base was pretrained for {EVERY} steps, so there is no curve of its loss." if records else NOT_YET)
        return
    rows = [(r.spec["base"], EVERY * (i + 1), value) for r in own for i, value in enumerate(r.curves["train_loss"])]
    told = pd.DataFrame(rows, columns=["label", "x", "value"])
    levels = {"frequencies alone": own[0].metrics["unigram_loss_nats"]}
    below = "; ".join(f"{r.spec['base']} ends at {r.metrics['masked_loss_nats']:.2f} nats on sentences held out, frequencies "
                      f"alone have {r.metrics['unigram_loss_nats']:.2f}" for r in own)
    show.figure(lambda: figures.curve(told, levels), name=f"ernie-pretraining-{name}", data=told,
                alt="Loss of masked tokens by step of the pretraining.", caption=f"{below}. Points: means of {EVERY} steps.")


def epochs(records, curve: str) -> pd.DataFrame:
    """A curve with a point an epoch: label, seed, x, value in percent."""
    rows = [(label(r.spec), r.spec["seed"], i + 1, 100 * value) for r in records for i, value in enumerate(r.curves[curve])]
    return pd.DataFrame(rows, columns=["label", "seed", "x", "value"])


def steps(records, smooth: int) -> pd.DataFrame:
    """Training loss by step, the mean of `smooth` steps: label, seed, x, value."""
    rows = []
    for r in records:
        loss = np.array(r.curves["train_loss"], float)
        means = loss[: len(loss) // smooth * smooth].reshape(-1, smooth).mean(1)
        rows += [(label(r.spec), r.spec["seed"], smooth * (i + 1), value) for i, value in enumerate(means)]
    return pd.DataFrame(rows, columns=["label", "seed", "x", "value"])


def on_base(records) -> str:
    """Which base a figure comes from."""
    return f" Base: {', '.join(sorted({r.spec['base'] for r in tables.chosen(records, protocol='fair')}))}."


def show_training(records, name: str, smooth: int = 5) -> None:
    """Training loss by step and accuracy on the development set by epoch."""
    own = tables.chosen(records, stage="final", protocol="fair")
    own = [r for r in own if label(r.spec) in (*tables.PAIR, "lora-frozen-head", "full-random")]
    if not own:
        show.say(NOT_YET)
        return
    panels = {("steps", "training loss, nats"): steps(own, smooth),
              ("epochs", "accuracy on the development set, %"): epochs(own, "dev_accuracy")}
    loss, accuracy = panels.values()
    told = [f"{arm} {runs[runs.x == runs.x.max()].value.mean():.2f}" for arm, runs in loss.groupby("label")]
    show.figure(lambda: figures.lines(panels), name=f"ernie-training-{name}",
                data=pd.concat([own.assign(axes=" ".join(axes)) for axes, own in panels.items()]),
                alt="Training loss by step and accuracy on the development set by epoch, a line an arm.",
                caption=f"Training loss, nats, means of {smooth} steps; at the end: {', '.join(told)}. {page.settled(accuracy)}"
                        + (" Band: range of the seeds." if loss.seed.nunique() > 1 else "") + on_base(records))


def show_arms(records) -> None:
    """All arms: accuracy and loss on the test set, a dot a seed."""
    own = tables.fair(records)
    if own.empty:
        show.say(NOT_YET)
        return
    own = tables.of_arms(own).assign(percent=lambda t: 100 * t.test_accuracy)
    means = own.groupby("label").percent.mean().sort_values(ascending=False)
    axes = {"percent": "test accuracy, %", "test_loss_nats": "test loss, nats"}
    show.figure(lambda: dot_panels(own, axes, figures.colour, ascending=False), name="ernie-arms",
                data=own[["label", "seed", "lr", *axes]],
                alt="Test accuracy and test loss, a row an arm, a dot a seed.",
                caption="Test accuracy: " + ", ".join(f"{name} {value:.1f}%" for name, value in means.items())
                        + ". Dots: seeds; bars: means." + on_base(records))


def show_rates(records) -> None:
    told = tables.grid(records)
    if told.empty:
        show.say(NOT_YET)
        return
    best = "; ".join(f"{name} {rate:g}" for name, rate in tables.chosen_rates(records).items())
    show.figure(lambda: figures.rates(told), name="ernie-rates", data=told,
                alt="Accuracy on the development set by learning rate, a line an arm.",
                caption=f"Rates of highest accuracy on the development set: {best}.{on_base(records)}")


def show_ranks(records) -> None:
    """Test accuracy by rank of LoRA under two rules for alpha, with full fine-tuning across."""
    own = tables.fair(records)
    lora = own[(own.arm == "lora") & (own.targets == "attention") & (own.dropout > 0)] if len(own) else own
    if lora.empty or lora.r.nunique() < 2:
        show.say(NOT_YET)
        return
    rules = {"alpha twice the rank": lora.alpha == 2 * lora.r, f"alpha {ALPHA:g}": lora.alpha == ALPHA}
    lora = lora.assign(x=lora.r, value=100 * lora.test_accuracy)[["seed", "x", "value"]]
    told = pd.concat([lora[at].assign(rule=rule) for rule, at in rules.items()], ignore_index=True)
    levels = {name: 100 * own[own.label == name].test_accuracy.mean() for name in ("full",) if name in set(own.label)}
    means = told.groupby(["rule", "x"]).value.mean()
    best = means.idxmax()
    broken = told[told.value < 100 * BROKEN].groupby(["rule", "x"]).size()
    fell = "; ".join(f"rank {x} with {rule}, {n}" for (rule, x), n in broken.items())
    fell = f" All have LoRA's rate, at which some runs broke down to chance: {fell}." if fell else ""
    across = f"; full fine-tuning: {levels['full']:.1f}%" if levels else ""
    show.figure(lambda: figures.ranks(told, levels, "test accuracy, %"), name="ernie-ranks", data=told,
                alt="Test accuracy by rank of LoRA, a line a rule for alpha.",
                caption=f"Highest accuracy at rank {best[1]} with {best[0]}, {means.max():.1f}%, lowest {means.min():.1f}%"
                        f"{across}.{fell} The document's rank is {RANK}. Band: range of the seeds.{on_base(records)}")


def show_variants(records) -> None:
    """LoRA without dropout, on all linear layers, and at half the rank: accuracy and loss on the test set, a dot a seed."""
    own = tables.fair(records)
    gains = tables.against_lora(records)
    if not gains:
        show.say(NOT_YET)
        return
    names = {"lora": f"rank {RANK}, alpha {ALPHA:g}, dropout {DROPOUT:g}, attention", **tables.VARIANTS}
    told = own[own.label.isin(names)].assign(arm=lambda t: t.label, label=lambda t: t.label.map(names),
                                             percent=lambda t: 100 * t.test_accuracy)
    axes = {"percent": "test accuracy, %", "test_loss_nats": "test loss, nats"}
    show.figure(lambda: dot_panels(told, axes, lambda _: figures.colour("lora"), ascending=False), name="ernie-variants",
                data=told[["label", "seed", "lr", "trainable", *axes]],
                alt="Test accuracy and test loss, a row a variant of LoRA, a dot a seed.",
                caption="Points of test accuracy more than the published adapter, seed by seed: " + "; ".join(
                    f"{name} {interval(own, 1)}" for name, own in gains.items()) + ". Dots: seeds; bars: means."
                + on_base(records))


def show_confusion(records, name: str) -> None:
    """Which classes are taken for which."""
    table = tables.confusion(records, name)
    if table.empty:
        show.say(NOT_YET)
        return
    pairs = table.where(~np.eye(len(table), dtype=bool)).stack()
    (true, predicted), share = pairs.idxmax(), pairs.max()
    own = pd.Series(np.diag(table), table.index)
    show.figure(lambda: figures.confusion(table), name=f"ernie-confusion-{name}", data=table.reset_index(names="true"),
                alt="Share of each class's test items by predicted class.",
                caption=f"{name}: most often mistaken is {true} for {predicted} ({share:.0%}); best known {own.idxmax()} "
                        f"({own.max():.0%}), least {own.idxmin()} ({own.min():.0%}). Percent of the true class, mean of the "
                        f"seeds.{on_base(records)}")
