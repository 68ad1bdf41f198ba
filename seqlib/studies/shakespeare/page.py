"""What the Tiny Shakespeare page says, computed from records: tables, figures with captions, sentences with numbers."""

import pandas as pd

from seqlib import claims, show
from seqlib.studies.shakespeare import corpus
from seqlib.studies.shakespeare.arms import ARMS, build
from seqlib.studies.shakespeare.run import SAMPLED
from seqlib.summaries import first_effect, interval, own_verdicts, span, trained_now

MAIN = ("lstm", "additive", "transformer")
PUBLISHED = claims.load()["shakespeare"]["settings"]
LOSS = "loss, nats [95% CI]"
_CLAIMS = claims.load()["shakespeare"]["claims"]
DOCUMENT = {arm: _CLAIMS[claim]["seed"]["epoch 5"] for arm, claim in (("lstm", "S01"), ("additive", "S02"))}


def live_text(records, params) -> list:
    """The live runs of one setting, the notebook's own; sweeps and the recall task are left out."""
    own = {"context": params.context, "batch": params.batch, "epochs": params.epochs, "epoch_steps": params.epoch_steps}
    return [r for r in records if r.spec["corpus"] != "mqar" and all(r.spec[k] == v for k, v in own.items())]


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


def leak(records) -> str:
    """S07 in words."""
    without, masked = frame_of(records, ("additive-unmasked",), epochs=1), frame_of(records, ("additive",))
    return (f"After one epoch the loss without a mask is {interval(without.val_loss_nats, 3)} nats, with it "
            f"{interval(masked.val_loss_nats_epoch1, 3)}. Deprived of the future that it was trained to look at, the unmasked "
            f"model has {interval(without.val_loss_masked_nats, 3)}. Of the words that it writes "
            f"{without.sample_known_words.mean():.0%} stand in the training text (the masked model, trained five times as "
            f"long: {masked.sample_known_words.mean():.0%}). "
            f"Verdict on S07: **{own_verdicts('shakespeare')['S07'].verdict}**.")


def samples(records, arms=MAIN, **settings) -> pd.DataFrame:
    """The texts that the first seed's models wrote when they were recorded."""
    first = [r for r in chosen(records, arms, **settings) if r.spec["seed"] == 0]
    return pd.DataFrame([{"arm": r.spec["arm"], "temperature": t, "text": text.replace("\n", " / ")}
                         for r in first for t, text in zip(SAMPLED, r.curves["samples"])])


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    s04, s11 = verdicts["S04"], verdicts["S11"]
    return (f"Attention on top of the LSTM: {s04.verdict} ({first_effect(s04)} in perplexity). Transformer "
            f"instead: {s11.verdict} ({first_effect(s11)} nats against the LSTM with attention, at equal parameters, "
            "steps and learning rate).")


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    rows, means = own_verdicts("shakespeare"), frame_of(records).groupby("arm").val_loss_nats.mean()
    s04, s11 = rows["S04"], rows["S11"]
    return (f"**Attention on top of the LSTM: {s04.verdict}.** Over {s04.seeds} paired seeds the final perplexity differs by "
            f"{first_effect(s04)} (loss {means['lstm']:.4f} without, {means['additive']:.4f} with attention; the document has "
            f"{DOCUMENT['lstm']} and {DOCUMENT['additive']}). **A transformer instead: {s11.verdict}.** With the parameters of "
            f"the LSTM with attention, the same steps and the same learning rate its loss is {means['transformer']:.4f}, "
            f"{first_effect(s11)} nats from that of the LSTM with attention. {time_matched(s11)}")


def time_matched(row: claims.Verdict) -> str:
    """S11's second comparison: a transformer that takes the LSTM's time a step."""
    repair = row.repairs["time matched to the LSTM"]
    if repair["verdict"] == "not run":
        return "The transformer that takes the LSTM's time a step has not been run."
    (effect,), (ends,) = repair["ours"].values(), repair["ci"].values()
    return (f"With about the LSTM's time a step a transformer differs from the LSTM by {span(effect, *ends)} "
            f"({repair['verdict']}).")


def describe_data(name: str) -> str:
    text = corpus.load(name)
    note = "" if name == PUBLISHED["corpus"] else (
        f" **This is the stand-in {name}, not Tiny Shakespeare:** the same plays in another edition. Its live figures do not "
        "compare with the archive's.")
    return (f"{len(text.train) + len(text.validation):,} characters, {text.V} distinct, from {text.source} (sha256 "
            f"`{text.sha256[:16]}…`): {len(text.train):,} for training, the last {len(text.validation):,} for "
            f"validation.{note}")


def describe_live(records, trained) -> str:
    steps, full = records[0].spec["epochs"] * records[0].spec["epoch_steps"], PUBLISHED["epochs"] * PUBLISHED["epoch_steps"]
    return (f"{len(records)} runs of {steps:,} steps (the document: {full:,}) on {records[0].spec['corpus']}, "
            + trained_now(records, trained))


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v, frame = own_verdicts("shakespeare"), frame_of(records)
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
        f"- **Cost.** S06 is {v['S06'].verdict}: a step takes {1e3 * means.step_cpu_seconds['additive']:.0f} ms with "
        f"attention, {1e3 * means.step_cpu_seconds['lstm']:.0f} ms without (processor time).",
        f"- **Memory.** S08 is {v['S08'].verdict}. S09 is {v['S09'].verdict} ({v['S09'].seeds} paired seeds).",
        f"- **Overfitting.** S10 is {v['S10'].verdict}: the loss on unseen text lies {gap['lstm']:.3f} (LSTM) and "
        f"{gap['additive']:.3f} nats (with attention) above that on a stretch of training text of the same length.",
        f"- **Transformer.** S11 is {v['S11'].verdict}: {means.val_loss_nats['transformer']:.4f} nats against "
        f"{means.val_loss_nats['additive']:.4f} at equal parameters, steps and learning rate. {time_matched(v['S11'])}",
        "- **Still falling?** From the fourth epoch to the fifth the loss changed by " + ", ".join(
            f"{a} {means.val_loss_nats_epoch5[a] - means.val_loss_nats_epoch4[a]:+.3f}" for a in MAIN) + " nats.",
    ])
