"""Verdicts on the seed documents' claims, computed from the archive's records and never typed.

`ledger()` reads claims.yaml, evaluates each claim's declared test and adjusts the p-values of a study by Holm.
Which records a test compares is decided here, what follows from them in `seqlib.verdicts`.
"""

from importlib.resources import files

import pandas as pd
import yaml

from seqlib import stats, study
from seqlib.errors import SeqlibError, nearest
from seqlib.store import Store
from seqlib.verdicts import Comparison, Verdict, conclude, holds, names_of, order, parameters, values


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
            conclude(row, own)
    return rows


def _evaluate(row: Verdict, test: dict | None, settings: dict, table: pd.DataFrame) -> list[Comparison]:
    if test is None:
        row.reason = "no test has been declared yet"
        return []
    if test["method"] in ("parameters", "same size"):
        parameters(row, test)
        return []
    if table.empty:
        row.reason = "the archive has no records"
        return []
    test, repairs = _with_settings_of_repairs(test)
    needed = list(row.seed_value or test.get("columns", ())) if test["method"] == "values" else names_of(test["pairs"])
    required = test.get("requires", {})
    needed += [name for name in names_of(required.get("pairs", ())) if name not in needed]
    wide, used = _wide(test, settings, table, names_of([needed, *(pair for pairs in repairs.values() for pair in pairs)]))

    def absent(names):
        return [name for name in names if wide[name].count() < 2]

    if absent(needed):
        row.reason = f"the archive lacks runs of {', '.join(absent(needed))}"
        return []
    row.older_code = int(table.older_code[sorted(used)].sum())
    if test["method"] == "values":
        values(row, wide[needed], test.get("pairs"))
        other = [f"{name} {value}" for name, want in test.get("needs", {}).items()
                 for value in sorted(set(table.loc[sorted(used), name]) - {want})]
        if other:
            empty = "the document left its figures empty, and ours are " if row.seed_value is None else ""
            row.verdict, row.reason = "not comparable", f"{empty}recorded with the stand-in {', '.join(other)}"
        return []
    if not all(holds(wide[pair].dropna()) for pair in required.get("pairs", ())):
        told = order("as published", row, test, test["pairs"], wide)
        row.verdict, row.reason = "inconclusive", required["otherwise"]
        row.seeds, row.ours, row.ci = told.seeds, told.effects, told.ci
        return []
    row.repairs = {name: {"verdict": "not run"} for name, pairs in repairs.items() if absent(names_of(pairs))}
    return [order("as published", row, test, test["pairs"], wide)] + [
        order(name, row, test, pairs, wide) for name, pairs in repairs.items() if name not in row.repairs]


def _with_settings_of_repairs(test: dict) -> tuple[dict, dict]:
    """The pairs of every repair. Where a repair has settings of its own (`where`), its names become columns of their own."""
    repairs, columns = {}, dict(test.get("columns", {}))
    for name, repair in test.get("repairs", {}).items():
        pairs, where = repair.get("pairs", test.get("pairs")), repair.get("where")
        if where:
            columns |= {f"{a} ({name})": {"arm": a, "where": where} for a in names_of(pairs)}
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
