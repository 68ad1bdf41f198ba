"""What the ERNIE page says, computed from records: sentences with numbers."""

import numpy as np
import pandas as pd

from seqlib import claims, headlines, summaries
from seqlib.errors import SeqlibError
from seqlib.stats import holm
from seqlib.studies.ernie.framework import need
from seqlib.studies.ernie.specs import ARMS, GRID_SEED, MADE
from seqlib.studies.ernie.tables import PAIR, chosen, chosen_rates, fair, grid, points_more, pretrained
from seqlib.summaries import NOT_YET, interval, own_verdicts, span, trained_now

NAME = "ernie"


def planned(params) -> tuple[list, str]:
    """The runs that the notebook asks for, and what cannot be had for them and how to get it, in a sentence; empty where all is
    there."""
    try:
        need()
    except SeqlibError as error:
        return [], f"**Nothing was trained here.** {error}."
    return summaries.planned(NAME, params)


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
    gain = points_more(records, "full", "full-random")
    return (f"Fine-tuning from it, against random weights: {interval(gain, 1)} points of test accuracy more."
            if len(gain) else "")


def told_paired(table: pd.DataFrame) -> str:
    """In how many seeds one arm is right more often than the other, before and after Holm over the seeds."""
    if table.empty:
        return ""
    more = table["full alone right"] > table["lora alone right"]
    sure = np.array(holm(list(table["p (McNemar)"]))) < 0.05
    less = table["full alone right"] < table["lora alone right"]
    return (f"Full fine-tuning is right more often in {more.sum()} of {len(table)} seeds (in {(more & sure).sum()} with p < "
            f"0.05 after Holm over the seeds), LoRA in {less.sum()} ({(less & sure).sum()}).")


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
    told = f" Test accuracy on TNEWS from {' and '.join(sorted(set(own.base)))}: {figures}." if figures else ""
    return f"LoRA within a few points of full fine-tuning, {in_all_settings(verdicts['E04'])}.{told}"


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    v = own_verdicts(NAME)
    return (f"**LoRA ends within a few points of full fine-tuning, {in_all_settings(v['E04'])}. Rank 16 brings it closer: "
            f"{v['E05'].verdict}. It trains fewer than 1% of the weights: {v['E03'].verdict}.** {fair_pair(records)}")


def in_all_settings(row: claims.Verdict) -> str:
    """A verdict as published and under every repair."""
    return "; ".join([f"as published: {row.verdict}", *(f"{what}: {told['verdict']}" for what, told in row.repairs.items())])


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
        effect = "; ".join(f"{pair}: {span(found, *row.ci[pair])}" for pair, found in row.ours.items() if row.p is not None)
        effect = f" ({effect})" if effect else ""
        repairs = "".join(f"; {what}: {found['verdict']}" + (
            f" ({span(next(iter(found['ours'].values())), *next(iter(found['ci'].values())))})" if found.get("ours") else "")
            for what, found in row.repairs.items())
        return f"{name} is {row.verdict}{effect}{repairs}{'; ' + row.reason if row.reason and not repairs else ''}"

    return "\n".join([
        f"- **The empty table.** E01 is {v['E01'].verdict}, E02 {v['E02'].verdict}: {v['E01'].reason or NOT_YET}.",
        f"- **Parameters.** {told('E03')}.",
        f"- **Accuracy.** {told('E04')}. {behind(records)} {frozen_head(records)}",
        f"- **Rank.** {told('E05')}.",
        f"- **Time and memory.** {told('E06')}.",
    ])


def behind(records) -> str:
    """How far LoRA ends behind full fine-tuning."""
    lost = points_more(records, *PAIR)
    return f"With a rate of its own for each, LoRA ends {interval(lost, 1)} points behind." if len(lost) else ""


def frozen_head(records) -> str:
    """What it costs to leave the random classifier frozen, as the published program did."""
    lost = points_more(records, "lora", "lora-frozen-head")
    return (f"Leaving the classifier frozen, as the published program did, costs LoRA {interval(lost, 1)} points."
            if len(lost) else "")
