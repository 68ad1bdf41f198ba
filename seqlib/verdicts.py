"""The rules that turn figures of an archive into a verdict: `parameters` (counts), `values` (figures of one run) and `order`
(pairs of arms) with its repairs; book/methods.md says what each decides and why."""

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from seqlib import stats, study

VERDICTS = ("reproduced", "same direction", "equivalent", "contradicted", "inconclusive", "confounded",
            "not comparable", "not run")


@dataclass
class Verdict:
    """One row of the ledger. `ours` and `ci` have one entry an arm or pair, `one_run` the interval that a figure of one run
    is held against; `p_holm` is `p` adjusted within the study."""

    id: str
    study: str
    kind: str
    says: str
    verdict: str = "not run"
    seeds: int = 0
    seed_value: Any = None
    ours: dict = field(default_factory=dict)
    ci: dict = field(default_factory=dict)
    one_run: dict = field(default_factory=dict)
    p: float | None = None
    p_holm: float | None = None
    probability: float | None = None
    reason: str = ""
    repairs: dict = field(default_factory=dict)
    changes: str = ""
    older_code: int = 0


@dataclass
class Comparison:
    """Paired differences of one claim (or of one repair of it), before and after Holm."""

    name: str
    seeds: int
    effects: dict
    ci: dict
    seed_value: dict
    p: float
    claimed_direction: bool
    equivalent: bool
    probability: float
    ratios: pd.DataFrame  # log of the pair's ratio, a column a pair, a row a seed
    matches_size: bool | None = None
    p_holm: float = 1.0

    def verdict(self) -> str:
        if self.seeds < stats.MINIMUM:
            return "inconclusive"
        if self.equivalent:
            return "equivalent"
        if self.p_holm >= 0.05:
            return "inconclusive"
        if not self.claimed_direction:
            return "contradicted"
        return "same direction" if self.matches_size is False else "reproduced"


def names_of(groups) -> list[str]:
    """Every name of some pairs, once."""
    return list(dict.fromkeys(name for group in groups for name in group))


def holds(pair: pd.DataFrame) -> bool:
    """Whether the first of two columns is below the second, p < 0.05 (sign flip)."""
    differences = (pair.iloc[:, 0] - pair.iloc[:, 1]).to_numpy()
    return len(pair) >= stats.MINIMUM and differences.mean() < 0 and stats.sign_flip_p(differences) < 0.05


def parameters(row: Verdict, test: dict) -> None:
    """Exact: the trainable counts of freshly built models, or all counts of one `arm`, or whether these lie `between` two
    figures; or, with `within`, whether all arms have the same up to this share."""
    arms, within = study.get(row.study).arms, test.get("within")
    if "arm" in test:
        row.ours = arms[test["arm"]]()
        row.ours["percent"] = round(100 * row.ours["trainable"] / row.ours["total"], 4)
    else:
        row.ours = {arm: arms[arm]()["trainable"] for arm in row.seed_value}
    row.ci = {arm: [n, n] for arm, n in row.ours.items()}
    if "between" in test:
        outside = [name for name, (low, high) in test["between"].items() if not low <= row.ours[name] <= high]
        row.verdict = "contradicted" if outside else "reproduced"
        row.reason = "; ".join(f"{name} is {row.ours[name]:,}, claimed {low:,} to {high:,}"
                               for name, (low, high) in test["between"].items())
        return
    if within is not None:
        spread = max(row.ours.values()) / min(row.ours.values()) - 1
        row.verdict = "reproduced" if spread <= within else "contradicted"
        row.reason = f"the largest has {spread:.1%} more parameters than the smallest"
        return
    wrong = [name for name in row.ours if row.ours[name] != row.seed_value[name]]
    row.verdict = "contradicted" if wrong else "reproduced"
    row.reason = f"differs for {', '.join(wrong)}" if wrong else "all counts agree to the unit"


def values(row: Verdict, wide: pd.DataFrame, ranks: list | None) -> None:
    """A figure of one run is reproduced when it could be one of ours: it lies in the 95% prediction interval for one
    further run (simultaneous over the claim's arms). The interval of the mean is reported beside it.
    Figures outside count as `same direction` where they rank as ours do; `ranks` are the pairs that count (default: all)."""
    wide = wide.dropna()
    row.seeds = len(wide)
    row.ours = {arm: float(wide[arm].mean()) for arm in wide}
    row.ci = {arm: list(stats.bca_interval(wide[arm])) for arm in wide}
    row.one_run = {arm: list(stats.run_interval(wide[arm], 1 - 0.05 / wide.shape[1])) for arm in wide}
    if row.seed_value is None:
        row.verdict, row.reason = "not comparable", "the document left its figures empty"
        return
    outside = [arm for arm, (low, high) in row.one_run.items() if not low <= row.seed_value[arm] <= high]
    pairs = [(a, b) for a, b in (permutations(wide, 2) if ranks is None else ranks) if row.seed_value[a] < row.seed_value[b]]
    reversed_ = [f"{a} and {b}" for a, b in pairs if wide[a].mean() > wide[b].mean()
                 and stats.sign_flip_p(wide[a] - wide[b]) * len(pairs) < 0.05]
    if row.seeds < stats.MINIMUM:
        row.verdict, row.reason = "inconclusive", f"fewer than {stats.MINIMUM} seeds"
    elif not outside:
        row.verdict, row.reason = "reproduced", "each figure lies within the range of single runs"
    else:
        row.verdict = "same direction" if pairs and not reversed_ else "contradicted"
        row.reason = f"outside the range of single runs: {', '.join(outside)}"
        row.reason += f"; ranked the other way: {', '.join(reversed_)}" if reversed_ else ""


def order(name: str, row: Verdict, test: dict, pairs: list, wide: pd.DataFrame) -> Comparison:
    """All pairs must hold, so the claim's p is the largest; one reversed pair refutes it, at Bonferroni over pairs."""
    wide = wide[names_of(pairs)].dropna()
    differences = {f"{a} - {b}": (wide[a] - wide[b]).to_numpy() for a, b in pairs}
    p = {k: stats.sign_flip_p(d) for k, d in differences.items()}
    reversed_ = [k for k, d in differences.items() if d.mean() >= 0]
    margins = {f"{a} - {b}": test["margin"] * wide[b].mean() for a, b in pairs}
    figures = row.seed_value or {}
    said = {f"{a} - {b}": figures[a] - figures[b] for a, b in pairs if a in figures and b in figures}
    ci = {k: list(stats.bca_interval(d)) for k, d in differences.items()}
    return Comparison(
        name, len(wide), {k: float(d.mean()) for k, d in differences.items()}, ci, said,
        min(1.0, min(p[k] for k in reversed_) * len(pairs)) if reversed_ else max(p.values()), not reversed_,
        max(stats.tost_p(d, margins[k]) for k, d in differences.items()) < 0.05,
        min(stats.improvement_probability(wide[a], wide[b]) for a, b in pairs),
        pd.DataFrame({i: np.log((wide[a] / wide[b]).where(lambda r: r > 0)) for i, (a, b) in enumerate(pairs)}),
        all(ci[k][0] <= said[k] <= ci[k][1] for k in said) if row.kind == "gap" and said else None)


def weakens(published: Comparison, repair: Comparison) -> bool:
    """Whether a repair takes away what was published: it refutes it, makes the arms equivalent, or shrinks some pair's
    ratio, seed by seed, with p < 0.05 (sign flip, Bonferroni over pairs). Mere loss of significance is not enough."""
    if repair.verdict() in ("contradicted", "equivalent"):
        return True
    if published.ratios.shape[1] != repair.ratios.shape[1]:  # another set of pairs: nothing to set against each other
        return False
    change = (published.ratios - repair.ratios).dropna()
    return any(d.mean() < 0 and stats.sign_flip_p(d) * change.shape[1] < 0.05 for _, d in change.items())


def conclude(row: Verdict, comparisons: list[Comparison]) -> None:
    """The published comparison decides; where it holds and a repair takes it away, the claim is confounded."""
    first, *repairs = comparisons
    row.verdict, row.seeds, row.ours, row.ci = first.verdict(), first.seeds, first.effects, first.ci
    row.p, row.p_holm, row.probability = first.p, first.p_holm, first.probability
    row.seed_value = first.seed_value or row.seed_value
    row.repairs |= {c.name: {"verdict": c.verdict(), "ours": c.effects, "ci": c.ci, "p_holm": c.p_holm} for c in repairs}
    holds = ("reproduced", "same direction")
    failing = [c for c in repairs if c.verdict() not in holds]
    few = first.seeds < stats.MINIMUM
    row.reason = "; ".join(f"with {name}: {repair['verdict']}" for name, repair in row.repairs.items()
                           if few or row.verdict not in holds or repair["verdict"] not in holds)
    if few:
        row.reason = "; ".join(filter(None, (f"{first.seeds} seeds decide nothing", row.reason)))
    if row.verdict in holds and any(weakens(first, c) for c in failing):
        compared = "first compared" if row.kind == "pending" else "published"  # the document left a pending claim empty
        row.verdict, row.reason = "confounded", f"holds as {compared}; {row.reason}"
