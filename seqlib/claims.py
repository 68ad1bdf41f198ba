"""What a study's document claims, how each claim is tested, and the verdicts of the archive.

`seqlib/studies/NAME/claims.yaml` holds a document, what stands behind it, and its claims by id, in
our words, with who says each and where; the models below are its grammar. Runs are chosen by
`experiment` (of plan.yaml, one or several; at the head of the file, a test, a column or a repair:
the inner one counts) and by `where` (settings, a value or a list each). What follows from the
chosen figures is decided in `seqlib.rules`.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal, get_args, get_origin

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqlib import frames, plan, rules, stats, yamls
from seqlib import study as studies
from seqlib.errors import UsageError, nearest
from seqlib.places import cached_by
from seqlib.rules import Comparison, Verdict, names_of

RUNS = ("experiment", "where", "metric", "columns", "pairs")
METHODS = {"parameters": ("arm", "between"), "same size": ("within",), "values": (*RUNS, "needs"),
           "order": (*RUNS, "margin", "repairs", "requires", "needs", "entails", "blocks",
                     "slack")}
REQUIRED = {"same size": ("within",), "order": ("margin", "pairs")}
PUBLISHED = "as published"
QUOTED = 15  # words of a document, at most
NAME = re.compile(r"`([^`]+)`|\b([A-Za-z_]\w*)\b(?!\()")  # in an expression; no functions
Pairs = list[tuple[str, str]]  # of names, [lower, higher]


class Strict(BaseModel):
    """Refuses unknown names and choices, and offers the nearest."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def check_names(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                raise nearest("name", name, cls.model_fields)
            annotation = cls.model_fields[name].annotation
            if get_origin(annotation) is Literal and value not in get_args(annotation):
                raise nearest(name, value, get_args(annotation))
        return given


class Choice(Strict):
    """Which runs: those of some experiments and, of these, those with the settings of `where`."""

    experiment: str | list[str] | None = None
    where: dict[str, Any] = {}


class Column(Choice):
    """A figure of one arm by seed; or, `over` several arms, its mean or sd, or the agreement
    (Kendall's tau) of the orders that two metrics give them. A metric may be an expression."""

    arm: str = ""
    over: list[str] = []
    statistic: Literal["value", "mean", "sd", "agreement"] = "value"
    metric: str | list[str] | None = None

    @model_validator(mode="after")
    def check_statistic(self) -> "Column":
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
    """A comparison with one flaw mended: other pairs, or other runs. `planned` is false where it
    was declared and then left out of the plan."""

    pairs: Pairs = []
    planned: bool = True


class Requires(Strict):
    """Pairs that must hold for a comparison to say anything, and what is said otherwise."""

    pairs: Pairs
    otherwise: str


class Test(Choice):
    """How a claim is tested; what is compared is an arm, unless `columns` say otherwise: a column,
    a number, or a formula over the columns above it (names with spaces in backticks).

    parameters: trainable ones by arm; all counts of one `arm`, or whether these lie `between` two.
    same size: whether the arms with figures have as many, up to the share `within`.
    values: figures of one run against ours. `pairs` are the rankings that count (default: all),
    `needs` the settings without which they are not comparable.
    order: the first of each pair is lower; `margin` is the relative difference below which both
    are equivalent. Where a claim that this one `entails` is contradicted, so is this one. With
    `blocks` the error of a run is that of all arms of the experiment (stats.Blocks), so that few
    seeds of many arms decide; repairs are tested by their pairs alone. With `slack` the first may
    be higher by up to that share of the second (non-inferiority).
    """

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
    entails: list[str] = []
    blocks: bool = False
    slack: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def check_fields(self) -> "Test":
        given = self.model_fields_set - {"method"}
        _known(f"name in a test of {self.method}", sorted(given), METHODS[self.method])
        for name in REQUIRED.get(self.method, ()):
            if getattr(self, name) is None:
                raise ValueError(f"a test of {self.method} wants {name}")
        return self


class Source(Strict):
    """Who says something: a document, or what stands behind it (a program, its report, notes)."""

    title: str
    holds: str
    repository: str = ""
    path: str = ""
    commit: str = ""


class Population(Strict):
    """Units beside seeds on which the same runs were evaluated, such as test items: `figures` gives
    a metric's figure of each unit, as an expression over curves and metrics or as a list of
    metrics, a unit each. `experiment` is another one than the test's."""

    units: str
    figures: dict[str, str | list[str]]
    experiment: str | None = None


class Bound(Strict):
    """A number of ours that a test holds figures against, and the columns in which it stands."""

    value: int | float
    columns: list[str]


class Claim(Strict):
    """Kinds: exact, without tolerance; value, of one run; order, a ranking; gap, a difference with
    its size; mechanism, a reason, tested by an experiment of its own; pending, left empty by the
    document. `source` names one of the sources and a line of it (`document 003, line 41`), further
    ones after a semicolon; `quote` is the document's own words there, None where it does not say it
    itself. `figures` are the source's, `changes` says what would change the verdict; `post_hoc`
    claims were declared when the records had been seen. How far a verdict reaches, `population` and
    `bound`, is computed in `seqlib.reach`."""

    kind: Literal["exact", "value", "order", "gap", "mechanism", "pending"]
    says: str
    source: str
    quote: str | None = None
    figures: dict[str, int | float] | None = None
    test: Test | None = None
    changes: str = ""
    post_hoc: bool = False
    population: Population | None = None
    bound: Bound | None = None

    @model_validator(mode="after")
    def check_quote(self) -> "Claim":
        words = len((self.quote or "").split())
        if words > QUOTED:
            raise ValueError(f"a quote of {words} words; at most {QUOTED} are quoted")
        return self

    def sources(self) -> list[str]:
        """The names of its sources."""
        return [part.split(",")[0].strip() for part in self.source.split(";")]


class Document(Strict):
    """A claims.yaml. `alternatives` of a metric are other ones by which it could be judged,
    and which can rank runs otherwise."""

    document: str = ""
    title: str
    flaws: str = ""
    sources: dict[str, Source] = {}
    experiment: str | list[str] | None = None
    alternatives: dict[str, list[str]] = {}
    claims: dict[str, Any] = {}  # each is read as a Claim


@cached_by(frames.made_of)
def read(name: str) -> Document:
    """A study's document, one without claims where there is no claims.yaml. Raises UsageError that
    names file and claim."""
    path = studies.folder(name) / "claims.yaml"
    if not path.exists():
        return Document(title=name)
    with located(str(path)):
        document = Document.model_validate(yamls.read(path))
    runs = planned(name) if document.claims else pd.DataFrame()
    for id_, given in document.claims.items():
        with located(f"{path}, {id_}"):
            claim = document.claims[id_] = Claim.model_validate(given)
            _known("source", claim.sources(), document.sources)
            if claim.test:
                claim.test.experiment = claim.test.experiment or document.experiment
                check(name, claim, runs)
    return document


@contextmanager
def located(place: str) -> Iterator[None]:
    """Problems as one line that begins with the place."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        path = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{place}: {path}: {message}" if path else f"{place}: {message}") from None
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def planned(name: str) -> pd.DataFrame:
    """The runs that the archive should have: a row a run and experiment, its settings and label."""
    kind, rows = studies.get(name), []
    for experiment in frames.chosen(name, None):
        for spec in plan.specs(name, experiment):
            settings = spec.model_dump(mode="json")
            rows.append({"experiment": experiment, **settings, "label": kind.label(settings)})
    return pd.DataFrame(rows, columns=["experiment", *kind.spec.model_fields, "label"])


def check(name: str, claim: Claim, runs: pd.DataFrame) -> None:
    """Raises UsageError on a name that is none of the study's, and on a choice of runs that the
    plan, `runs`, has none of."""
    test, figures = claim.test, claim.figures or {}
    if test.method in ("parameters", "same size"):
        counts = [*(figures if test.arm else ()), *test.between]
        _known("arm", [test.arm] if test.arm else figures, studies.get(name).arms)
        _known("count", counts, ("trainable", "total", "percent"))
        return
    _known("setting", test.needs, runs.columns)
    *_, columns = compared(claim)
    columns |= {name: Column(arm=name).within(test) for name in figures if name not in columns}
    above = [name for name, column in columns.items() if isinstance(column, Column)]
    if claim.bound:
        with_bound(claim, 0)
    for metric in claim.population.figures if claim.population else ():
        _known("metric of the test", [metric], {c.metric for c in columns.values()
                                                if isinstance(c, Column) and c.arm})
    for name, column in columns.items():
        if isinstance(column, Column):
            _check_column(name, column, () if name in test.columns else test.columns, runs)
        else:
            _known("column above", names_in(column), above)
            above.append(name)


def _check_column(name: str, column: Column, declared: Iterable[str], runs: pd.DataFrame) -> None:
    """`declared` are the columns that the name of an arm may have meant."""
    if column.metric is None:
        raise UsageError(f"{name!r} has no metric")
    for metric in _listed(column.metric):
        names_in(metric)
    for field, values in column.choices().items():
        _known("setting", [field], runs.columns)
        allowed, meant = runs[field].unique().tolist(), [*declared] if field == "arm" else []
        _known("arm or column" if meant else field, values, allowed + meant)
        runs = runs[runs[field].isin(values)]


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
    """The names that a test needs, the pairs of each repair (none where it is not planned), and
    every column. Where a repair chooses its runs, its names become columns of their own."""
    test, columns, repairs = claim.test, {}, {}
    for name, repair in test.repairs.items():
        pairs = (repair.pairs or test.pairs) if repair.planned else []
        if repair.experiment or repair.where:
            runs = {"experiment": repair.experiment, "where": repair.where}
            columns |= {f"{arm} ({name})": Column(arm=arm, **runs) for arm in names_of(pairs)}
            pairs = [(f"{a} ({name})", f"{b} ({name})") for a, b in pairs]
        repairs[name] = pairs
    if test.method == "order":
        needed = names_of(test.pairs + (test.requires.pairs if test.requires else []))
    else:
        needed = list(claim.figures or test.columns)
    names = names_of([needed, *map(names_of, repairs.values())])
    columns = {name: Column(arm=name) for name in names} | columns | test.columns
    return needed, repairs, {name: column.within(test) if isinstance(column, Column) else column
                             for name, column in columns.items()}


def with_bound(claim: Claim, value: float) -> dict[str, Column | float | str]:
    """The columns of a claim with another value for its bound. Raises UsageError on a bound that
    does not stand in its columns."""
    *_, columns = compared(claim)
    number = re.compile(rf"(?<![\w.]){re.escape(str(claim.bound.value))}(?![\w.])")
    for name in claim.bound.columns:
        _known("column of the test", [name], columns)
        column = columns[name]
        text = str(column.metric if isinstance(column, Column) else column)
        changed, found = number.subn(f"({value})", text, count=1)
        if not found:
            raise UsageError(f"bound: {claim.bound.value} does not stand in {name!r}, {text}")
        columns[name] = (column.model_copy(update={"metric": changed})
                         if isinstance(column, Column) else changed)
    return columns


@cached_by(frames.made_of)
def study_verdicts(name: str) -> list[Verdict]:
    """Verdicts on a study's claims. Raises UsageError on an unknown study."""
    claims = read(name).claims
    return judge(name, claims, frames.archive(name)) if claims else []


def judge(name: str, claims: dict[str, Claim], runs: pd.DataFrame) -> list[Verdict]:
    """Evaluate claims on a frame of runs, and adjust their p-values by Holm: claims, their repairs,
    and those of post-hoc claims are families of their own."""
    rows, found = [], []
    for id_, claim in claims.items():
        row = Verdict(id_, name, claim.kind, claim.says.strip(), seed_value=claim.figures,
                      changes=claim.changes, source=claim.source, quote=claim.quote,
                      post_hoc=claim.post_hoc)
        with located(f"{studies.folder(name) / 'claims.yaml'}, {id_}"):
            found.append(_evaluate(row, claim, runs))
        rows.append(row)
    for post_hoc, repair in product((False, True), repeat=2):
        # fewer seeds cannot reach p < 0.05: nothing is tested there
        tested = [one for row, ones in zip(rows, found) if row.post_hoc == post_hoc
                  for name, one in ones.items()
                  if (name != PUBLISHED) == repair and one.enough]
        for one, p in zip(tested, stats.holm([one.p for one in tested])):
            one.p_holm = p
    for row, comparisons in zip(rows, found):
        if comparisons:
            rules.conclude(row, comparisons.pop(PUBLISHED), comparisons)
    by_id = {row.id: row for row in rows}
    for id_, claim in claims.items():
        for part in claim.test.entails if claim.test else ():
            if by_id[part].verdict == "contradicted" != by_id[id_].verdict:
                by_id[id_].verdict = "contradicted"
                by_id[id_].reason = f"it entails {part}, which is contradicted"
    for row, claim in zip(rows, claims.values()):
        rules.on_stand_ins(row, figures=claim.test is not None and claim.test.method == "values")
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
    wide, used = compute(columns, runs)
    absent = {name for name in wide if wide[name].count() < 2}
    if lacking := [name for name in needed if name in absent]:
        row.reason = f"the archive lacks runs of {', '.join(lacking)}"
        return {}
    row.older_code = int((~used.current.astype(bool)).sum())
    row.stand_ins = [f"{name} {value}" for name, wanted in test.needs.items()
                     for value in sorted(set(used[name]) - {wanted})]
    if test.method == "values":
        rules.values(row, wide[needed], test.pairs)
        return {}
    blocks = _all_arms(test, runs) if test.blocks else pd.DataFrame()
    tests = stats.Blocks.of(blocks) if min(blocks.shape) >= 2 else stats.PAIRED
    size = {"margin": test.margin, "slack": test.slack}
    published = rules.order(row, test.pairs, wide, tests=tests, **size)
    if test.requires and not all(rules.below(wide[[*pair]]) for pair in test.requires.pairs):
        row.verdict, row.reason = "inconclusive", test.requires.otherwise
        row.seeds, row.ours, row.ci = published.seeds, published.effects, published.ci
        return {}
    missing = [name for name, pairs in repairs.items() if not pairs or absent & {*names_of(pairs)}]
    row.repairs = {name: {"verdict": "not run"} for name in missing}
    return {PUBLISHED: published} | {name: rules.order(row, pairs, wide, **size)
                                     for name, pairs in repairs.items() if name not in missing}


def _all_arms(test: Test, runs: pd.DataFrame) -> pd.DataFrame:
    """The metric of every arm with the settings of a test, a column an arm and a row a seed."""
    arms = runs[runs.experiment.isin(_listed(test.experiment))].arm.unique()
    return compute({arm: Column(arm=arm).within(test) for arm in arms}, runs)[0].dropna()


def compute(columns: dict[str, Column | float | str],
          runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is compared, a column a name and a row a seed, and the runs that it comes from."""
    wide, keys = {}, set()
    for name, column in columns.items():
        if isinstance(column, Column):
            rows = choose(name, column, runs)
            keys |= set(rows.key)
            wide[name] = _figures(column, rows)
    wide = add_formulas(pd.DataFrame(wide), columns)
    return wide.sort_index(), runs[runs.key.isin(keys)].drop_duplicates("key")


def add_formulas(wide: pd.DataFrame, columns: dict[str, Column | float | str]) -> pd.DataFrame:
    """Add the columns that are formulas over others, or numbers."""
    for name, formula in columns.items():
        if not isinstance(formula, Column):
            wide[name] = wide.eval(formula) if isinstance(formula, str) else formula
    return wide


def choose(name: str, column: Column, runs: pd.DataFrame) -> pd.DataFrame:
    """A column's runs. Raises UsageError on a metric that none of them has, and on several runs of
    a seed."""
    rows = runs
    for field, values in column.choices().items():
        rows = rows[rows[field].isin(values)]
    rows = rows.drop_duplicates("key").sort_values("key")
    wanted = [part for metric in _listed(column.metric) for part in names_in(metric)]
    if any(part not in rows or rows[part].dtype == object or rows[part].isna().all()
           for part in wanted) and len(rows):
        figures = rows.select_dtypes("number").dropna(axis="columns", how="all")
        _known("metric", wanted, figures.columns)
    if rows.duplicated(["arm", "seed"]).any():
        raise UsageError(f"column {name!r} matches several records of one seed; narrow its `where`")
    return rows


def _figures(column: Column, rows: pd.DataFrame) -> pd.Series:
    """A column's figures by seed."""
    if rows.empty:
        return pd.Series(dtype=float)
    if column.over:
        formulas = [metric for metric in _listed(column.metric) if metric not in rows]
        rows = rows.assign(**{formula: rows.eval(formula) for formula in formulas})
        return stats.over_arms(rows, column.statistic, column.metric, len(column.over))
    by_seed = rows.set_index("seed")  # `eval` takes ten times as long, and few metrics are formulas
    return by_seed[column.metric] if column.metric in by_seed else by_seed.eval(column.metric)
