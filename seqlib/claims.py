"""What a study's document claims, how each claim is tested, and the verdicts of the archive.

`seqlib/studies/NAME/claims.yaml` holds a document and its claims by id, in our words; the models below
are its grammar. Runs are chosen by `experiment` (of plan.yaml, one or several; at the head of the file,
a test, a column or a repair: the inner one counts) and by `where` (settings, a value or a list each).
What follows from the chosen figures is decided in `seqlib.rules`.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqlib import frames, plan, rules, stats, yamls
from seqlib import study as studies
from seqlib.errors import UsageError, nearest
from seqlib.rules import Comparison, Verdict, names_of
from seqlib.store import Store

Pairs = list[tuple[str, str]]  # of names, [lower, higher]
RUNS = ("experiment", "where", "metric", "columns", "pairs")
METHODS = {"parameters": ("arm", "between"), "same size": ("within",), "values": (*RUNS, "needs"),
           "order": (*RUNS, "margin", "repairs", "requires")}
REQUIRED = {"same size": ("within",), "order": ("margin", "pairs")}
PUBLISHED = "as published"
NAME = re.compile(r"`([^`]+)`|\b([A-Za-z_]\w*)\b(?!\()")  # in an expression; functions are no names


class Strict(BaseModel):
    """Refuses unknown names and choices, and offers the nearest."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def known(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                raise nearest("name", name, cls.model_fields)
            annotation = cls.model_fields[name].annotation
            if get_origin(annotation) is Literal and value not in get_args(annotation):
                raise nearest(name, value, get_args(annotation))
        return given


class Choice(Strict):
    """Which runs: those of some experiments and, of these, the ones whose settings are as in `where`."""

    experiment: str | list[str] | None = None
    where: dict[str, Any] = {}


class Column(Choice):
    """A figure of one arm by seed; or, `over` several arms, its mean or sd, or the agreement (Kendall's
    tau) between the orders that two metrics give them. A metric may compute with a record's metrics."""

    arm: str = ""
    over: list[str] = []
    statistic: Literal["value", "mean", "sd", "agreement"] = "value"
    metric: str | list[str] | None = None

    @model_validator(mode="after")
    def whole(self) -> "Column":
        if bool(self.arm) == bool(self.over) or bool(self.over) == (self.statistic == "value"):
            raise ValueError("wants an arm, or arms under `over` and a statistic")
        if (self.statistic == "agreement") != isinstance(self.metric, list):
            raise ValueError("agreement, and only that, wants a list of two metrics")
        return self

    def within(self, test: "Test") -> "Column":
        """The column with what it leaves open taken from its test."""
        return self.model_copy(update={"experiment": self.experiment or test.experiment,
                                       "metric": self.metric or test.metric,
                                       "where": {**test.where, **self.where}})

    def choices(self) -> dict[str, list]:
        """The values allowed for each field of a run."""
        fields = {"experiment": self.experiment, **self.where, "arm": self.over or self.arm}
        return {field: _listed(value) for field, value in fields.items()}


class Repair(Choice):
    """A comparison with one flaw mended: other pairs, or other runs. `planned` is false where it was
    declared and then left out of the plan."""

    pairs: Pairs = []
    planned: bool = True


class Requires(Strict):
    """Pairs that must hold for a comparison to say anything, and what is said otherwise."""

    pairs: Pairs
    otherwise: str


class Test(Choice):
    """How a claim is tested. parameters: trainable ones by arm; of one `arm` all counts, or whether these lie
    `between` two bounds. same size: of all arms that have figures, up to the share `within`. values: figures of one
    run against ours; `pairs` are the rankings that count (default: all), `needs` the settings without which they are
    not comparable. order: the first of each pair is lower; below the relative difference `margin` both
    are equivalent. A name is an arm, unless `columns` say otherwise: a column, a number, or a formula over
    the columns above it (names with spaces in backticks)."""

    method: Literal[tuple(METHODS)]
    arm: str = ""
    between: dict[str, tuple[int | float, int | float]] = {}
    within: float | None = Field(None, ge=0)
    metric: str | None = None
    columns: dict[str, Column | float | str] = {}
    pairs: Pairs | None = None
    needs: dict[str, Any] = {}
    margin: float | None = Field(None, ge=0)
    repairs: dict[str, Repair] = {}
    requires: Requires | None = None

    @model_validator(mode="after")
    def whole(self) -> "Test":
        given, fields = self.model_fields_set - {"method"}, METHODS[self.method]
        for name in sorted(given - set(fields)):
            raise nearest(f"name of a test of {self.method}", name, fields)
        for name in set(REQUIRED.get(self.method, ())) - given:
            raise ValueError(f"{self.method} wants {name}")
        return self


class Claim(Strict):
    """Kinds: exact, without tolerance; value, of one run; order, a ranking; gap, a difference with its size;
    mechanism, a reason, tested by an experiment of its own; pending, left empty by the document. `figures` are the
    document's, `changes` says what would change the verdict. Without a test it has not been run."""

    kind: Literal["exact", "value", "order", "gap", "mechanism", "pending"]
    says: str
    figures: dict[str, int | float] | None = None
    test: Test | None = None
    changes: str = ""


class Document(Strict):
    """A claims.yaml."""

    document: str = ""
    title: str
    flaws: str = ""
    experiment: str | list[str] | None = None
    claims: dict[str, Any] = {}  # of Claim, each read by itself


def read(name: str) -> Document:
    """A study's document, without claims where it has no claims.yaml. Raises UsageError: one line with file and claim."""
    path = studies.folder(name) / "claims.yaml"
    if not path.exists():
        return Document(title=name)
    with _located(str(path)):
        document = Document.model_validate(yamls.read(path))
    runs = planned(name) if document.claims else pd.DataFrame()
    for id_, given in document.claims.items():
        with _located(f"{path}, {id_}"):
            claim = document.claims[id_] = Claim.model_validate(given)
            if claim.test:
                claim.test.experiment = claim.test.experiment or document.experiment
                check(name, claim, runs)
    return document


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Problems as one line that begins with the place."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{place}: {path}: {problem['msg'].removeprefix('Value error, ')}") from None
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def planned(name: str) -> pd.DataFrame:
    """The runs that a study's archive should have: a row a run and experiment, its settings and label."""
    kind = studies.get(name)
    specs = [(experiment, spec.model_dump(mode="json"))
             for experiment in frames.chosen(name, None) for spec in plan.specs(name, experiment)]
    rows = [{"experiment": experiment, **spec, "label": kind.label(spec)} for experiment, spec in specs]
    return pd.DataFrame(rows, columns=["experiment", *kind.spec.model_fields, "label"])


def check(name: str, claim: Claim, runs: pd.DataFrame) -> None:
    """Raises UsageError on a name that is none of the study's, and on a choice that no planned run meets."""
    test, figures = claim.test, claim.figures or {}
    if test.method in ("parameters", "same size"):
        arms = [test.arm] if test.arm else figures
        _known("arm", arms, studies.get(name).arms)
        _known("count", [*(figures if test.arm else ()), *test.between], ("trainable", "total", "percent"))
        return
    _known("setting", test.needs, runs.columns)
    *_, columns = compared(claim)
    columns |= {name: Column(arm=name).within(test) for name in figures if name not in columns}
    above = [name for name, column in columns.items() if isinstance(column, Column)]
    for name, column in columns.items():
        if isinstance(column, Column):
            if column.metric is None:
                raise UsageError(f"{name!r} has no metric")
            chosen = runs
            for field, values in column.choices().items():
                _known("setting", [field], chosen.columns)
                meant = test.columns if field == "arm" and name not in test.columns else ()
                _known("arm or column" if meant else field, values, [*chosen[field].unique().tolist(), *meant])
                chosen = chosen[chosen[field].isin(values)]
        else:
            _known("column above", names_in(column), above)
            above.append(name)


def _known(kind: str, names: Iterable, allowed: Iterable) -> None:
    for name in names:
        if name not in allowed:
            raise nearest(kind, name, allowed)


def names_in(expression: str | float) -> list[str]:
    """The names that an expression computes with. Raises UsageError on what is none."""
    try:
        ast.parse(NAME.sub("x", str(expression)), mode="eval")
    except SyntaxError:
        raise UsageError(f"{expression!r} is not an expression") from None
    return [quoted or bare for quoted, bare in NAME.findall(str(expression))]


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def compared(claim: Claim) -> tuple[list[str], dict[str, Pairs], dict[str, Column | float | str]]:
    """The names that a test needs, the pairs of each repair (none where it is not planned), and every column.
    Where a repair chooses its runs, its names become columns of their own."""
    test, columns, repairs = claim.test, dict(claim.test.columns), {}
    needed = names_of(test.pairs + (test.requires.pairs if test.requires else [])) if test.method == "order" else list(
        claim.figures or test.columns)
    for name, repair in test.repairs.items():
        pairs = (repair.pairs or test.pairs) if repair.planned else []
        if repair.experiment or repair.where:
            columns |= {f"{arm} ({name})": Column(arm=arm, experiment=repair.experiment, where=repair.where)
                        for arm in names_of(pairs)}
            pairs = [(f"{a} ({name})", f"{b} ({name})") for a, b in pairs]
        repairs[name] = pairs
    columns = {name: Column(arm=name) for name in names_of([needed, *map(names_of, repairs.values())])} | columns
    return needed, repairs, {name: column.within(test) if isinstance(column, Column) else column
                             for name, column in columns.items()}


def ledger(names: Iterable[str] | None = None) -> list[Verdict]:
    """Verdicts of some studies (all if None), in the order of the book. Raises UsageError on an unknown study."""
    return [row for name in (studies.names() if names is None else names) for row in study_verdicts(name)]


def study_verdicts(name: str) -> list[Verdict]:
    """The verdicts on a study's claims, computed again when claims, plan or archive have changed."""
    folder, archive = studies.folder(name), Store.archive().root.resolve() / name
    files = [folder / "claims.yaml", folder / "plan.yaml", archive]
    return list(_verdicts(name, tuple((f, f.stat().st_mtime_ns) for f in files if f.exists())))


@functools.lru_cache(maxsize=64)
def _verdicts(name: str, changed: tuple) -> tuple[Verdict, ...]:
    claims = read(name).claims
    runs = frames.frame(name, frames.archived(name), plan.archived(name)) if claims else pd.DataFrame()
    return tuple(judge(name, claims, runs))


def judge(name: str, claims: dict[str, Claim], runs: pd.DataFrame) -> list[Verdict]:
    """Evaluate claims on a frame of runs, and adjust their p-values by Holm."""
    rows, found = [], []
    for id_, claim in claims.items():
        row = Verdict(id_, name, claim.kind, claim.says.strip(), seed_value=claim.figures,
                      changes=claim.changes)
        with _located(f"{studies.folder(name) / 'claims.yaml'}, {id_}"):
            found.append(_evaluate(row, claim, runs))
        rows.append(row)
    # fewer seeds cannot reach p < 0.05: nothing is tested there
    tested = [one for own in found for one in own.values() if one.seeds >= stats.MINIMUM]
    for one, p in zip(tested, stats.holm([one.p for one in tested])):
        one.p_holm = p
    for row, comparisons in zip(rows, found):
        if comparisons:
            rules.conclude(row, comparisons.pop(PUBLISHED), comparisons)
    return rows


def _evaluate(row: Verdict, claim: Claim, runs: pd.DataFrame) -> dict[str, Comparison]:
    """Fill in the verdict where no p-value decides; elsewhere return the comparisons that do: the
    published one, and each repair by name."""
    test = claim.test
    if test is None or (runs.empty and test.method in ("values", "order")):
        row.reason = "the archive has no records" if test else "no test has been declared yet"
        return {}
    if test.method in ("parameters", "same size"):
        rules.parameters(row, test.arm, test.between, test.within)
        return {}
    needed, repairs, columns = compared(claim)
    wide, used = _wide(columns, runs)
    absent = {name for name in wide if wide[name].count() < 2}
    if lacking := [name for name in needed if name in absent]:
        row.reason = f"the archive lacks runs of {', '.join(lacking)}"
        return {}
    row.older_code = int((~used.current.astype(bool)).sum())
    if test.method == "values":
        rules.values(row, wide[needed], test.pairs)
        rules.comparable(row, test.needs, used)
        return {}
    published = rules.order(row, test.pairs, wide, test.margin)
    if test.requires and not all(rules.below(wide[list(pair)]) for pair in test.requires.pairs):
        row.verdict, row.reason = "inconclusive", test.requires.otherwise
        row.seeds, row.ours, row.ci = published.seeds, published.effects, published.ci
        return {}
    missing = [name for name, pairs in repairs.items() if not pairs or absent & {*names_of(pairs)}]
    row.repairs = {name: {"verdict": "not run"} for name in missing}
    return {PUBLISHED: published} | {name: rules.order(row, pairs, wide, test.margin)
                                     for name, pairs in repairs.items() if name not in missing}


def _wide(columns: dict[str, Column | float | str], runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is compared, a column a name and a row a seed, and the runs that it comes from."""
    wide, keys = {}, set()
    for name, column in columns.items():
        if isinstance(column, Column):
            rows = _chosen(name, column, runs)
            keys |= set(rows.key)
            if column.over:
                wide[name] = stats.over_arms(rows, column.statistic, column.metric, len(column.over))
            else:
                wide[name] = pd.Series(dtype=float) if rows.empty else rows.set_index("seed").eval(column.metric)
    wide = pd.DataFrame(wide)
    for name, formula in columns.items():
        if not isinstance(formula, Column):
            wide[name] = wide.eval(formula) if isinstance(formula, str) else formula
    return wide.sort_index(), runs[runs.key.isin(keys)].drop_duplicates("key")


def _chosen(name: str, column: Column, runs: pd.DataFrame) -> pd.DataFrame:
    """A column's runs. Raises UsageError on a metric that no run of its experiment has, and on several runs of a seed."""
    rows = known = runs[runs.experiment.isin(_listed(column.experiment))]
    for field, values in column.choices().items():
        rows = rows[rows[field].isin(values)]
    rows = rows.drop_duplicates("key").sort_values("key")
    names = [name for metric in _listed(column.metric) for name in names_in(metric)]
    if len(known) and not all(name in rows and rows[name].notna().any() for name in names):
        _known("metric", names, known.select_dtypes("number").dropna(axis="columns", how="all").columns)
    if rows.duplicated(["arm", "seed"]).any():
        raise UsageError(f"column {name!r} matches several records of one seed; narrow its `where`")
    return rows
