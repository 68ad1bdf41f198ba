"""What the attention search's page says, computed from records: tables and sentences with numbers."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from seqlib import claims, show
from seqlib.studies.attention_search import texts
from seqlib.studies.attention_search.arms import FACTORS, FAIR, PUBLISHED, RANKS, THIRTEEN, attention_of, build, matched_widths
from seqlib.studies.attention_search.factors import at_best_rate, best_rates, effects
from seqlib.study import get
from seqlib.summaries import interval, own_verdicts

NAME = "attention_search"
DOCUMENT = claims.load()[NAME]["claims"]["X02"]["seed"]
NOT_YET = "The archive has no runs of this yet."
BYTES = 4  # of a number in single precision


def large(records, protocol: str) -> pd.DataFrame:
    """Records at the published size under one protocol."""
    return _frame(r for r in records if r.spec["vocabulary"] == PUBLISHED.V and r.spec["protocol"] == protocol)


def small(records, arms=THIRTEEN, protocol: str = "repaired") -> pd.DataFrame:
    """Records of some arms at the small size."""
    return _frame(r for r in records if r.spec["vocabulary"] < PUBLISHED.V and r.spec["arm"] in arms
                  and r.spec["protocol"] == protocol)


def after(frame: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The same runs with the validation loss that they had after `steps`."""
    return frame if frame.empty else frame.assign(val_loss_nats=frame[f"val_loss_nats_step{steps}"])


def _frame(records) -> pd.DataFrame:
    return claims.frame(list(records))


def configurations() -> pd.DataFrame:
    """The thirteen at the published size: widths, parameters, what decoding keeps a token."""
    rows = []
    for arm in THIRTEEN:
        at, count = attention_of(arm, PUBLISHED), get(NAME).arms[arm]()["total"]
        rows.append({"arm": arm, "query rank": "" if at is None else at.q_rank or "full",
                     "latent rank": "" if at is None else at.kv_rank, "rotary": 64 if at is None else at.rope,
                     "value": 64 if at is None else at.v, "bias": "yes" if at and at.bias else "",
                     "positions / by": at.factor if at and at.factor > 1 else "", "parameters": f"{count:,}",
                     "cache, KB a token": cached(arm) * BYTES / 1024})
    return pd.DataFrame(rows)


def cached(arm: str) -> int:
    """Numbers that decoding keeps a token at the published size, all layers."""
    at = attention_of(arm, PUBLISHED)
    return PUBLISHED.L * (2 * PUBLISHED.D if at is None else at.kv_rank + at.rope)


def factorial() -> pd.DataFrame:
    """The fair search's arms at the small size."""
    shape, rows = get(NAME).parameters("full").small_shape, []
    for arm in FAIR:
        at, widths = attention_of(arm, shape), matched_widths(arm, shape)
        rows.append({"arm": arm, "query rank": at.q_rank or "full", "latent rank": at.kv_rank or "full", "own key": at.nope,
                     "rotary": at.rope, "positions / by": at.factor, "bias": "yes" if at.bias else "",
                     "expert width": "\N{EN DASH}".join(map(str, sorted(set(widths)))),
                     "parameters": f"{sum(p.numel() for p in build(arm, shape).parameters()):,}"})
    return pd.DataFrame(rows)


def results(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, lowest validation loss first."""
    rows = []
    for arm, own in sorted(frame.groupby("arm"), key=lambda item: item[1].val_loss_nats.mean()):
        rows.append({"arm": arm, "seeds": len(own), "loss, nats [95% CI]": interval(own.val_loss_nats, 4),
                     "accuracy": own.val_accuracy.mean(), "ms / step": 1e3 * own.step_seconds.median(),
                     "tokens / s": own.tokens_per_second.median()})
    return pd.DataFrame(rows)


def show_results(frame: pd.DataFrame, title: str) -> None:
    show.table(results(frame), title, digits=4) if len(frame) else show.say(NOT_YET)


def show_cost(records) -> None:
    """Time and memory of a step at the published size, both protocols together."""
    frame, rows = pd.concat([large(records, p) for p in texts.PROTOCOLS]), []
    if frame.empty:
        return
    for arm, own in sorted(frame.groupby("arm"), key=lambda item: item[1].step_peak_mb.mean()):
        rows.append({"arm": arm, "runs": len(own), "peak memory, MB": own.step_peak_mb.mean(),
                     "s / step": own.step_seconds.median(), "cache, KB a token": cached(arm) * BYTES / 1024})
    show.table(pd.DataFrame(rows), "Time and peak resident memory of a training step, and what decoding keeps")


def seed_agreement(frame: pd.DataFrame, metric: str = "val_loss_nats") -> float:
    """Mean Kendall's tau between the orders of two seeds, over all pairs of seeds."""
    wide = frame.pivot(index="arm", columns="seed", values=metric).dropna(axis=1)
    return float(np.mean([kendalltau(wide[a], wide[b]).statistic for a, b in combinations(wide, 2)]))


def with_document(frame: pd.DataFrame) -> float:
    """Kendall's tau between the document's order and that of our means."""
    means = frame.groupby("arm").val_loss_nats.mean()
    return float(kendalltau([DOCUMENT[a] for a in means.index], means).statistic)


def luck(published: pd.DataFrame, repaired: pd.DataFrame) -> str:
    """How much of the ranking is luck: agreement of its order between seeds, with the document, and between protocols."""
    if published.empty or repaired.empty or min(published.seed.nunique(), repaired.seed.nunique()) < 2:
        return NOT_YET
    orders = [f.groupby("arm").val_loss_nats.mean() for f in (published, repaired)]
    spread = [f.groupby("seed").val_loss_nats.std().mean() for f in (published, repaired)]
    noise = [f.groupby("arm").val_loss_nats.std().mean() for f in (published, repaired)]
    both = kendalltau(*(order.sort_index() for order in orders)).statistic
    return ("As published, two seeds agree on the order of the thirteen with a Kendall's tau of "
            f"{seed_agreement(published):+.2f}, with the same batches for every arm {seed_agreement(repaired):+.2f} (1 is the "
            f"same order, 0 nothing in common); our means agree with the document's order {with_document(published):+.2f} and "
            f"{with_document(repaired):+.2f}, and with each other {both:+.2f}. The spread over arms within a seed is "
            f"{spread[0]:.4f} nats as published and {spread[1]:.4f} repaired; that over seeds within an arm {noise[0]:.4f} and "
            f"{noise[1]:.4f}. Of the tokens of a published validation window {published.train_windows_overlap.mean():.0%} were "
            f"trained on.")


def rates(records) -> str:
    """The learning-rate check in words."""
    frame = small(records, FAIR)
    if frame.empty:
        return NOT_YET
    chosen = best_rates(frame)
    counts = chosen.value_counts()
    return "Best learning rate by mean validation loss: " + ", ".join(
        f"{rate:g} for {n} of {len(chosen)} arms" for rate, n in counts.items()) + "."


def fair_effects(records, metric: str = "val_loss_nats") -> pd.DataFrame:
    return effects(at_best_rate(small(records, FAIR), metric), metric)


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    x03, x10 = verdicts["X03"], verdicts["X10"]
    told = f"RoPE scaling as the winning change: {x03.verdict}. Fifty steps tell which mechanism to use: {x10.verdict}"
    if small(records, FAIR).empty:
        return told + "."
    return f"{told}. {main_effects(records)}"


def main_effects(records) -> str:
    """The main effects that differ from zero after Holm, largest first, in a sentence."""
    table = fair_effects(records)
    table = table[table.effect.isin(FACTORS)]
    clear = table[table.p_holm < 0.05].sort_values("mean", key=abs, ascending=False)
    none = [FACTORS[e] for e in table.effect if e not in set(clear.effect)]
    told = "; ".join(f"{FACTORS[effect]} {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
                     for effect, mean, low, high in clear[["effect", "mean", "low", "high"]].itertuples(index=False))
    sentence = f"In one block at equal parameters, over {table.seeds.min()} paired seeds, in nats: {told or 'no clear effect'}"
    return sentence + (f"; no clear effect of {', '.join(none)}." if none and told else ".")


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    rows = own_verdicts(NAME)
    fair = "" if small(records, FAIR).empty else f" **The fair search:** {main_effects(records)}"
    return (f"**RoPE scaling as the winning change: {rows['X03'].verdict}. rope_small lowest: {rows['X02'].verdict}. Fifty "
            f"steps tell which mechanism to use: {rows['X10'].verdict}.**{fair}")


def describe_data(name: str, V: int) -> str:
    text = texts.load(name, V)
    note = "" if name == texts.TEXTS[0] else (
        " **This is the stand-in for cosmopedia-v2: all of Shakespeare's plays.** Orders can be compared with the document's, "
        "losses cannot.")
    return (f"{name}: {len(text.bounds) - 1} documents, {len(text.tokens):,} tokens of {text.tokenizer} (sha256 of the tokens "
            f"`{text.sha256[:16]}…`).{note}")


def describe_live(records, trained) -> str:
    machine, seconds = records[0].provenance["machine"], sum(r.metrics["seconds"] for r in records)
    new = len({r.key for r in trained} & {r.key for r in records})
    return (f"{len(records)} runs of {records[0].spec['steps']} steps at the small size, {new} of them trained now: "
            f"{seconds:.0f} s of training on {machine['cpu']}, {machine['cores']} cores.")


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v, kept = own_verdicts(NAME), {arm: cached(arm) * BYTES / 1024 for arm in ("baseline", "lora_small", "enhanced_xl")}
    return "\n".join([f"- **Size.** X01 is {v['X01'].verdict}: parameters span {min(v['X01'].ours.values()):,} to "
             f"{max(v['X01'].ours.values()):,}, so the size is not fixed. X09 is {v['X09'].verdict}{_effect(v['X09'])}.",
             f"- **Ranking.** X02 is {v['X02'].verdict}, X03 {v['X03'].verdict}, X04 {v['X04'].verdict}, X05 "
             f"{v['X05'].verdict}, X06 {v['X06'].verdict}.",
             f"- **Fifty steps.** X10 is {v['X10'].verdict}{_effect(v['X10'])}.",
             f"- **Memory.** X08 is {v['X08'].verdict}. While decoding the latent configurations keep {kept['lora_small']:.0f} "
             f"to {kept['enhanced_xl']:.0f} KB a token, the baseline {kept['baseline']:.0f}: that is what the latents are for, "
             "and training does not show it."])


def _effect(row: claims.Verdict) -> str:
    if not row.ci:
        return ""
    name, effect = next(iter(row.ours.items()))
    low, high = row.ci[name]
    return f" ({name}: {effect:+.4f} [{low:+.4f}, {high:+.4f}])"


def show_ranks(records) -> None:
    """Latent rank against loss, all else full."""
    frame = small(records, (*RANKS, "fair"))
    if frame.empty:
        return
    rows = [{"latent rank / channels": str(RANKS.get(arm, "full")), "arm": arm, "seeds": len(own),
             "loss, nats [95% CI]": interval(own.val_loss_nats, 4),
             "numbers kept a token": own.cached_numbers_per_token.iloc[0]}
            for arm, own in at_best_rate(frame).groupby("arm")]
    show.table(pd.DataFrame(rows), "Rank of the latent, all else full")
