"""The rules that turn figures of an archive into a verdict: `parameters` (counts), `values`
(figures of one run) and `order` (pairs) with its repairs; book/methods.md says why they are so."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import pandas as pd

from seqlib import stats, study

VERDICTS = ("reproduced", "same direction", "direction holds on a stand-in", "equivalent",
            "contradicted", "direction fails on a stand-in", "inconclusive", "confounded",
            "not comparable", "not run")
HOLDS = ("reproduced", "same direction")
ON_A_STAND_IN = {"reproduced": "direction holds on a stand-in",
                 "same direction": "direction holds on a stand-in",
                 "contradicted": "direction fails on a stand-in"}


@dataclass
class Verdict:
    """One row of the ledger. `ours` and `ci` have an entry for each arm or pair, `one_run` the
    interval that a figure of one run is held against; `p_holm` is `p` adjusted within the study,
    over the claims declared before the records or over the `post_hoc` ones; `detectable` is the
    smallest difference of a pair that its runs would have shown in four cases of five, `stand_ins`
    what they have in place of settings that the claim needs; `populations` and `tipping` are from
    `seqlib.reach`."""

    id: str
    study: str
    kind: str
    says: str
    verdict: str = "not run"
    seeds: int = 0
    seed_value: dict | None = None
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
    source: str = ""
    quote: str | None = None
    post_hoc: bool = False
    detectable: dict = field(default_factory=dict)
    populations: dict = field(default_factory=dict)
    tipping: dict = field(default_factory=dict)
    stand_ins: list = field(default_factory=list)


@dataclass(kw_only=True)
class Comparison:
    """Paired differences of one claim (or of one repair of it), before and after Holm."""

    seeds: int
    effects: dict
    ci: dict
    figures: dict  # the document's differences
    p: float
    claimed_direction: bool
    equivalent: bool
    probability: float
    ratios: pd.DataFrame  # log of the pair's ratio, a column a pair, a row a seed
    matches_size: bool
    sizes: dict  # relative differences, ours and the document's
    detectable: dict
    enough: bool  # seeds for a test
    p_holm: float = 1.0

    def verdict(self) -> str:
        if not self.enough:
            return "inconclusive"
        if self.equivalent:
            return "equivalent"
        if self.p_holm >= 0.05:
            return "inconclusive"
        if not self.claimed_direction:
            return "contradicted"
        return "reproduced" if self.matches_size else "same direction"


def names_of(groups: Iterable[Iterable[str]]) -> list[str]:
    """Every name of some pairs, once."""
    return list(dict.fromkeys(name for group in groups for name in group))


def below(pair: pd.DataFrame) -> bool:
    """Whether the first of two columns is below the second, p < 0.05 (sign flip)."""
    pair = pair.dropna()
    differences = (pair.iloc[:, 0] - pair.iloc[:, 1]).to_numpy()
    enough = len(pair) >= stats.MINIMUM
    return enough and differences.mean() < 0 and stats.sign_flip_p(differences) < 0.05


def parameters(row: Verdict, arm: str, between: dict, within: float | None) -> None:
    """Counts of freshly built models, exact: all of one arm, or the trainable ones of the arms that
    have figures; `between` bounds, alike up to the share `within`, or equal to the document's."""
    if arm:
        row.ours = dict(study.get(row.study).parameters([arm])[arm])  # a copy: counts are cached
        row.ours["percent"] = round(100 * row.ours["trainable"] / row.ours["total"], 4)
    else:
        counts = study.get(row.study).parameters(row.seed_value)
        row.ours = {arm: count["trainable"] for arm, count in counts.items()}
    row.ci = {name: [count, count] for name, count in row.ours.items()}
    if between:
        holds = all(low <= row.ours[name] <= high for name, (low, high) in between.items())
        bounds = {name: f"{low:,}" if low == high else f"{low:,} to {high:,}"
                  for name, (low, high) in between.items()}
        row.reason = "; ".join(f"{name} is {row.ours[name]:,}, claimed {claimed}"
                               for name, claimed in bounds.items())
    elif within is not None:
        spread = max(row.ours.values()) / min(row.ours.values()) - 1
        holds = spread <= within
        row.reason = f"the largest has {spread:.1%} more parameters than the smallest"
    else:
        wrong = [name for name in row.ours if row.ours[name] != row.seed_value[name]]
        holds = not wrong
        row.reason = f"differs for {', '.join(wrong)}" if wrong else "all counts agree to the unit"
    row.verdict = "reproduced" if holds else "contradicted"


def values(row: Verdict, wide: pd.DataFrame, ranks: list | None) -> None:
    """A figure of one run is reproduced when it could be one of ours: it lies in the 95% prediction
    interval for one further run (simultaneous over the claim's arms). The interval of the mean is
    reported beside it. Figures outside count as `same direction` where they rank as ours do;
    `ranks` are the pairs that count (default: all). Two figures are ranked the other way where ours
    differ with p < 0.05 (max-T over pairs) and no single pair of our runs would differ as they
    do."""
    wide, figures = wide.dropna(), row.seed_value
    row.seeds = len(wide)
    row.ours = {arm: float(wide[arm].mean()) for arm in wide}
    row.ci = _intervals({arm: wide[arm].to_numpy() for arm in wide})
    confidence = 1 - 0.05 / wide.shape[1]
    row.one_run = {arm: list(stats.run_interval(wide[arm], confidence)) for arm in wide}
    if figures is None:
        row.verdict, row.reason = "not comparable", "the document left its figures empty"
        return
    if row.seeds < stats.MINIMUM:
        row.verdict, row.reason = "inconclusive", f"fewer than {stats.MINIMUM} seeds"
        return
    outside = [arm for arm, (low, high) in row.one_run.items() if not low <= figures[arm] <= high]
    if not outside:
        row.verdict, row.reason = "reproduced", "each figure lies within the range of single runs"
        return
    ranks = permutations(wide, 2) if ranks is None else ranks
    pairs = [(a, b) for a, b in ranks if figures[a] < figures[b]]
    differences = np.array([wide[a] - wide[b] for a, b in pairs]).reshape(len(pairs), row.seeds).T
    adjusted = stats.max_t_p(differences) if pairs else ()
    turned = [f"{a} and {b}" for (a, b), ours, p in zip(pairs, differences.T, adjusted)
              if ours.mean() > 0 and p < 0.05
              and figures[a] - figures[b] < stats.run_interval(ours, 1 - 0.05 / len(pairs))[0]]
    row.verdict = "same direction" if pairs and not turned else "contradicted"
    row.reason = f"outside the range of single runs: {', '.join(outside)}"
    row.reason += f"; ranked the other way: {', '.join(turned)}" if turned else ""


def differences(wide: pd.DataFrame, pairs: list,
                slack: float = 0.0) -> dict[tuple[str, str], np.ndarray]:
    """The first of each pair less the second and its `slack`, a value a seed."""
    return {(a, b): (wide[a] - wide[b] - slack * wide[b].abs()).to_numpy() for a, b in pairs}


def order(row: Verdict, pairs: list, wide: pd.DataFrame, margin: float, slack: float = 0.0,
          tests: stats.Paired | stats.Blocks = stats.PAIRED) -> Comparison:
    """All pairs must hold, so the claim's p is the largest; one reversed pair refutes it, its p
    adjusted over pairs. With `slack` a pair holds where the first is not higher than the second by
    as much; that is no difference that two equivalent arms would lack."""
    wide, figures = wide[names_of(pairs)].dropna(), row.seed_value or {}
    by_pair = {" - ".join(pair): d for pair, d in differences(wide, pairs).items()}
    tested = differences(wide, pairs, slack)
    joint = dict(zip(by_pair, tests.joint(tested)))
    margins = {f"{a} - {b}": margin * wide[b].mean() for a, b in pairs}
    claimed = {f"{a} - {b}": figures[a] - figures[b] for a, b in pairs if {a, b} <= {*figures}}
    ci = {k: list(tests.interval(d)) for k, d in by_pair.items()}
    turned = [k for k, d in zip(by_pair, tested.values()) if d.mean() >= 0]
    equivalent = max(tests.equivalence_p(d, margins[k]) for k, d in by_pair.items()) < 0.05
    return Comparison(
        seeds=len(wide), ci=ci, figures=claimed, enough=len(wide) >= tests.least,
        effects={k: float(d.mean()) for k, d in by_pair.items()},
        p=float(min(joint[k] for k in turned)) if turned else max(map(tests.p, tested.values())),
        detectable={k: tests.detectable(d) for k, d in by_pair.items()},
        claimed_direction=not turned,
        equivalent=equivalent and not slack,
        sizes={f"{a} - {b}": (wide[a].mean() / wide[b].mean() - 1, figures[a] / figures[b] - 1)
               for a, b in pairs if {a, b} <= {*figures} and figures[b] and wide[b].mean()},
        probability=min(stats.improvement_probability(wide[a], wide[b]) for a, b in pairs),
        ratios=pd.DataFrame({i: np.log((wide[a] / wide[b]).where(lambda ratio: ratio > 0))
                             for i, (a, b) in enumerate(pairs)}),
        matches_size=row.kind != "gap" or all(ci[k][0] <= claimed[k] <= ci[k][1] for k in claimed))


def _intervals(values: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The 95% interval of each mean, NaN of fewer seeds than an interval needs."""
    return {name: list(stats.mean_interval(v)) for name, v in values.items()}


def weakens(published: Comparison, repair: Comparison) -> str:
    """How a repair takes away what was published: it refutes it, makes the arms equivalent, or
    shrinks some pair's ratio, seed by seed, with p < 0.05 (max-T over pairs); else empty. Mere loss
    of significance is not enough."""
    if repair.verdict() in ("contradicted", "equivalent"):
        return repair.verdict()
    if published.ratios.shape[1] != repair.ratios.shape[1]:
        return ""  # another set of pairs: nothing to set against each other
    change = (published.ratios - repair.ratios).dropna()
    if len(change) < stats.MINIMUM:
        return ""
    found = zip(repair.effects, stats.max_t_p(change.to_numpy()), change.items())
    shrunk = [f"the ratio of the two ({pair.replace(' - ', ' to ')}) is {np.exp(d.mean()):.2g} of "
              f"what it was (p = {p:.2g})"
              for pair, p, (_, d) in found if d.mean() < 0 and p < 0.05]
    return "; ".join(shrunk[:1])


def conclude(row: Verdict, first: Comparison, repairs: dict[str, Comparison]) -> None:
    """The published comparison decides; where it holds and a repair takes it away, the claim is
    confounded. The reason names the repairs that decide, and all others that do not hold."""
    row.verdict, row.seeds, row.ours, row.ci = first.verdict(), first.seeds, first.effects, first.ci
    if first.enough:  # fewer test nothing
        row.p, row.p_holm, row.probability = first.p, first.p_holm, first.probability
        row.detectable = first.detectable
    row.seed_value = first.figures or row.seed_value
    row.repairs |= {
        name: {"verdict": c.verdict(), "ours": c.effects, "ci": c.ci, "p_holm": c.p_holm}
        for name, c in repairs.items()}
    few = [] if first.enough else [f"{first.seeds} seeds decide nothing"]
    if row.verdict == "same direction" and first.sizes:
        few.append("another size: " + ", ".join(
            f"{pair} is {ours:+.0%} here and {said:+.0%} in the document"
            for pair, (ours, said) in first.sizes.items()))
    holds = row.verdict in HOLDS
    deciding = {name: how for name, c in repairs.items()
                if holds and c.verdict() not in HOLDS and (how := weakens(first, c))}
    others = [f"with {name}: {repair['verdict']}" for name, repair in row.repairs.items()
              if name not in deciding and not (holds and repair["verdict"] in HOLDS)]
    if deciding:
        # the document published nothing on a pending claim
        compared = "first compared" if row.kind == "pending" else "published"
        decided = "; ".join(f"with {name}: {how}" for name, how in deciding.items())
        others.insert(0, f"holds as {compared}, which is taken away {decided}")
        row.verdict = "confounded"
    row.reason = "; ".join(few + others)


def on_stand_ins(row: Verdict, figures: bool) -> None:
    """`figures` of stand-ins are not held against the document's; of a ranking the verdict's name
    says that only the direction can be compared."""
    if not row.stand_ins:
        return
    where = f"recorded with the stand-in {', '.join(row.stand_ins)}"
    if figures:
        empty = "the document left its figures empty, and ours are "
        row.verdict, row.reason = "not comparable", where if row.seed_value else empty + where
    else:
        row.verdict = ON_A_STAND_IN.get(row.verdict, row.verdict)
        row.reason = "; ".join(filter(None, [row.reason, where]))
