"""The figures of the GPT-2 study's page with their captions, which state findings computed from the same records."""

import pandas as pd

from seqlib import show
from seqlib.studies.gpt2 import figures
from seqlib.studies.gpt2.page import chosen_rates, fair, frame, grid
from seqlib.studies.gpt2.specs import RANK, label
from seqlib.summaries import NOT_YET, dot_panels


def curves(records, smooth: int = 1) -> pd.DataFrame:
    """Training loss by step: label, seed, x, value (the mean of the last `smooth` steps)."""
    rows = [(label(r.spec), r.spec["seed"], i + 1, value) for r in records
            for i, value in enumerate(pd.Series(r.curves["train_loss"], dtype=float).rolling(smooth).mean()) if value == value]
    return pd.DataFrame(rows, columns=["label", "seed", "x", "value"])


def show_training(records, name: str, smooth: int = 1) -> None:
    """Training loss of some runs, a panel a text."""
    texts = {text: curves([r for r in records if r.spec["text"] == text], smooth)
             for text in sorted({r.spec["text"] for r in records})}
    texts = {text: own for text, own in texts.items() if len(own)}
    if not texts:
        show.say(NOT_YET)
        return
    told = []
    for text, own in frame([r for r in records if r.spec["steps"]]).groupby("text"):  # single batches are too noisy to tell
        for arm, runs in own.groupby("label"):
            told.append(f"{text}, {arm} {runs.test_loss_nats_before.mean():.2f} to {runs.test_loss_nats.mean():.2f} "
                        f"over {runs.steps.iloc[0]} steps")
    show.figure(lambda: figures.lines(texts, "steps", "training loss, nats"), name=f"gpt2-training-{name}",
                data=pd.concat([own.assign(text=text) for text, own in texts.items()]),
                alt="Training loss by step, a line an arm.",
                caption=f"Training loss, nats a token. On text held out the loss goes from {'; '.join(told)}." + (
                    f" Means of {smooth} steps." if smooth > 1 else "") + (
                    " Band: range of the seeds." if any(own.seed.nunique() > 1 for own in texts.values()) else ""))


def show_rates(records) -> None:
    told = grid(records)
    if told.empty:
        show.say(NOT_YET)
        return
    best = chosen_rates(records)
    lowest = "; ".join(f"{name} {rate:g}" for name, rate in best.items())
    show.figure(lambda: figures.rates(told), name="gpt2-rates", data=told,
                alt="Validation loss by learning rate, a line an arm.",
                caption=f"Rates of lowest validation loss: {lowest}. Losses above those of all lowest rates are cut off.")


def show_frontier(records) -> None:
    """What an arm forgets for what it learns, as its rate rises."""
    told = grid(records)
    if told.empty:
        show.say(NOT_YET)
        return
    best = told.loc[told.groupby("label").value.idxmin()].sort_values("value")
    ends = "; ".join(f"{row.label} {row.value:.3f} and {row.forgotten:+.3f}" for row in best.itertuples())
    show.figure(lambda: figures.frontier(told), name="gpt2-frontier", data=told,
                alt="Loss forgotten on other text against validation loss, a line an arm, a dot a rate.",
                caption=f"Validation loss and what is forgotten, nats, at each one's rate of lowest loss: {ends}. "
                        f"Dots: rates; those that end more than {figures.NEAR} nats above the lowest are cut off.")


def show_arms(records) -> None:
    """All arms and ranks: what they gain on held-out text and what they forget of other text."""
    own = fair(records, "small")
    if own.empty:
        show.say(NOT_YET)
        return
    means = own.groupby("label")[["test_loss_nats", "forgetting_nats"]].mean()
    trained = means.drop(index="frozen", errors="ignore")
    least, most = trained.forgetting_nats.idxmin(), trained.forgetting_nats.idxmax()
    axes = {"test_loss_nats": "loss on text held out, nats", "forgetting_nats": "forgotten, nats"}
    show.figure(lambda: dot_panels(own, axes, figures.colour), name="gpt2-arms", data=own[["label", "seed", "lr", *axes]],
                alt="Loss on text held out and loss gained on other text, a row an arm, a dot a seed.",
                caption=f"Lowest loss on text held out: {trained.test_loss_nats.idxmin()} {trained.test_loss_nats.min():.3f}. "
                        f"Least forgotten: {least} {trained.forgetting_nats[least]:+.4f}, most: {most} "
                        f"{trained.forgetting_nats[most]:+.4f} nats. Dots: seeds; bars: means.")


def show_ranks(records) -> None:
    """Loss by rank of LoRA, with full fine-tuning across."""
    own = fair(records, "small")
    lora = own[own.arm == "lora"] if len(own) else own
    if lora.empty or lora.r.nunique() < 2:
        show.say(NOT_YET)
        return
    data = pd.DataFrame({"label": "lora", "seed": lora.seed, "x": lora.r, "value": lora.test_loss_nats})
    levels = {name: own[own.label == name].test_loss_nats.mean() for name in ("full", "frozen") if name in set(own.label)}
    means = data.groupby("x").value.mean()
    ranks = ", ".join(f"{r} {value:.3f}" for r, value in means.items())
    across = ", ".join(f"{name} {value:.3f}" for name, value in levels.items())
    near = {name: level for name, level in levels.items() if name != "frozen"}  # the base would squeeze what differs
    show.figure(lambda: figures.lines({"LoRA on attention": data}, "rank", "loss on text held out, nats", True, near),
                name="gpt2-ranks", data=data, alt="Loss on text held out by rank of LoRA.",
                caption=f"Loss by rank: {ranks} (the document's is {RANK}); {across}. Band: range of the seeds.")


def show_published(records) -> None:
    """How training goes under the published protocol, by text."""
    show_training([r for r in records if r.spec["protocol"] == "published"], "published", smooth=4)
