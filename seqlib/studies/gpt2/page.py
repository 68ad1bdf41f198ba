"""What the GPT-2 study's page says, computed from records: tables and sentences with numbers."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from seqlib import claims, data, plays, smollm, summaries
from seqlib.errors import SeqlibError
from seqlib.studies.gpt2.specs import ARMS, GRID_SEED, LOREM, RANK, TEXTS, TINY, label
from seqlib.study import get
from seqlib.summaries import NOT_YET, first_effect, interval, own_verdicts

NAME = "gpt2"
PROMPTED = ("frozen", "lora", "full")
COMPARED = ("full", "lora", "lora-all", "frozen")  # what the first lines tell of
MB = 2**20
RUN = 12  # words that do not repeat by chance


def frame(records, **settings) -> pd.DataFrame:
    """Final runs with some settings, with the name of what was trained."""
    chosen = [r for r in records if r.spec["stage"] == "final" and all(r.spec[k] == v for k, v in settings.items())]
    told = claims.frame(chosen)
    return told if told.empty else told.assign(label=[label(r.spec) for r in chosen])


def fair(records, which: str) -> pd.DataFrame:
    """The archive's fair runs: the `main` pair at the full batch, the `small` ones of all arms and ranks, the main pair with
    the small batch for `long`, or on `filler` text."""
    params = get(NAME).parameters("full")
    own = frame(records, protocol="fair")
    if own.empty:
        return own
    batch = params.batch if which == "main" else params.small_batch
    steps = params.long_steps if which in ("long", "filler") else params.steps
    text = LOREM if which == "filler" else params.text
    return own[(own.batch == batch) & own.steps.isin((0, steps)) & (own.text == text)
               & ((own.steps > 0) | (which == "small"))]


def compared(records) -> pd.DataFrame:
    """What the comparison of the arms rests on: the small runs, which have most seeds, else the main pair."""
    own = fair(records, "small")
    return fair(records, "main") if own.empty else own


def live(records, params) -> list:
    """The live runs of the main pair, the notebook's own."""
    own = {"stage": "final", "protocol": "fair", "text": params.text}
    return [r for r in records if all(r.spec[k] == v for k, v in own.items())
            and (r.spec["arm"] == "frozen" or (r.spec["batch"], r.spec["steps"]) == (params.batch, params.steps))]


def grid(records) -> pd.DataFrame:
    """Validation losses of the runs that choose the learning rates, and what these forget: label, lr, value, forgotten."""
    rows = [(label(r.spec), r.spec["lr"], r.metrics["val_loss_nats"], r.metrics["forgetting_nats"])
            for r in records if r.spec["stage"] == "grid"]
    return pd.DataFrame(rows, columns=["label", "lr", "value", "forgotten"])


def chosen_rates(records) -> pd.Series:
    """The rate of lowest mean validation loss by label."""
    return summaries.chosen_rates(grid(records))


def told_rates(records) -> str:
    """Whether the final runs have the rates that validation text chose, and whether a choice lies at the grid's end."""
    own = frame(records, protocol="fair", text=get(NAME).parameters("full").text)
    used = own[own.label != "frozen"].groupby("label").lr.first() if len(own) else own
    return summaries.told_rates(grid(records), chosen_rates(records), used, "lowest validation loss",
                                "Every arm and rank below has", GRID_SEED)


def describe_data(specs) -> str:
    """Base and text of some runs, and what they stand in for."""
    base, text = specs[0].base, specs[0].text
    notes = {smollm.BASE: " **It is the stand-in for GPT-2:** SmolLM2-135M-Instruct, 4-bit weights taken as single precision. "
                          "Orders and ratios can be compared with the document's, losses cannot.",
             TINY: " **It is a tiny random model for tests:** nothing that it says means anything."}
    return f"Base `{base}`, text `{text}`.{notes.get(base, '')}"


def describe_archive(records) -> str:
    bases = sorted({r.spec["base"] for r in records})
    own = compared(records)
    absent = [arm for arm in ARMS if arm not in set(own.get("arm", ()))]
    return f"Archived runs: base {', '.join(bases)}" + (
        ", **the stand-in for GPT-2**: no loss of ours is the document's." if smollm.BASE in bases else ".") + (
        f" **Not in the archive yet: {', '.join(absent)}.**" if absent else "")


def by_loss(own: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each arm or rank with its runs, lowest test loss first."""
    return sorted(own.groupby("label"), key=lambda item: item[1].test_loss_nats.mean())


def results(own: pd.DataFrame) -> pd.DataFrame:
    """One row an arm or rank, lowest test loss first."""
    rows = []
    for name, runs in by_loss(own):
        rows.append({"arm": name, "seeds": len(runs), "rate": runs.lr.iloc[0] or "",
               "test loss, nats": interval(runs.test_loss_nats, 3),
               "gain, nats": interval(runs.gain_nats, 3), "forgets, nats": interval(runs.forgetting_nats, 3)})
    return pd.DataFrame(rows)


def units(own: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each arm's losses and perplexities, by token and by character, lowest test loss first."""
    rows = []
    for name, runs in by_loss(own):
        for text, part in (("validation", "val"), ("test", "test")):
            token, character = runs[f"{part}_loss_nats"], runs[f"{part}_nats_per_character"]
            rows.append({"arm": name, "text": text, "nats / token": token.mean(), "perplexity / token": np.exp(token).mean(),
                         "nats / character": character.mean(), "perplexity / character": np.exp(character).mean()})
    return pd.DataFrame(rows)


def by_time(own: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each arm that trains with its runs, the quickest step first."""
    return sorted(own[own.label != "frozen"].groupby("label"), key=lambda item: item[1].step_seconds.median())


def cost(own: pd.DataFrame) -> pd.DataFrame:
    """Medians of the time of a run and of its steps."""
    return pd.DataFrame([{
        "arm": name, "runs": len(runs), "s": runs.seconds.median(), "s / step": runs.step_seconds.median(),
        "processor s / step": runs.step_cpu_seconds.median(), "tokens / s": runs.tokens_per_second.median(),
    } for name, runs in by_time(own)])


def size(own: pd.DataFrame) -> pd.DataFrame:
    """What is trained, and medians of the memory and of what is saved."""
    return pd.DataFrame([{
        "arm": name, "trainable": f"{runs.trainable.iloc[0]:,.0f}", "of all": f"{runs.trainable_percent.iloc[0]:.4f}%",
        "peak memory, MB": runs.peak_memory_mb.median(), "saved, MB": runs.saved_bytes.median() / MB,
    } for name, runs in by_time(own)])


def published(records) -> pd.DataFrame:
    """The document's protocol on each text: what its own validation says, and what held-out text says."""
    own, rows = frame(records, protocol="published"), []
    for (text, name), runs in own.groupby(["text", "label"]) if len(own) else ():
        seen = runs.batch.iloc[0] * runs.steps.iloc[0] * runs.context.iloc[0] / (0.9 * runs.slice_tokens.iloc[0])
        rows.append({"text": text, "arm": name, "seeds": len(runs), "steps": runs.steps.iloc[0], "a token is seen, times": seen,
                     "validation perplexity": interval(runs.val_perplexity, 2),
                     "perplexity, another part of the text": interval(runs.test_perplexity, 2),
                     "forgets, nats": interval(runs.forgetting_nats, 3)})
    return pd.DataFrame(rows)


def repeated(text: str) -> float:
    """Share of the runs of twelve words in the last tenth of a text that stand in the first nine tenths as well."""
    words = text.split()
    runs = [hash(run) for run in zip(*(words[i:] for i in range(RUN)))]
    cut = len(words) * 9 // 10
    return float(np.isin(runs[cut:], runs[:cut - RUN + 1]).mean())


def describe_texts() -> str:
    """Why the perplexity on filler text falls to near 1, in a sentence; of plays too where they can be had."""
    from seqlib.studies.gpt2 import books  # imports transformers

    texts = {"the filler text": books.lorem()}
    with suppress(SeqlibError):
        texts["all plays"] = Path(data.locate(plays.ALL).path).read_text(encoding="utf-8")
    told = ", ".join(f"of {name} {100 * repeated(text):.1f}%" for name, text in texts.items())
    return f"Runs of {RUN} words in the last tenth of a text that stand in the first nine tenths as well: {told}."


def filler(records) -> str:
    """What filler text and overlapping windows do to the perplexity, by arm, in a sentence each."""
    told = []
    for what, own, metric in (("filler text, windows that do not overlap", fair(records, "filler"), "test_perplexity"),
                              ("plays, the same", fair(records, "long"), "test_perplexity"),
                              *((f"{text} as published, on its own validation", frame(records, protocol="published", text=text),
                                 "val_perplexity") for text in TEXTS)):
        means = own[own.label != "frozen"].groupby("label")[metric].mean() if len(own) else {}
        figures = ", ".join(f"{name} {means[name]:.2f}" for name in PROMPTED if name in means)
        told += [f"{what}: {figures}"] if figures else []
    return f"Perplexities. {'; '.join(told)}. The document has {seed_perplexities()}." if told else NOT_YET


def seed_perplexities() -> str:
    """The document's own, by arm."""
    return ", ".join(f"{arm} {value}" for arm, value in claims.load()[NAME]["claims"]["G04"]["seed"].items())


def samples(records) -> pd.DataFrame:
    """What the base and the first seed of both arms wrote behind the same prompts when they were recorded."""
    from seqlib.studies.gpt2.run import PROMPTS

    plan = get(NAME).parameters("full")
    own = [r for r in records if r.spec["stage"] == "final" and r.spec["protocol"] == "fair" and r.spec["seed"] == 0
           and r.spec["text"] == plan.text and r.spec["steps"] in (0, plan.steps) and label(r.spec) in PROMPTED]
    first = {label(r.spec): r for r in sorted(own, key=lambda r: r.spec["batch"])}  # of two sizes, the larger
    rows = [(p, name, first[name].curves["samples"][i]) for i, p in enumerate(PROMPTS) for name in PROMPTED if name in first]
    return pd.DataFrame(rows, columns=["prompt", "by", "text"]).replace("\n", " / ", regex=True)


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    own = compared(records)
    means = own.groupby("label").test_loss_nats.mean() if len(own) else {}
    figures = ", ".join(f"{name} {means[name]:.3f}" for name in COMPARED if name in means)
    told = f" Loss on text held out: {figures}." if figures else ""
    return f"Full fine-tuning over LoRA: {verdicts['G04'].verdict} as published{repaired(verdicts['G04'])}.{told}"


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    v = own_verdicts(NAME)
    return (f"**Full fine-tuning has the lower perplexity: {v['G04'].verdict} as published{repaired(v['G04'])}. LoRA saves "
            f"parameters, memory, storage and time: {v['G05'].verdict}. The trade-off favours it: {v['G06'].verdict}.** "
            f"{gain_shares(records)} {fair_pair(records)}")


def repaired(claim: claims.Verdict) -> str:
    """What a claim's repairs find."""
    return "".join(f"; {what}: {told['verdict']}" for what, told in claim.repairs.items() if told["verdict"] != "not run")


def fair_pair(records) -> str:
    """The main arms and the base on held-out text, in a sentence."""
    own = compared(records)
    if own.empty:
        return NOT_YET
    means = {name: own[own.label == name] for name in COMPARED if name in set(own.label)}
    told = "; ".join(f"{name} {interval(runs.test_loss_nats, 3)}" for name, runs in means.items())
    seen = int(own.steps.max() * own.batch.max() * own.context.max())
    forgot = "; ".join(f"{name} {interval(means[name].forgetting_nats, 3)}" for name in means if name != "frozen")
    return (f"On text held out, nats a token, after the same {seen:,} tokens: {told}. What each forgets of other text, nats: "
            f"{forgot}.")


def paired(records) -> str:
    """What each arm and rank loses against LoRA on text held out, seed by seed, and full fine-tuning against the adapters over
    that text."""
    own = compared(records)
    labels = [name for name in own.label.unique() if name not in ("lora", "frozen")] if len(own) else []
    apart = {name: summaries.more(own, "test_loss_nats", name, "lora") for name in labels}
    told = "; ".join(f"{name} {interval(apart[name], 4)}" for name in sorted(apart, key=lambda n: apart[n].mean())
                     if len(apart[name]))
    return f"Nats on text held out more than LoRA of rank {RANK}, seed by seed: {told}. {over_text(records)}" if told else ""


def over_text(records) -> str:
    """Full fine-tuning against LoRA on attention and on all linear layers, over the seeds and, of means over these, over the
    windows of the test text."""
    own, told = compared(records), []
    by = {r.key: r.curves["test_window_nats"] for r in records if r.spec["stage"] == "final"}
    for name in ("lora", "lora-all"):
        if not {"full", name} <= set(own.get("label", ())):
            continue
        seeds = summaries.more(own, "test_loss_nats", "full", name)
        full, other = (np.mean([by[key] for key in own[own.label == arm].key], 0) for arm in ("full", name))
        over = interval(full - other, 4)
        told.append(f"less {name} {interval(seeds, 4)} over the seeds, {over} over its {len(full)} windows")
    return f"Full fine-tuning on text held out, nats: {'; '.join(told)}." if told else ""


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v = own_verdicts(NAME)

    def effect(name):
        return f" ({first_effect(v[name])} in perplexity)" if v[name].ci else ""

    return "\n".join([
        f"- **Counts.** G01 is {v['G01'].verdict}: {v['G01'].reason}.",
        f"- **Perplexities.** G02 is {v['G02'].verdict}, G03 {v['G03'].verdict} ({v['G02'].reason}).",
        f"- **Order.** G04 is {v['G04'].verdict} as published{effect('G04')}{repaired(v['G04'])}. "
        f"{over_text(records)}",
        f"- **Text.** {filler(records)}",
        f"- **Savings.** G05 is {v['G05'].verdict}. {savings(records)}",
        f"- **Trade-off.** G06 is {v['G06'].verdict}{': ' + v['G06'].reason if v['G06'].reason else ''}. "
        f"{forgotten(records)}",
    ])


def forgotten(records) -> str:
    """What the trade-off leaves out."""
    own = compared(records)
    if own.empty:
        return NOT_YET
    means = own[own.label.isin(("full", "lora"))].groupby("label")[["gain_nats", "forgetting_nats"]].mean()
    told = "; ".join(f"{arm} gains {gain:.3f} and forgets {lost:.3f}" for arm, gain, lost in means.itertuples())
    return (f"It does not weigh what is forgotten of other text. In nats: {told}. {gain_shares(records)} G06 asks "
            "for 90% at the small batch.")


def gain_shares(records) -> str:
    """LoRA's gain as a share of that of full fine-tuning, by the size of the batch, in a sentence."""
    told = []
    for own in (fair(records, "small"), fair(records, "main")):
        gains = summaries.by_seed(own, "gain_nats", "lora", "full")
        if len(gains):
            told.append(f"{interval(100 * gains.lora / gains.full)} percent at batches of {own.batch.max()} windows")
    return f"Of the gain of full fine-tuning LoRA has {', '.join(told)}." if told else NOT_YET


def savings(records) -> str:
    """What LoRA saves against full fine-tuning, by the same runs."""
    own = compared(records)
    if own.empty:
        return NOT_YET
    figures = ["trainable", "peak_memory_mb", "saved_bytes", "step_cpu_seconds"]
    both = own[own.label.isin(("full", "lora"))].groupby("label")[figures].median()
    share = both.loc["lora"] / both.loc["full"]
    return (f"LoRA has {share.trainable:.2%} of the trainable parameters, {share.saved_bytes:.2%} of the saved bytes, "
            f"{share.peak_memory_mb:.0%} of the peak memory and {share.step_cpu_seconds:.0%} of a step's processor time, at "
            f"batches of {own.batch.max()} windows.")
