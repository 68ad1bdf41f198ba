"""Records as tidy frames: a row a run, its settings and metrics as columns."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from seqlib import index, plan
from seqlib import study as studies
from seqlib.errors import UsageError
from seqlib.places import cached_by
from seqlib.record import Record
from seqlib.store import Store


def chosen(study: str, experiment: str | Iterable[str] | None) -> list[str]:
    """Experiments by name, all that were trained on the processor where none or "all" is named.

    Raises UsageError on an unknown study or experiment, and on one that is not archived."""
    known = plan.of_archive(study)
    if experiment in (None, "all"):
        return known
    several = isinstance(experiment, Iterable) and not isinstance(experiment, str)
    names = list(experiment) if several else [experiment]
    for name in names:
        if name not in [*known, *plan.elsewhere(study)]:
            plan.specs(study, name)  # raises on an unknown one
            raise UsageError(f"experiment {name!r} of {study} is not archived; train it with "
                             f"seqlib.train({study!r}, {name!r})")
    return list(dict.fromkeys(names))


def archived(study: str, experiment: str | Iterable[str] | None = None) -> list[Record]:
    """The archive's planned records of a study without their curves, in the order of the plan.

    Raises UsageError on an unknown study or experiment."""
    return index.heads(Store.archive(), study, plan.archived(study, chosen(study, experiment)))


def made_of(study: str) -> tuple[Path, ...]:
    """What a study's figures come from: claims, plan, archive."""
    folder, records = studies.folder(study), Store.archive().root.resolve() / study
    return folder / "claims.yaml", folder / "plan.yaml", records


@cached_by(made_of)
def archive(study: str) -> pd.DataFrame:
    """The whole archive of a study. Raises UsageError on an unknown study."""
    return frame(study, archived(study), plan.archived(study))


def stored(study: str, keys: Iterable[str], store: Store) -> list[Record]:
    """The records of these keys that a store has, each out of its file."""
    return [record for key in keys if (record := store.by_key(study, key))]


def frame(study: str, records: Iterable[Record],
          experiments: Mapping[str, Iterable[str]] | None = None,
          live: bool = False) -> pd.DataFrame:
    """A row a record and experiment. Columns: experiment, the settings, label, the metrics, key,
    `current`, whether today's code would make it, and `live`, whether it is of the scratch store.

    experiments: those of each key, none by default. An empty frame has the settings' columns."""
    kind = studies.get(study)
    unset = {name: field.default for name, field in kind.spec.model_fields.items()}
    rows, current = [], {}
    for record in records:
        made_by = record.spec["arm"], record.provenance.get("code_hash", "")
        if made_by not in current:
            current[made_by] = kind.current(record)
        run = {**unset, **record.spec, "label": kind.label(record.spec), **record.metrics,
               "key": record.key, "current": current[made_by], "live": live}
        for name in (experiments or {}).get(record.key, [""]):
            rows.append({"experiment": name, **run})
    columns = ["experiment", *kind.spec.model_fields, "label", "key", "current", "live"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def curve_frame(study: str, records: Iterable[Record], name: str,
                experiments: Mapping[str, Iterable[str]] | None = None) -> pd.DataFrame:
    """A row a record, experiment and point of curve `name`: experiment, arm, label, seed, key,
    x (from 0), value."""
    kind = studies.get(study)
    rows = []
    for record in records:
        run = (record.spec["arm"], kind.label(record.spec), record.spec["seed"], record.key)
        for experiment in (experiments or {}).get(record.key, [""]):
            rows += [(experiment, *run, x, value)
                     for x, value in enumerate(record.curves.get(name, []))]
    return pd.DataFrame(rows, columns=["experiment", "arm", "label", "seed", "key", "x", "value"])
