"""What the attention search's page says, computed from records: tables and sentences with numbers."""

import functools

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from seqlib import claims, show
from seqlib.studies.attention_search import texts
from seqlib.studies.attention_search.arms import (
    FACTORS,
    FAIR,
    MATCHED,
    ONE_KEY,
    PUBLISHED,
    RANKS,
    THIRTEEN,
    attention_of,
    outline,
    size,
    widths_of,
)
from seqlib.studies.attention_search.factors import by_rate, effects
from seqlib.study import get
from seqlib.summaries import NOT_YET, first_effect, interval, own_verdicts, span

NAME = "attention_search"
DOCUMENT = claims.load()[NAME]["claims"]["X02"]["seed"]
REPAIRED = "documents held out, the same seed and batches"
BYTES = 4  # of a number in single precision


def large(records, protocol: str) -> pd.DataFrame:
    """Records at the published size under one protocol."""
    return claims.frame(r for r in records if r.spec["vocabulary"] == PUBLISHED.V and r.spec["protocol"] == protocol)


def small(records, arms=THIRTEEN, protocol: str = "repaired") -> pd.DataFrame:
    """Records of some arms at the small size."""
    return claims.frame(r for r in records if r.spec["vocabulary"] < PUBLISHED.V and r.spec["arm"] in arms
                        and r.spec["protocol"] == protocol)


def configurations() -> pd.DataFrame:
    """The thirteen at the published size: widths, parameters, what decoding keeps a token."""
    rows = []
    for arm in THIRTEEN:
        at, count = attention_of(arm, PUBLISHED), get(NAME).arms[arm]()["total"]
        rows.append({"arm": arm, "ranks: query, latent": "" if at is None else f"{at.q_rank or 'full'}, {at.kv_rank}",
                     "rotary, value": "64, 64" if at is None else f"{at.rope}, {at.v}", "bias": "yes" if at and at.bias else "",
                     "positions / by": at.factor if at and at.factor > 1 else "", "parameters": f"{count:,}",
                     "KB a token": cached(arm) * BYTES / 1024})
    return pd.DataFrame(rows)


@functools.cache
def cached(arm: str) -> int:
    """Numbers that decoding keeps a token at the published size, all layers."""
    return outline(attention_of(arm, PUBLISHED), PUBLISHED, widths_of(arm, PUBLISHED)).cached_per_token


def factorial() -> pd.DataFrame:
    """The fair search's arms at the small size."""
    shape, rows = get(NAME).parameters("full").small_shape, []
    for arm in FAIR:
        at, widths = attention_of(arm, shape), widths_of(arm, shape)
        rows.append({"arm": arm, "query rank": at.q_rank or "full", "latent rank": at.kv_rank or "full", "own key": at.nope,
                     "rotary": at.rope, "positions / by": at.factor, "bias": "yes" if at.bias else "",
                     "expert width": "\N{EN DASH}".join(map(str, sorted(set(widths)))),
                     "parameters": f"{size(at, shape, widths):,}"})
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
        rows.append({"arm": arm, "runs": len(own), "peak memory, MB [95% CI]": interval(own.step_peak_mb, 0),
                     "s / step": own.step_seconds.median(), "cache, KB a token": cached(arm) * BYTES / 1024})
    show.table(pd.DataFrame(rows), "Time and peak resident memory of a training step, and what decoding keeps")


def seed_agreement(frame: pd.DataFrame, metric: str = "val_loss_nats") -> float:
    """Mean Kendall's tau between the orders of two seeds, over all pairs of seeds."""
    wide = frame.pivot(index="arm", columns="seed", values=metric).dropna(axis=1)
    return float(wide.corr("kendall").to_numpy()[np.triu_indices(wide.shape[1], 1)].mean())


def luck(frame: pd.DataFrame) -> dict[str, float]:
    """Of a ranking: spread of the arms' means, what is left of an arm's loss from seed to seed when the mean of all arms is
    taken out, and Kendall's tau between the orders of two seeds. Empty for a single seed."""
    if frame.empty or frame.seed.nunique() < 2:
        return {}
    means, shift = frame.groupby("arm").val_loss_nats.mean(), frame.groupby("seed").val_loss_nats.transform("mean")
    return {"spread of the arms": means.std(ddof=0),
            "from seed to seed": (frame.val_loss_nats - shift).groupby(frame.arm).std().mean(),
            "tau of two seeds": seed_agreement(frame)}


def show_luck(frames: dict[str, pd.DataFrame], title: str) -> None:
    """How much of a ranking is luck, a row a protocol."""
    rows = [{"protocol": label, "seeds": frame.seed.nunique(), **own,
             "tau with the document": with_document(frame.groupby("arm").val_loss_nats.mean()),
             "trained on": f"{frame.train_windows_overlap.mean():.1%}"}
            for label, frame in frames.items() if (own := luck(frame))]
    show.table(pd.DataFrame(rows), title) if rows else show.say(NOT_YET)


def large_protocols(records) -> dict[str, pd.DataFrame]:
    """The thirteen at the published size, as published and repaired, as far as there are runs."""
    frames = {"as published": large(records, "published"), REPAIRED: large(records, "repaired")}
    return {label: frame for label, frame in frames.items() if len(frame)}


def luck_and_leakage(records) -> str:
    """How much of the published ranking is luck, and what holding out documents changes, in words."""
    told = []
    for size_, frames in (("published", large_protocols(records)), ("small", short(records))):
        found = {label: own for label, frame in frames.items() if (own := luck(frame))}
        if not found:
            continue
        form = ("{}, {} seeds: {:.4f} between the arms' means, {:.4f} from seed to seed, two seeds' orders agree with a tau of "
                "{:+.2f}")
        said = "; ".join(form.format(label, frames[label].seed.nunique(), *own.values()) for label, own in found.items())
        first, last = (frames[label].groupby("arm").val_loss_nats.mean() for label in (list(found)[0], list(found)[-1]))
        both = "" if len(found) < 2 else (f"; the mean orders of the first and the last agree with a tau of "
                                          f"{kendalltau(first, last).statistic:+.2f}")
        told.append(f"At the {size_} size, in nats: {said}{both}.")
    return " ".join(told) or NOT_YET


def with_document(means: pd.Series) -> float:
    """Kendall's tau between the document's order and that of our means."""
    return float(kendalltau([DOCUMENT[arm] for arm in means.index], means).statistic)


def short(records) -> dict[str, pd.DataFrame]:
    """The thirteen at the small size after the published number of steps, under every protocol."""
    steps = get(NAME).parameters("full").steps
    long = small(records)
    if not long.empty:
        long = long.assign(val_loss_nats=long[f"val_loss_nats_step{steps}"])
    return {"as published": small(records, protocol="published"),
            "the same weights' seed and batches for all arms": small(records, protocol="shared"), REPAIRED: long}


def rates(records) -> str:
    """The learning-rate check in words."""
    frame = small(records, FAIR)
    if frame.empty:
        return NOT_YET
    tried, main = sorted(frame.lr.unique()), main_rate()
    if len(tried) < 2:
        return f"All runs below have a learning rate of {tried[0]:g}; other rates have not been tried yet."
    table = by_rate(frame)
    chosen, common = table.idxmin(axis=1), table.mean().idxmin()
    n = int(frame.groupby("lr").seed.nunique().min())
    edge, elsewhere = chosen.isin([tried[0], tried[-1]]).sum(), (chosen != main).sum()
    told = (f"Learning rates {', '.join(f'{rate:g}' for rate in tried)}, {n} seed{'s' * (n > 1)}: the lowest validation loss "
            "is at " + ", ".join(f"{rate:g} for {k} of {len(chosen)} arms" for rate, k in chosen.value_counts().items())
            + (f"; for {edge} that is the end of what was tried, so a better one may lie beyond" if edge else "")
            + f". The mean over all arms is lowest at {common:g}.")
    if main not in table:
        return told
    told += f" Effects below are at {main:g} for all arms" if main == common else (
        f" **Effects below are at {main:g}, not the best rate over all arms**")
    gain = (table[main] - table.min(axis=1))[chosen != main].mean()
    return told + (f"; {elsewhere} arms alone would choose another, which takes {gain:.3f} nats off their loss in the mean, on "
                   "the seeds that chose it." if elsewhere else ".")


def fair_rates() -> list[float]:
    """The learning rates that the fair search has all seeds at."""
    return get(NAME).parameters("full").fair_lr


def main_rate() -> float:
    """The learning rate at which the fair search is reported."""
    return fair_rates()[0]


def fair(records, lr: float | None = None) -> pd.DataFrame:
    """The fair search's runs at one learning rate, the one to report if none is named."""
    frame = small(records, FAIR)
    return frame if frame.empty else frame[frame.lr == (lr or main_rate())]


def fair_effects(records, metric: str = "val_loss_nats", lr: float | None = None) -> pd.DataFrame:
    return effects(fair(records, lr), metric)


def show_effects_by_rate(records) -> None:
    """The main effects at every one of `fair_rates`."""
    columns = {"factor": list(FACTORS.values())}
    for lr in fair_rates():
        if not fair(records, lr).empty:
            told = fair_effects(records, lr=lr).set_index("effect").loc[list(FACTORS)]
            columns[f"at {lr:g} [95% CI]"] = [span(*row) for row in told[["mean", "low", "high"]].itertuples(index=False)]
    if len(columns) > 2:
        show.table(pd.DataFrame(columns), "Main effects on the validation loss, nats, by learning rate")


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    x03, x10 = verdicts["X03"], verdicts["X10"]
    told = f"RoPE scaling as the winning change: {x03.verdict}. Fifty steps tell which mechanism to use: {x10.verdict}"
    if fair(records).empty:
        return told + "."
    return f"{told}. {main_effects(records)}"


def main_effects(records, rates: list[float] | None = None) -> str:
    """The main effects that differ from zero after Holm, largest first, a sentence a learning rate."""
    told = []
    for lr in rates or [main_rate()]:
        if fair(records, lr).empty:
            continue
        table = fair_effects(records, lr=lr)
        table = table[table.effect.isin(FACTORS)]
        clear = table[table.p_holm < 0.05].sort_values("mean", key=abs, ascending=False)
        none = [FACTORS[e] for e in table.effect if e not in set(clear.effect)]
        found = "; ".join(f"{FACTORS[effect]} {span(mean, low, high)}"
                          for effect, mean, low, high in clear[["effect", "mean", "low", "high"]].itertuples(index=False))
        start = "At" if told else f"In one block at equal parameters, over {table.seeds.min()} paired seeds, in nats, at"
        told.append(f"{start} a learning rate of {lr:g}: {found or 'no clear effect'}"
                    + (f"; no clear effect of {', '.join(none)}." if none and found else "."))
    return " ".join(told)


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    rows = own_verdicts(NAME)
    search = "" if fair(records).empty else f" **The fair search:** {main_effects(records, fair_rates())}"
    return (f"**The published top five: {rows['X02'].verdict}. RoPE scaling as the winning change: {rows['X03'].verdict}. "
            f"Fifty steps tell which mechanism to use: {rows['X10'].verdict}.**{search}")


def matched(records) -> str:
    """X09's experiment: what matching parameters does to the order of the twelve latent configurations."""
    as_is, alike = small(records), small(records, MATCHED)
    if as_is.empty or alike.empty:
        return NOT_YET
    metric = f"val_loss_nats_step{alike.steps.iloc[0]}"
    wide = [f.assign(arm=f.arm.str.removesuffix("-matched")).pivot(index="seed", columns="arm", values=metric)
            for f in (as_is[as_is.arm != "baseline"], alike)]
    before, after = (w.loc[wide[0].index.intersection(wide[1].index), sorted(wide[1])] for w in wide)
    tau = [kendalltau(a, b).statistic for a, b in zip(before.to_numpy(), after.to_numpy())]
    change = (after - before).mean().sort_values()
    return ("With parameters matched through the experts' width the order of the twelve agrees with that of the published "
            f"widths with a Kendall's tau of {interval(pd.Series(tau), 2)} over {len(tau)} seeds; matching moves "
            f"{change.index[0]} by {change.iloc[0]:+.4f} and {change.index[-1]} by {change.iloc[-1]:+.4f} nats.")


def describe_archive(records) -> str:
    """Which text and tokenizers the archived runs had."""
    used = sorted({(r.provenance["data"], r.provenance["tokenizer"]) for r in records})
    text = "; ".join(f"{name}, tokens of {tokenizer}" for name, tokenizer in used)
    stand_in = any(name != texts.TEXTS[0] for name, _ in used)
    note = " The document's text is cosmopedia-v2: its orders compare, its losses do not." if stand_in else ""
    return f"Archived runs: {text}.{note}"


def describe_data(name: str, V: int) -> str:
    text = texts.load(name, V)
    note = "" if name == texts.TEXTS[0] else (
        " **This is the stand-in for cosmopedia-v2: all of Shakespeare's plays.** Orders can be compared with the document's, "
        "losses cannot.")
    return (f"{name}: {len(text.bounds) - 1} documents, {len(text.tokens):,} tokens of {text.tokenizer} (sha256 of the tokens "
            f"`{text.sha256[:16]}…`).{note}")


def meaning(records) -> str:
    """The reading of the verdicts, with the effects they rest on."""
    v, kept = own_verdicts(NAME), {arm: cached(arm) * BYTES / 1024 for arm in THIRTEEN}
    latent = [kb for arm, kb in kept.items() if arm != "baseline"]
    x10 = f" ({next(iter(v['X10'].ours))}: {first_effect(v['X10'])})" if v["X10"].ci else ""
    return "\n".join([
        f"- **Size.** X01 is {v['X01'].verdict}: parameters span {min(v['X01'].ours.values()):,} to "
        f"{max(v['X01'].ours.values()):,}, so the size is not fixed. X09 is {v['X09'].verdict}. {matched(records)}",
        f"- **Ranking.** X02 is {v['X02'].verdict}, X03 {v['X03'].verdict}, X04 {v['X04'].verdict}, X05 {v['X05'].verdict}, "
        f"X06 {v['X06'].verdict}.",
        f"- **Luck and leakage.** {luck_and_leakage(records)}",
        f"- **Fifty steps.** X10 is {v['X10'].verdict}{x10}.",
        f"- **Memory.** X08 is {v['X08'].verdict}. While decoding the latent configurations keep {min(latent):.0f} to "
        f"{max(latent):.0f} KB a token, the baseline {kept['baseline']:.0f}: that is what the latents are for, and training "
        "does not show it.",
    ])


def show_ranks(records) -> None:
    """Latent rank against loss, all else full."""
    frame = fair(records)
    if frame.empty:
        return
    wide, rows = frame.pivot(index="seed", columns="arm", values="val_loss_nats"), []
    for arm in (arm for arm in ("fair", ONE_KEY, *RANKS) if arm in wide):
        rows.append({"arm": arm, "latent rank / channels": str(RANKS.get(arm, "full")),
                     "own key": "no" if arm == ONE_KEY else "yes", "seeds": wide[arm].count(), "loss, nats": wide[arm].mean(),
                     "minus fair, paired [95% CI]": "" if arm == "fair" or "fair" not in wide else
                     interval((wide[arm] - wide["fair"]).dropna(), 4),
                     "numbers kept a token": frame[frame.arm == arm].cached_numbers_per_token.iloc[0]})
    show.table(pd.DataFrame(rows), "Rank of the latent, and one key for all heads; all else as in fair", digits=4)
