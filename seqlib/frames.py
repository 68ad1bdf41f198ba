"""Records as tidy frames: a row a run, its settings and metrics as columns."""

from collections.abc import Iterable

import pandas as pd

from seqlib import plan
from seqlib import study as studies
from seqlib.errors import UsageError
from seqlib.record import Record
from seqlib.store import Store

ALWAYS = ("experiment", "label", "key", "current")


def archived(study: str, experiment: str | Iterable[str] | None = None) -> list[Record]:
    """The archive's planned records of a study, in the order of the plan. Raises UsageError on an unknown study or experiment."""
    wanted = [spec.key for name in chosen(study, experiment) for spec in plan.specs(study, name)]
    records = {record.key: record for record in _records(study)}
    return [records[key] for key in dict.fromkeys(wanted) if key in records]


def _records(study: str) -> tuple[Record, ...]:
    return tuple(Store.archive().records(study))


def chosen(study: str, experiment: str | Iterable[str] | None) -> list[str]:
    """Experiments by name, all of the archive where none is named."""
    known = [name for name in plan.experiments(study) if name not in plan.NOT_ARCHIVED]
    names = known if experiment is None else [experiment] if isinstance(experiment, str) else list(experiment)
    for name in names:
        if name not in known:
            plan.specs(study, name)  # raises on an unknown one
            raise UsageError(f"experiment {name!r} of {study} is not archived; train it with seqlib.train({study!r}, {name!r})")
    return names


def frame(study: str, records: Iterable[Record], experiments: dict[str, list[str]] | None = None) -> pd.DataFrame:
    """A row a record and experiment. Columns: experiment, the settings, label, the metrics, key, and whether today's code would
    make it. An empty frame has the settings' columns."""
    kind = studies.get(study)
    rows = []
    for record in records:
        common = {**record.spec, "label": kind.label(record.spec), **record.metrics, "key": record.key,
                  "current": kind.current(record)}
        for name in (experiments or {}).get(record.key, [""]):
            rows.append({"experiment": name, **common})
    settings = list(kind.spec.model_fields)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["experiment", *settings, "label", "key", "current"])


def curve_frame(study: str, records: Iterable[Record], name: str, experiments: dict[str, list[str]] | None = None) -> pd.DataFrame:
    """A row a record and point of curve `name`: experiment, arm, label, seed, key, x (from 0), value."""
    kind = studies.get(study)
    rows = [(experiment, record.spec["arm"], kind.label(record.spec), record.spec["seed"], record.key, x, value)
            for record in records for experiment in (experiments or {}).get(record.key, [""])
            for x, value in enumerate(record.curves.get(name, []))]
    return pd.DataFrame(rows, columns=["experiment", "arm", "label", "seed", "key", "x", "value"])
