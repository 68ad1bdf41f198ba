"""What the stores hold, by study: records, what runs now and where, what has failed, and how long
the rest will take."""

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from seqlib import logs, plan
from seqlib import study as studies
from seqlib.progress import Times, duration, settings
from seqlib.record import Record
from seqlib.store import Store, scratch

LISTED = 8  # failures of a study that are listed; JSON has all
LISTS = ("running", "failures", "seconds_left", "untold")  # not in the table


def rows() -> list[dict[str, Any]]:
    """A row a study and store. What only one of the stores has is empty in the other.

    running: runs that a process holds now, each with its name, where and since when. failures: each
    with its name, the last line of its error, and its log. seconds_left: what missing runs take one
    after another, None where no record tells of any of them; `untold` of them have none."""
    found, stores = [], {"archive": Store.archive(), "live": Store.live()}
    running = {label: store.running() for label, store in stores.items()}
    for name in studies.names():
        kind, planned = studies.get(name), plan.archived(name)
        underway = plan.archived(name, plan.underway(name))
        records = {label: list(store.records(name)) for label, store in stores.items()}
        failures = _failures(name)
        for label, store in stores.items():
            archive, keys = label == "archive", {record.key for record in records[label]}
            left = (planned.keys() | underway.keys()) - keys
            seconds, untold = _left(name, left, [*records["archive"], *records["live"]])
            found.append({
                "study": name, "store": label, "records": len(keys),
                "missing": len(planned.keys() - keys) if archive else "",
                "underway": len(underway.keys() - keys) if archive else "",
                "unplanned": len(keys - plan.recorded(name).keys()) if archive else "",
                "older_code": sum(not kind.current(record) for record in records[label]),
                "failed": "" if archive else len(failures),
                "damaged": len(list((store.root / name).glob("*.damaged"))),
                "path": str(store.root / name),
                "running": [run for run in running[label] if run["run"].startswith(f"{name}/")],
                "failures": [] if archive else failures,
                "seconds_left": seconds if archive else "", "untold": untold if archive else ""})
    return found


def _failures(name: str) -> list[dict[str, str]]:
    """The runs of a study that failed when they were last tried."""
    found = []
    for note in sorted((scratch() / "failed" / name).glob("*.json")):
        try:
            facts = json.loads(note.read_text(encoding="utf-8"))
            run, error = "{study}/{arm} seed {seed}".format(**facts["spec"]), facts["error"]
        except (OSError, ValueError, KeyError, TypeError):
            run, error = f"{name}/{note.stem}", f"its note {note} cannot be read"
        log, lines = logs.path(name, note.stem), error.strip().splitlines()
        found.append({"run": run, "error": lines[-1] if lines else "",
                      "log": str(log) if log.exists() else ""})
    return found


def _left(name: str, keys: set[str], records: Iterable[Record]) -> tuple[float | None, int]:
    """Seconds that planned runs take one after another, as like ones had them, and how many have
    none like them."""
    if not keys:
        return 0.0, 0
    times = Times()
    for record in records:
        times.add(record)
    chosen = [*plan.of_archive(name), *plan.underway(name)]
    specs = {spec.key: spec for one in chosen for spec in plan.specs(name, one)}
    each = [times.of(settings(specs[key])) for key in keys]
    told = [seconds for seconds in each if seconds is not None]
    return round(sum(told), 1) if told else None, len(each) - len(told)


def text(found: list[dict[str, Any]]) -> str:
    """Short lists for people, to stand below the table; empty where there is nothing to say."""
    lists: dict[str, list[str]] = {"running": [], "failed": [], "left": []}
    for row in found:
        lists["running"] += _running(row["running"])
        lists["failed"] += [f"{one['run']}: {one['error']}"
                            + f" (log: {one['log']})" * bool(one["log"])
                            for one in row["failures"][:LISTED]]
        if len(row["failures"]) > LISTED:
            lists["failed"].append(f"{row['study']}: {len(row['failures']) - LISTED} more; --json "
                                   "lists all")
        if row["store"] == "archive" and (runs := row["missing"] + row["underway"]):
            seconds, untold = row["seconds_left"], row["untold"]
            how = "time unknown" if seconds is None else (
                f"{duration(seconds)} one after another" if not untold else
                f"{duration(seconds)} for {runs - untold} of them, unknown for {untold}")
            lists["left"].append(f"{row['study']}: {runs} runs, {how}")
    parts = ["\n  ".join([f"{title}:", *lines]) for title, lines in lists.items() if lines]
    return "\n".join(parts)


def _running(runs: list[dict[str, str]]) -> list[str]:
    """A line for all seeds of an arm that a process took at once."""
    def together(run: dict[str, str]) -> tuple[str, str, str]:
        return run["run"].rpartition(" seed ")[0], run["where"], run["since"]

    lines = []
    for (arm, where, since), group in groupby(sorted(runs, key=together), together):
        seeds = sorted(int(run["run"].rpartition(" ")[2]) for run in group)
        last = f" to {seeds[-1]}" if len(seeds) > 1 else ""
        lines.append(f"{arm} seed {seeds[0]}{last}: {where}, since {since}")
    return lines
