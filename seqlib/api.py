"""The researcher's functions, which stand at the top of the package (`seqlib.load` and so on):
archived and live runs as tidy frames, trainings, paired comparisons and verdicts."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from seqlib import frames, plan, stats
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError, nearest
from seqlib.store import Store

if TYPE_CHECKING:
    from distributed import Client


def load(study: str, experiment: str | Iterable[str] | None = None) -> pd.DataFrame:
    """The archived runs of a study as a tidy frame: a row a run, its settings and metrics as
    columns.

    experiment: a name out of the study's plan.yaml, several, or "all"; without one, all with a
    warning. The column `experiment` says where a run belongs (one of two experiments has two rows):
    group by it before you average, or settings are mixed. Raises UsageError on an unknown study
    or experiment. An archive without such runs gives an empty frame.

    >>> runs = seqlib.load("airline", "published")
    >>> len(runs), float(runs[runs.arm == "lstm"].test_mae.mean().round(1))
    (150, 65.1)
    """
    names = frames.chosen(study, experiment)
    if experiment is None and len(names) > 1:
        warnings.warn(f"the frame has {len(names)} experiments of {study} with other settings: "
                      f"name one ({', '.join(names[:3])}, ...), or \"all\" and group by "
                      "`experiment`", stacklevel=2)
    return frames.frame(study, frames.archived(study, names), plan.archived(study, names))


def curves(study: str, name: str, experiment: str | Iterable[str] | None = None,
           runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One curve of every run as a long frame: experiment, arm, label, seed, key, x (from 0), value.

    name: such as "train_loss"; `runs`, a frame of `load` or `train`, takes the curves of just these
    runs, of a live store too. Raises UsageError, with the names that there are, where no run has
    such a curve.

    >>> losses = seqlib.curves("airline", "val_loss", "published")
    >>> list(losses.columns)
    ['experiment', 'arm', 'label', 'seed', 'key', 'x', 'value']
    """
    if runs is not None and experiment is not None:
        raise UsageError("curves: wants an experiment or a frame `runs`, not both")
    if runs is None:
        names = frames.chosen(study, experiment)
        members = plan.archived(study, names)
        records = frames.stored(study, members, Store.archive())
    else:
        _check_frame(runs, "key", "experiment", "live")
        members = runs.groupby("key", sort=False).experiment.unique().to_dict()
        keys = runs[["key", "live"]].drop_duplicates("key")  # where both stores have a run, `live`
        records = [(Store.live() if live else Store.archive()).by_key(study, key)
                   for key, live in keys.itertuples(index=False)]
        missing = records.count(None)
        if missing == len(keys) > 0:
            raise UsageError(f"no run of this frame is one of {study}")
        if missing:
            raise UsageError(f"{missing} of {len(keys)} runs of this frame have no record in the "
                             f"stores of {study}")
    known = sorted({curve for record in records for curve in record.curves})
    if records and name not in known:
        raise nearest(f"curve of {study}", name, known)
    return frames.curve_frame(study, records, name, members)


def _check_frame(runs: Any, *columns: str) -> None:
    """Raises UsageError on what is no frame of runs, or lacks one of these columns."""
    if not isinstance(runs, pd.DataFrame):
        raise UsageError(f"wants a frame as seqlib.load gives it, got {type(runs).__name__}")
    for column in columns:
        if column not in runs.columns:
            raise nearest("column", column, runs.columns)


def train(study: str, /, experiment: str = "live", workers: int = 1,
          client: "Client | None" = None, **settings: Any) -> pd.DataFrame:
    """Train what has no current record in the scratch store yet; returns the runs as `load` does.

    settings: fields of the study's spec, a value or a list of values to run each of; `seed=3` means
    the seeds 0 to 2. What is not named is as in the plan's experiment. The archive is not written;
    the bar's time left is what runs there and in the scratch store took, where some are alike. The
    frame's `attrs["trained"]` says how many runs were trained now. workers: processes here. client:
    `distributed.Client(...)` of a Dask cluster that trains instead; records come back, weights stay
    on its workers. Raises UsageError on an unknown field, an unknown arm or a value that is not
    allowed.

    >>> live = seqlib.train("airline", arm=["lstm", "rope"], seed=2, epochs=3)
    >>> len(live)
    4
    """
    from seqlib.sweep import sweep

    specs, new = plan.overridden(study, experiment, settings), []
    records = sweep(specs, Store.live(), workers=workers, trained=new, redo_older=True,
                    client=client)
    runs = frames.frame(study, records, {record.key: [experiment] for record in records}, live=True)
    runs.attrs["trained"] = len({record.key for record in new})
    runs.attrs["machine"] = records[0].provenance["machine"] if records else {}
    return runs


@dataclass(frozen=True)
class Effect:
    """By how much A exceeds B over paired seeds.

    mean, low, high: the mean difference A - B with its 95% interval. p: two-sided sign-flip test.
    n: pairs. better: the probability that a run of A has the lower value. verdict: "A is lower",
    "A is higher" or "no clear difference"; with fewer than six pairs "too few seeds", since no
    two-sided sign-flip test can then reach p < 0.05."""

    a: str
    b: str
    metric: str
    mean: float
    low: float
    high: float
    p: float
    n: int
    better: float
    verdict: str

    def text(self, digits: int = 1, sign: int = 1, scale: float = 1) -> str:
        """`mean [low, high]`, for a sentence; `sign` -1 turns it round, `scale` is of the unit."""
        low, high = sorted((sign * scale * self.low, sign * scale * self.high))
        mean = f"{sign * scale * self.mean:.{digits}f}"
        return mean if np.isnan(low) else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"

    @property
    def interval(self) -> str:
        return f"[{self.low:.3g}, {self.high:.3g}]"


def compare(runs: pd.DataFrame, metric: str, a: str, b: str, by: str = "label") -> Effect:
    """The paired effect of A over B in a frame of runs: A less B, seed by seed.

    a, b: two values of column `by`. The frame has to hold one run a seed of each. p is not adjusted
    for other comparisons. Raises UsageError on an unknown metric, on a name that no run has, on
    runs of two devices, and where a seed has several runs.

    >>> runs = seqlib.load("airline", "published")
    >>> effect = seqlib.compare(runs, "test_mae", "rope", "lstm")
    >>> effect.n, effect.verdict
    (30, 'rope is lower')
    """
    _check_frame(runs, "seed", by)
    for name in (metric, a, b):
        if not isinstance(name, str):
            raise UsageError("compare: wants the names of a metric and of two values of "
                             f"`{by}`, got {short(name)}")
    numbers = runs.select_dtypes("number").columns.drop("seed", errors="ignore")
    if len(runs) and (metric not in runs.columns or metric == "seed"):
        raise nearest("metric", metric, numbers)
    sides = [_by_seed(runs, metric, by, name) for name in (a, b)]
    try:
        pairs = pd.concat(sides, axis=1, keys=["a", "b"]).dropna().astype(float)
    except ValueError:  # a text
        raise nearest("metric", metric, numbers) from None
    if pairs.empty:
        unknown = dict.fromkeys(("mean", "low", "high", "p", "better"), float("nan"))
        return Effect(a, b, metric, n=0, verdict="no pairs", **unknown)
    if np.isinf(pairs.to_numpy()).any():
        seeds = pairs.index[np.isinf(pairs).any(axis=1)].tolist()
        raise UsageError(f"compare: {metric} is infinite for the seeds {short(seeds)}; leave them "
                         "out")
    _check_settings(runs, by, (a, b))
    difference = (pairs.a - pairs.b).to_numpy()
    mean, p = float(difference.mean()), stats.sign_flip_p(difference)
    low, high = stats.mean_interval(difference)
    if len(pairs) < stats.MINIMUM:
        verdict = "too few seeds"
    elif p >= 0.05:
        verdict = "no clear difference"
    else:
        verdict = f"{a} is {'lower' if mean < 0 else 'higher'}"
    return Effect(a, b, metric, mean=mean, low=low, high=high, p=p, n=len(pairs),
                  better=stats.improvement_probability(pairs.a, pairs.b), verdict=verdict)


def _check_settings(runs: pd.DataFrame, by: str, names: tuple[str, str]) -> None:
    """Warn where a live run is set against an archived one that trained for longer or shorter.
    Raises UsageError on runs of two devices."""
    sides = [runs[runs[by] == name] for name in names]
    if "device" in runs and len(used := sorted({*sides[0].device, *sides[1].device})) > 1:
        raise UsageError(f"compare: {names[0]} and {names[1]} were trained on different devices "
                         f"({' and '.join(used)}), whose figures do not compare; train both on one")
    if "live" not in runs or set(sides[0].live) == set(sides[1].live):
        return
    for length in {"epochs", "steps", "epoch_steps", "examples"} & set(runs.columns):
        here, there = (sorted(side[length].dropna().unique().tolist()) for side in sides)
        if here != there:
            warnings.warn(f"{names[0]} and {names[1]} differ in {length} as well: {here} and "
                          f"{there}", stacklevel=3)


def _by_seed(runs: pd.DataFrame, metric: str, by: str, name: str) -> pd.Series:
    """The metric of the runs whose column `by` is `name`, by seed. Raises UsageError without such
    runs, and where a seed has several."""
    if runs.empty:
        return pd.Series(dtype=float)
    side = runs[runs[by] == name]
    if side.empty:
        raise nearest(by, name, sorted(map(str, runs[by].unique())))
    if side.duplicated("seed").any():
        columns = side.drop(columns=["seed", metric, "key"], errors="ignore").astype(str)
        differing = [column for column in columns if columns[column].nunique() > 1]
        raise UsageError(f"{name!r} has several runs of one seed, which differ in "
                         f"{', '.join(differing[:4]) or 'nothing'}; choose one experiment, or "
                         "filter the frame")
    return side.set_index("seed")[metric]


def verdicts(study: str | None = None) -> pd.DataFrame:
    """The verdict on every claim of a study, or of all: a row a claim, by its id.

    Columns as in `seqlib claims --json`: study, kind, says, verdict, seeds, ours, ci, p, p_holm,
    reason, and others. Raises UsageError on an unknown study.

    >>> seqlib.verdicts("airline").loc["A01", "verdict"]
    'reproduced'
    """
    from seqlib import ledger

    rows = ledger.rows(None if study is None else [study])
    return pd.DataFrame(rows, columns=ledger.COLUMNS).set_index("id", drop=False)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean, for seaborn's `errorbar=seqlib.interval`; of fewer than six values,
    which no interval is made of, the mean itself."""
    values = np.asarray(values, float)
    if not len(values):
        return float("nan"), float("nan")
    low, high = stats.mean_interval(values)
    return (float(values.mean()), float(values.mean())) if np.isnan(low) else (low, high)


def build(study: str, /, **settings: Any):
    """A fresh model of an arm as its runs start from it.

    `seqlib.build("shakespeare", arm="lstm", seed=3)`. Raises UsageError on an unknown arm or
    setting, SeqlibError where a study builds its models inside its runs."""
    kind = studies.get(study)
    spec = plan.one(kind, {"seed": 0, **settings})
    if kind.build is None:
        raise SeqlibError(f"the study {study} has no build function; see seqlib/studies/{study}")
    return studies.initial(lambda: kind.build(spec), spec.seed)
