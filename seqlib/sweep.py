"""Run what has no record yet, through any `concurrent.futures.Executor`, and write each record as
it finishes.

A run that fails is noted in scratch, in `failed/STUDY/KEY.json`, and the others go on.
"""

import json
import logging
import platform
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqlib import data, logs
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.processes import (
    allow_open_files,
    check_main,
    cores,
    end_worker_that_imports,
    limit_threads,
)
from seqlib.progress import Bar, Times, duration, settings, took
from seqlib.record import Record, Spec
from seqlib.store import Store, scratch, write_atomically
from seqlib.study import Failure, title

if TYPE_CHECKING:
    from distributed import Client


log = logging.getLogger("seqlib")
REFRESH = 10.0  # seconds after which the bar counts the time left anew, though no run has ended
AT_ONCE = 1024  # runs under way at most; each holds its lock, which is an open file
_one_at_a_time = threading.RLock()  # a process has one generator of random numbers, and one clock


class RunsFailed(SeqlibError):
    """What has failed when all other runs are done, a line a run."""

    def __init__(self, failures: list[Failure]):
        self.failures, lines = failures, [failure.error for failure in failures]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} runs failed; what is finished is kept:")
        super().__init__("\n  ".join(lines))


class InProcess(Executor):
    """Runs a call where it is submitted: it has all threads, and an error shows at once."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_group(specs: Sequence[Spec], arms: Mapping[str, Any] | None = None,
              code: str | None = None) -> list:
    """Train one group; the function that an executor runs. Records, and what failed.

    arms: what the arms of the runs are in the process that asks. code: the fingerprint there of the
    code that trains them. Raises UsageError where this process has other code."""
    kind = studies.get(specs[0].study)
    kind.arms.update(arms or {})
    if code and code != kind.fingerprint(specs[0].arm):
        raise UsageError(f"{platform.node()} has other code of {kind.name}/{specs[0].arm} than the "
                         "machine that sweeps; install the same seqlib and Python on both")
    with _one_at_a_time:
        before = sys.getswitchinterval()
        # stacks train in threads of short operations: Python's 5 ms would let them wait
        sys.setswitchinterval(1e-4)
        try:
            return kind.outcomes(list(specs))
        finally:
            sys.setswitchinterval(before)


def pool(workers: int) -> Executor:
    """In-process for one worker, else a pool of fresh processes that share the cores.

    Raises UsageError on what is no number of processes."""
    if not isinstance(workers, int) or workers < 1:
        raise UsageError(f"workers is {workers!r}; name a number of processes, 1 or more")
    if workers == 1:
        return InProcess()
    check_main()
    threads = max(1, cores() // workers)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"),
                               initializer=limit_threads, initargs=(threads,))


def sweep(specs: Sequence[Spec], store: Store, executor: Executor | None = None, workers: int = 1,
          quiet: bool = False, trained: list[Record] | None = None,
          redo_older: bool = False, fail_fast: bool = False,
          client: "Client | None" = None) -> list[Record]:
    """Records of all `specs` from `store`, after running those that are missing; these are added to
    `trained` as well. With `redo_older`, a record that other code made counts as missing, and is
    replaced once its run has finished.

    Locks are one a spec: two sweeps on one store share the work, and a run that another process
    holds is waited for, not done twice. Killing a sweep loses the runs in flight at most. Raises
    SeqlibError when a worker dies; RunsFailed, once all others are done, where runs have failed,
    with `fail_fast` at the first of them.

    client: of a Dask cluster whose workers train instead, and give the records back. A group is one
    task; that of a lost worker goes to another.
    """
    if not specs:
        return []
    end_worker_that_imports()
    allow_open_files(2 * AT_ONCE)
    study = studies.get(specs[0].study)
    counts = study.current if redo_older else lambda record: True
    known = {spec.key: _counted(store.get(spec), counts) for spec in specs}
    missing = [spec for spec in {s.key: s for s in specs}.values() if known[spec.key] is None]
    store.tidy(study.name)
    for name in study.data(missing):
        data.locate(name)
    groups, trained = study.groups(missing), [] if trained is None else trained
    ours = None
    if client is not None:
        ours, workers = client.get_executor(pure=False), AT_ONCE
    elif executor is None:
        ours = pool(workers)
    began, before = time.monotonic(), len(trained)
    try:
        with Bar(total=len(known), initial=len(known) - len(missing), desc=specs[0].study,
                 unit="run", disable=quiet or not missing) as bar:
            under_way = _Sweep(store, executor or ours, workers, bar, known, trained, counts,
                               fail_fast, {spec.key: (settings(spec), i) for i, group
                                           in enumerate(groups) for spec in group})
            shows = not bar.disable
            if shows:
                under_way.expect(missing, len(client.nthreads()) if client else workers)
            left = under_way.groups(groups, wait_for_locks=False)
            while left:
                left = under_way.groups(left, wait_for_locks=True)
        store.tidy(study.name)
    finally:
        if client is not None:
            ours.shutdown(wait=False)  # which cancels what is left
        elif ours:
            ours.shutdown(wait=False, cancel_futures=True)
    if missing and not shows and not quiet:
        log.info("%s: trained %d of %d runs in %s, found %d", study.name, len(trained) - before,
                 len(missing), duration(time.monotonic() - began), len(known) - len(missing))
    under_way.check()
    return [known[spec.key] for spec in specs]


def note_of(spec: Spec) -> Path:
    """Where it is noted that a run has failed."""
    return scratch() / "failed" / spec.study / f"{spec.key}.json"


def _counted(record: Record | None, counts: Callable[[Record], bool]) -> Record | None:
    """The record, unless it does not count."""
    return record if record is not None and counts(record) else None


@dataclass
class _Sweep:
    """One sweep under way; `known` maps each key to its record or None, `left` each that is
    to be trained to its settings and the number of its group."""

    store: Store
    executor: Executor
    workers: int
    bar: Bar
    known: dict[str, Record | None]
    trained: list[Record]
    counts: Callable[[Record], bool]
    fail_fast: bool
    left: dict[str, tuple[str, int]]
    failures: list[Failure] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    pace: tuple[float, float] = (0.0, 0.0)  # seconds of runs that ended here, and as expected
    at: float = 0.0  # when the last of them ended

    def expect(self, missing: list[Spec], at_once: int) -> None:
        """Let the bar say how long the rest takes, of which `at_once` groups go on at a time."""
        self.at = time.monotonic()
        for record in filter(None, self.known.values()):
            self.times.add(record)
        stores = {store.root: store for store in (Store.archive(), Store.live(), self.store)}
        self.times.look(missing, stores.values())

        def seconds_left() -> float | None:
            counts = Counter(alike for alike, _ in self.left.values())
            each = [(self.times.of(alike), runs) for alike, runs in counts.items()]
            if any(seconds is None for seconds, _ in each):
                return None
            here, expected = self.pace
            total = sum(seconds * runs for seconds, runs in each)
            total *= here / expected if expected else 1
            at_a_time = max(1, min(at_once, len({group for _, group in self.left.values()})))
            return max(0.0, total / at_a_time - (time.monotonic() - self.at))

        self.bar.seconds_left = seconds_left
        self.bar.refresh()

    def groups(self, groups: list[list[Spec]], wait_for_locks: bool) -> list[list[Spec]]:
        """Run `groups`, at most `workers` at once; returns the specs that another process holds.

        It waits for a lock while nothing of ours runs: two sweeps could wait for each other, and
        what is finished here would not be kept."""
        queue, held_elsewhere, running = list(groups), [], {}
        try:
            while queue or running:
                while (queue and len(running) < self.workers
                       and sum(len(mine) for mine, _ in running.values()) < AT_ONCE):
                    with ExitStack() as locks:  # let go of on any error, Ctrl-C in this process too
                        mine, busy = self.take(queue.pop(0), locks,
                                               wait_for_locks and not running)
                        held_elsewhere += [busy] if busy else []
                        if mine:
                            seeds = f"{mine[0].seed}" + f" to {mine[-1].seed}" * (len(mine) > 1)
                            self.bar.set_postfix_str(f"{mine[0].arm} seed {seeds}")
                            running[self.submit(mine)] = (mine, locks.pop_all())
                done = wait(running, REFRESH, FIRST_COMPLETED).done if running else ()
                if running and not done:
                    self.bar.refresh()
                for future in done:
                    mine, locks = running.pop(future)
                    with locks:
                        self.keep(self.result(future, mine))
                # a cluster trains again what a lost worker had and someone refers to
                future, done = None, ()
        finally:
            for _, locks in running.values():
                locks.close()
        return held_elsewhere

    def submit(self, specs: list[Spec]) -> Future:
        """Start a group; another process gets the arms as they are here."""
        if isinstance(self.executor, InProcess):
            return self.executor.submit(run_group, specs)
        kind = studies.get(specs[0].study)
        return self.executor.submit(run_group, specs, kind.sent(specs),
                                    kind.fingerprint(specs[0].arm))

    def take(self, specs: list[Spec], locks: ExitStack,
             wait: bool) -> tuple[list[Spec], list[Spec]]:
        """Lock `specs`: those that are ours to run, those that are held elsewhere."""
        mine, busy = [], []
        for spec in sorted(specs, key=lambda s: s.key):  # everyone in the same order: no deadlock
            held = locks.enter_context(self.store.lock(spec.key, wait, title(spec)))
            self.known[spec.key] = _counted(self.store.get(spec), self.counts) if held else None
            if not held:
                busy.append(spec)
            elif self.known[spec.key] is None:
                mine.append(spec)
            else:
                self.left.pop(spec.key, None)
                self.bar.update()  # another sweep finished it since we looked
        return sorted(mine, key=lambda s: s.seed), busy

    def keep(self, outcomes: list[tuple[Spec, Record | Failure]]) -> None:
        self.at = time.monotonic()
        for spec, one in outcomes:
            self.left.pop(spec.key, None)
            if isinstance(one, Failure):
                self.failures.append(one)
                facts = {"spec": spec.model_dump(mode="json"), "error": one.error,
                         "when": datetime.now().isoformat(timespec="seconds"),
                         "traceback": traceback.format_exception(one.cause) if one.cause else []}
                logs.close(spec, one.error)
                write_atomically(note_of(spec), json.dumps(facts, indent=1).encode())
            else:
                self.store.put(one)
                self.known[one.key] = one
                self.trained.append(one)
                self.learn(spec, one)
                note_of(spec).unlink(missing_ok=True)
            self.bar.update()
        if self.fail_fast:
            self.check()

    def learn(self, spec: Spec, record: Record) -> None:
        """Let a run that has ended tell how long those like it take, and how fast we are here."""
        expected, here = self.times.of(settings(spec)), took(record)
        if expected is None:
            self.times.add(record)
        elif here is not None:
            self.pace = self.pace[0] + here, self.pace[1] + expected

    def check(self) -> None:
        """Raises RunsFailed where runs have failed."""
        if self.failures:
            causes = (failure.cause for failure in self.failures)
            raise RunsFailed(self.failures) from next(filter(None, causes), None)

    def result(self, future: Future, specs: list[Spec]) -> list[tuple[Spec, Record | Failure]]:
        """What became of each run. Raises UsageError on settings that no run can have, and
        SeqlibError where a worker has died, which ends the pool."""
        try:
            return list(zip(specs, future.result(), strict=True))
        except BrokenProcessPool as error:
            run = f"{specs[0].study}/{specs[0].arm}"
            raise SeqlibError(f"a worker process died while training {run} (killed, or out of "
                              "memory); finished records are kept: run the same command again to "
                              "resume") from error
        except CancelledError as error:
            raise SeqlibError("the cluster's scheduler is lost; finished records are kept: run the "
                              "same command again to resume") from error
        except UsageError:
            raise
        except Exception as error:
            return [(spec, Failure(spec, _said(error, spec), error)) for spec in specs]


def _said(error: Exception, spec: Spec) -> str:
    """An error that stopped a run, as one line; one that nobody expected with where to look."""
    if isinstance(error, SeqlibError):
        return str(error)
    return (f"{title(spec)}: {type(error).__name__}: {first_line(error)} (its traceback is in "
            f"{note_of(spec)})")
