"""Put the records of other stores into one: what shards and other machines have made. Nothing that
is recorded is replaced."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqlib import plan
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.store import RECORD, Store, examine, studies_in
from seqlib.verify import differences

OUTCOMES = ("new", "same", "differs", "refused")


def merge(folders: Sequence[Path], into: Store | None = None) -> list[dict[str, Any]]:
    """Copy the records below `folders`, STUDY/KEY.json, into a store: a row a record with its path,
    its outcome, and why.

    into: by default the archive, which takes the runs that a plan names. new: it was not there.
    same: it was, with the same numbers, timings apart. differs: with others, which `figures` has in
    pairs (there, here); what was there stays. refused: it is damaged or misplaced, a sweep trains
    it now, or no plan names it. Raises UsageError on a folder without records, before any is
    copied."""
    found = {folder: sorted(folder.glob(f"*/{RECORD}")) for folder in folders}
    for folder, paths in found.items():
        if not paths:
            raise UsageError(f"{folder} has no records; name a folder with STUDY/KEY.json in it")
    planned = None if into else {name: plan.recorded(name) for name in studies_in()}
    return [{"path": str(path), **_merge_one(path, into or Store.archive(), planned)}
            for paths in found.values() for path in paths]


def _merge_one(path: Path, into: Store, planned: dict[str, Any] | None) -> dict[str, Any]:
    try:
        record = examine(path)
    except (SeqlibError, OSError) as error:
        return {"outcome": "refused", "why": str(error)}
    if not isinstance(record, Record):
        return {"outcome": "refused", "why": record}
    study = record.spec["study"]
    if planned is not None and record.key not in planned.get(study, ()):
        return {"outcome": "refused", "why": f"no plan of {study} names this run; name a folder "
                                             "for it by --into"}
    with into.lock(record.key, wait=False) as held:
        if not held:
            return {"outcome": "refused", "why": "a sweep trains this run now; merge again later"}
        try:
            there = into.by_key(study, record.key)
        except SeqlibError as error:  # of another schema
            return {"outcome": "refused", "why": f"while {error}"}
        if there is None:
            into.put(record)
            return {"outcome": "new"}
    apart = {name: (b, a) for name, (a, b) in differences(record, there).items()}
    apart |= differences(there, record)
    if not apart:
        return {"outcome": "same"}
    figures = ", ".join(f"{name} ({a} there, {b} here)" for name, (a, b) in apart.items())
    return {"outcome": "differs", "there": str(into.path(study, record.key)), "figures": apart,
            "why": f"from {into.path(study, record.key)}, which stays: {figures}"}
