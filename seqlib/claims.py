"""Verdicts on the seed documents' claims, computed from the archive's records and never typed.

`ledger()` reads claims.yaml, evaluates each claim's declared test and adjusts the p-values of a study by Holm.
The tests are `parameters` (counts), `values` (figures of one run) and `order` (pairs of arms); book/methods.md says
what each decides and why.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import yaml

from seqlib import stats, study
from seqlib.errors import SeqlibError, nearest
from seqlib.store import Store

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


def load() -> dict:
    return yaml.safe_load((files("seqlib") / "claims.yaml").read_text())


def frame(records) -> pd.DataFrame:
    """One row a record: its spec, its metrics, its key, and whether older code made it."""
    return pd.DataFrame([{**r.spec, **r.metrics, "key": r.key,
                          "older_code": not study.get(r.spec["study"]).current(r)} for r in records])


def archived(name: str, complete: bool = False) -> list:
    """The archive's records at the published settings (those that the full profile asks for).

    With `complete`, raises SeqlibError where some are missing."""
    store, planned = Store.archive(), study.get(name).planned()
    records = [record for record in store.records(name) if record.key in planned]
    if complete and len(records) < len(planned):
        raise SeqlibError(f"the archive {store.root / name} lacks {len(planned) - len(records)} of {len(planned)} runs; "
                          f"run `seqlib sweep {name} --profile full`")
    return records


def ledger(names: list[str] | None = None) -> list[Verdict]:
    """Verdicts of the named studies (all if None), in the ledger's order. Raises UsageError on an unknown study."""
    everything = load()
    for name in names or []:
        if name not in everything:
            raise nearest("study", name, everything)
    return [row for name in names or everything for row in study_verdicts(name, everything[name]["claims"])]


def study_verdicts(name: str, claims: dict, table: pd.DataFrame | None = None) -> list[Verdict]:
    """Evaluate `claims` on `table` (default: the archive's records)."""
    table = frame(archived(name)) if table is None else table
    rows = [Verdict(id_, name, c["kind"], c["says"].strip(), seed_value=c.get("seed"), changes=c.get("changes", ""))
            for id_, c in claims.items()]
    settings = load()[name].get("settings", {})
    pending = [(row, _evaluate(row, claims[row.id].get("test"), settings, table)) for row in rows]
    tests = [t for _, own in pending for t in own]
    tested = [t for t in tests if t.seeds >= stats.MINIMUM]  # fewer seeds cannot reach p < 0.05: nothing is tested there
    for t, p in zip(tested, stats.holm([t.p for t in tested])):
        t.p_holm = p
    for row, own in pending:
        if own:
            _conclude(row, own)
    return rows


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


def _evaluate(row: Verdict, test: dict | None, settings: dict, table: pd.DataFrame) -> list[Comparison]:
    if test is None:
        row.reason = "no test has been declared yet"
        return []
    if test["method"] in ("parameters", "same size"):
        _parameters(row, test)
        return []
    if table.empty:
        row.reason = "the archive has no records"
        return []
    test, repairs = _with_settings_of_repairs(test)
    needed = list(row.seed_value or test.get("columns", ())) if test["method"] == "values" else _names(test["pairs"])
    required = test.get("requires", {})
    needed += [name for name in _names(required.get("pairs", ())) if name not in needed]
    wide, used = _wide(test, settings, table, _names([needed, *(pair for pairs in repairs.values() for pair in pairs)]))

    def absent(names):
        return [name for name in names if wide[name].count() < 2]

    if absent(needed):
        row.reason = f"the archive lacks runs of {', '.join(absent(needed))}"
        return []
    row.older_code = int(table.older_code[sorted(used)].sum())
    if test["method"] == "values":
        _values(row, wide[needed], test.get("pairs"))
        other = [f"{name} {value}" for name, want in test.get("needs", {}).items()
                 for value in sorted(set(table.loc[sorted(used), name]) - {want})]
        if other:
            empty = "the document left its figures empty, and ours are " if row.seed_value is None else ""
            row.verdict, row.reason = "not comparable", f"{empty}recorded with the stand-in {', '.join(other)}"
        return []
    if not all(_holds(wide[pair].dropna()) for pair in required.get("pairs", ())):
        told = _order("as published", row, test, test["pairs"], wide)
        row.verdict, row.reason = "inconclusive", required["otherwise"]
        row.seeds, row.ours, row.ci = told.seeds, told.effects, told.ci
        return []
    row.repairs = {name: {"verdict": "not run"} for name, pairs in repairs.items() if absent(_names(pairs))}
    return [_order("as published", row, test, test["pairs"], wide)] + [
        _order(name, row, test, pairs, wide) for name, pairs in repairs.items() if name not in row.repairs]


def _holds(pair: pd.DataFrame) -> bool:
    """Whether the first of two columns is below the second, p < 0.05 (sign flip)."""
    differences = (pair.iloc[:, 0] - pair.iloc[:, 1]).to_numpy()
    return len(pair) >= stats.MINIMUM and differences.mean() < 0 and stats.sign_flip_p(differences) < 0.05


def _with_settings_of_repairs(test: dict) -> tuple[dict, dict]:
    """The pairs of every repair. Where a repair has settings of its own (`where`), its names become columns of their own."""
    repairs, columns = {}, dict(test.get("columns", {}))
    for name, repair in test.get("repairs", {}).items():
        pairs, where = repair.get("pairs", test.get("pairs")), repair.get("where")
        if where:
            columns |= {f"{a} ({name})": {"arm": a, "where": where} for a in _names(pairs)}
            pairs = [[f"{a} ({name})" for a in pair] for pair in pairs]
        repairs[name] = pairs
    return {**test, "columns": columns}, repairs


def _wide(test: dict, settings: dict, table: pd.DataFrame, needed: list[str]) -> tuple[pd.DataFrame, set]:
    """What is compared, a column a name and a row a seed, and the rows of `table` that it comes from.

    A name is an arm, unless the test's `columns` say otherwise: {arm, metric, where} for other settings or figures of an
    arm; {over, statistic, metric, where}, the mean or sd over several arms, or the agreement (Kendall's tau) between two
    metrics of them; or a text that computes with further columns (names with spaces in backticks). A metric may compute with a
    record's figures.
    """
    given, used, wide = test.get("columns", {}), set(), {}
    for name in dict.fromkeys([*(n for n, c in given.items() if not isinstance(c, str)), *needed]):
        column = given.get(name, {})
        if isinstance(column, str):
            continue
        where = {**settings, **test.get("where", {}), **column.get("where", {})}
        rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
        rows = rows[rows.arm.isin(column.get("over", [column.get("arm", name)]))]
        metric = column.get("metric", test.get("metric"))
        if rows.duplicated(["arm", "seed"]).any():
            raise SeqlibError(f"claims.yaml: column {name!r} matches several records of one seed; narrow its `where`")
        used |= set(rows.index)
        if "over" in column:
            wide[name] = stats.over_arms(rows, column["statistic"], metric, len(column["over"]))
        else:
            wide[name] = pd.Series(dtype=float) if rows.empty else rows.set_index("seed").eval(metric)
    wide = pd.DataFrame(wide)
    for name, formula in given.items():
        if isinstance(formula, str):
            wide[name] = wide.eval(formula)
    return wide.sort_index(), used


def _names(groups) -> list[str]:
    """Every name of some pairs, once."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _parameters(row: Verdict, test: dict) -> None:
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


def _values(row: Verdict, wide: pd.DataFrame, ranks: list | None) -> None:
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


def _order(name: str, row: Verdict, test: dict, pairs: list, wide: pd.DataFrame) -> Comparison:
    """All pairs must hold, so the claim's p is the largest; one reversed pair refutes it, at Bonferroni over pairs."""
    wide = wide[_names(pairs)].dropna()
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


def _weakens(published: Comparison, repair: Comparison) -> bool:
    """Whether a repair takes away what was published: it refutes it, makes the arms equivalent, or shrinks some pair's
    ratio, seed by seed, with p < 0.05 (sign flip, Bonferroni over pairs). Mere loss of significance is not enough."""
    if repair.verdict() in ("contradicted", "equivalent"):
        return True
    if published.ratios.shape[1] != repair.ratios.shape[1]:  # another set of pairs: nothing to set against each other
        return False
    change = (published.ratios - repair.ratios).dropna()
    return any(d.mean() < 0 and stats.sign_flip_p(d) * change.shape[1] < 0.05 for _, d in change.items())


def _conclude(row: Verdict, comparisons: list[Comparison]) -> None:
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
                           if few or repair["verdict"] not in holds)
    if few:
        row.reason = "; ".join(filter(None, (f"{first.seeds} seeds decide nothing", row.reason)))
    if row.verdict in holds and any(_weakens(first, c) for c in failing):
        compared = "first compared" if row.kind == "pending" else "published"  # the document left a pending claim empty
        row.verdict, row.reason = "confounded", f"holds as {compared}; {row.reason}"
