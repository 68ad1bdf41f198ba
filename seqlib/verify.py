"""Train archived runs again with today's code and say how far apart the figures are; accept a
change of code by evidence.

A change of code is judged on one machine, old code (from its commit, in a worktree) against new:
where at least one run of every arm agrees to the bit, `accept` writes old fingerprint -> new
fingerprint with that evidence (see `seqlib.accepted`).
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqlib import accepted, plan
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError, nearest
from seqlib.record import Record, Spec
from seqlib.store import ROOT, Store, scratch, write_atomically

VERIFIED = "verified.json"
OUTCOMES = ("to the bit", "as older code here", "to rounding", "off")
TIMED = ("seconds", "_mb", "tokens_per_second", "busy_share")  # ends of names: no two runs share it
TRAIN = """
import json, sys
from seqlib import study
if __name__ == "__main__":
    kind = study.get(sys.argv[1])
    for group in json.loads(sys.stdin.read()):
        if group[0]["arm"] not in kind.arms:
            continue  # the arm is younger than this code
        specs = [kind.spec(**spec) for spec in group]
        for record in (kind.train if hasattr(kind, "train") else kind.run)(specs):
            print("LINE " + record.model_dump_json(), flush=True)
"""
CODES = """
import json, sys
from seqlib import study
from seqlib.store import Store
kind = study.get(sys.argv[1])
current = [r for r in Store.archive().records(sys.argv[1]) if kind.current(r)]
print("LINE " + json.dumps(sorted({(r.spec["arm"], r.provenance["code_hash"]) for r in current})))
"""


def is_timed(metric: str) -> bool:
    """Whether a metric is of what a run took, which no two runs share."""
    return metric.endswith(TIMED)


def differences(old: Record, new: Record, curves: bool = True) -> dict[str, tuple[Any, Any]]:
    """Figures, timings apart, in which two records differ: metrics by name, `curves` by name with
    their first differing point."""
    found = {}
    for name, value in sorted(old.metrics.items()):
        if not is_timed(name) and value != new.metrics.get(name):
            found[name] = (value, new.metrics.get(name))
    for name, values in old.curves.items() if curves else ():
        if "seconds" not in name and values != new.curves.get(name):
            points = zip(values, new.curves.get(name, []))
            found[f"curve {name}"] = next(((a, b) for a, b in points if a != b), (None, None))
    return found


def relative(pair: tuple[Any, Any]) -> float:
    """How far apart two figures are, as a share of the larger."""
    a, b = pair
    if not all(isinstance(x, (int, float)) for x in pair):
        return math.inf if a != b else 0.0
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def sample(name: str, arms: Iterable[str] | None, number: int,
           experiment: str | None = None) -> list[Spec]:
    """The `number` cheapest archived runs of every arm, those under this version of torch first, or
    all runs of an experiment.

    Raises UsageError on an unknown study, arm or experiment, and where there is no such run."""
    kind = studies.get(name)
    for arm in arms or ():
        if arm not in kind.arms:
            raise nearest(f"arm of {name}", arm, kind.arms)
    if experiment:
        chosen = plan.specs(name, experiment)
    else:
        planned, by_arm, torch = plan.archived(name), {}, version("torch")
        for record in Store.archive().records(name):
            if record.key in planned:
                made, seed = record.provenance, record.spec["seed"]
                other = made.get("versions", {}).get("torch") != torch
                cost = (other, made.get("wall_seconds", 0.0), seed, record.key)
                by_arm.setdefault(record.spec["arm"], []).append((cost, record.spec))
        chosen = [kind.spec(**spec) for runs in by_arm.values()
                  for _, spec in sorted(runs, key=lambda run: run[0])[:number]]
    chosen = [spec for spec in chosen if arms is None or spec.arm in arms]
    if not chosen:
        raise UsageError(f"{experiment or 'the archive'} has no such run of {name} to train again")
    return chosen


def _trained(name: str, specs: list[Spec]) -> Iterator[tuple[Spec, Record]]:
    """Runs with the records that today's code makes of them."""
    kind = studies.get(name)
    for group in kind.groups(specs):
        yield from zip(group, kind.train(group))


def check(name: str, specs: list[Spec], commit: str = "") -> list[dict[str, Any]]:
    """Train runs again; a row a run: how many metrics agree to the bit, the largest relative
    difference, its metric.

    commit: older code that trains them here as well. How far that is from the record is what
    another machine does, and today's code is judged by it."""
    rows = []
    older = old_records(name, studies.get(name).groups(specs), commit) if commit else {}
    for spec, new in _trained(name, specs):
        record = Store.archive().get(spec)
        if record is None:
            continue
        apart, by_machine = differences(record, new, curves=False), {}
        if spec.key in older:
            by_machine = differences(record, older[spec.key], curves=False)
        worst = max(apart, key=lambda metric: relative(apart[metric]), default="")
        recorded, now = apart.get(worst, (None, None))
        row = {"arm": spec.arm, "seed": spec.seed, "key": spec.key[:12],
               "metrics": sum(not is_timed(metric) for metric in record.metrics),
               "differ": len(apart), "largest": relative(apart[worst]) if worst else 0.0,
               "metric": worst, "recorded": recorded, "now": now}
        if commit:
            row["older_code_here"] = max(map(relative, by_machine.values()), default=0.0)
        rows.append(row | {"outcome": outcome(apart, by_machine)})
    return rows


def outcome(apart: dict[str, tuple[Any, Any]], by_machine: dict[str, tuple[Any, Any]]) -> str:
    """Of a run trained again: equal to the record to the bit; to what older code makes here; equal
    but for rounding (a thousandth); or off."""
    if not apart:
        return "to the bit"
    if apart == by_machine:
        return "as older code here"
    return "to rounding" if max(map(relative, apart.values())) < 1e-3 else "off"


def commit_of(name: str) -> str:
    """A commit's full name. Raises UsageError where the project has no such commit."""
    done = _git("rev-parse", "--verify", f"{name}^{{commit}}")
    if done.returncode:
        raise UsageError(f"--against {name}: no such commit in {ROOT}")
    return done.stdout.strip()


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The project as it was at a commit, in a new folder. Raises UsageError without the commit."""
    with tempfile.TemporaryDirectory(prefix="seqlib-") as folder:
        path = Path(folder) / "old"
        done = _git("worktree", "add", "--detach", "-q", str(path), commit)
        if done.returncode:
            raise UsageError(f"--against {commit}: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def in_worktree(folder: Path, program: str, name: str, text: str = "") -> Iterator[str]:
    """Lines that a small program prints, run with the package of a worktree.

    Raises SeqlibError with its last line of error."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "SEQLIB_RUNS": str(folder / ".runs"),
                   "SEQLIB_RESULTS": str(Store.archive().root.resolve())}
    path = folder / "verify_with_old_code.py"  # a file: some studies start processes that import it
    path.write_text(program)
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as errors:
        given.write(text)
        given.seek(0)
        process = subprocess.Popen([sys.executable, str(path), name], cwd=folder, env=environment,
                                   stdin=given, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            for line in process.stdout:
                if line.startswith("LINE "):
                    yield line.removeprefix("LINE ")
        finally:
            if process.poll() is None:
                process.terminate()
            code = process.wait()
        errors.seek(0)
        last = [line for line in errors.read().splitlines() if line.strip()][-1:]
    if code:
        raise SeqlibError(f"{name}: the older code does not run here: {''.join(last)}")


def old_records(name: str, groups: list[list[Spec]], commit: str) -> dict[str, Record]:
    """Records that the code of a commit makes here, by key; kept in scratch, so that an interrupted
    comparison goes on. Raises SeqlibError where that code cannot make them."""
    kept = Store(scratch() / "verify" / commit[:12])
    found = {record.key: record for group in groups for record in map(kept.get, group) if record}
    missing = [group for group in groups if not all(spec.key in found for spec in group)]
    if missing:
        text = json.dumps([[spec.model_dump(mode="json") for spec in group] for group in missing])
        with worktree(commit) as folder:
            for line in in_worktree(folder, TRAIN, name, text):
                record = Record.model_validate_json(line)
                kept.put(record)
                found[record.key] = record
    return found


def compare_code(name: str, specs: list[Spec], commit: str) -> list[dict[str, Any]]:
    """Runs trained here by the code of a commit and by today's; a row a run with what differs. Arms
    that the commit has not are left out."""
    rows = []
    old = old_records(name, studies.get(name).groups(specs), commit)
    if not old:
        raise UsageError(f"--against {commit}: {name} had none of these arms then; name another "
                         "commit")
    known = {record.spec["arm"] for record in old.values()}
    for spec, new in _trained(name, [spec for spec in specs if spec.arm in known]):
        if spec.key not in old:
            raise SeqlibError(f"{name}/{spec.arm}: a run has other settings at {commit}")
        apart = differences(old[spec.key], new)
        rows.append({"arm": spec.arm, "seed": spec.seed, "key": spec.key, "differ": sorted(apart),
                     "code": old[spec.key].provenance["code_hash"],
                     "outcome": "off" if apart else "to the bit"})
    return rows


def accept(name: str, rows: list[dict[str, Any]], commit: str,
           machine: dict[str, Any]) -> dict[str, int]:
    """Write old code -> today's code for every arm, with the rows of `compare_code` as evidence.

    Raises SeqlibError where a run differs."""
    for row in rows:
        if row["outcome"] != "to the bit":
            figures = ", ".join(row["differ"][:3])
            raise SeqlibError(f"{name}/{row['arm']} seed {row['seed']}: today's code differs from "
                              f"{commit} in {figures}; nothing was accepted. If the change is "
                              "meant, sweep the study again")
    kind, planned = studies.get(name), plan.archived(name)
    runs: dict[str, list[str]] = {}
    codes: dict[str, set[str]] = {}
    for row in sorted(rows, key=lambda row: row["arm"]):
        runs.setdefault(row["arm"], []).append(row["key"])
        codes.setdefault(row["arm"], set()).add(row["code"])
    with worktree(commit) as folder:  # what that code counted as current, by other fingerprints
        [line] = in_worktree(folder, CODES, name)
        for arm, code in json.loads(line):
            codes.setdefault(arm, set()).add(code)
    known = json.loads(json.dumps(accepted.entries(name)))  # a copy: the entries are cached
    number = len(known["evidence"])
    of = "archived runs" if all(row["key"] in planned for row in rows) else "short runs"
    known["evidence"].append({"date": date.today().isoformat(), "against": commit, "kind": "runs",
                              "machine": machine, "of": of, "runs": runs})
    for arm in runs:
        today = kind.fingerprint(arm)
        for old in sorted(codes[arm] - {today}):
            known["codes"].setdefault(old, {}).setdefault(arm, {})[today] = number
    write_atomically(accepted.path_of(name), json.dumps(known, indent=1).encode())
    return {"arms": len(runs), "runs": len(rows)}


def keep(name: str, rows: list[dict[str, Any]], machine: dict[str, Any], threads: int) -> Path:
    """Write the outcome of `check`, which the site shows, beside those of other processors, Pythons
    and numbers of threads; the last of each stays."""
    path = Store.archive().root / name / VERIFIED
    new = {"date": date.today().isoformat(), "machine": machine, "threads": threads, "runs": rows}

    def where(one: dict[str, Any]) -> tuple:
        return one["machine"]["cpu"], one["machine"]["python"], one["threads"]

    others = [one for one in kept(name) if where(one) != where(new)]
    text = json.dumps(sorted([*others, new], key=where), indent=1)
    write_atomically(path, (text + "\n").encode())
    return path


def kept(name: str) -> list[dict[str, Any]]:
    """What `keep` wrote of a study: date, machine, threads and runs of each."""
    path = Store.archive().root / name / VERIFIED
    return json.loads(path.read_text()) if path.exists() else []
