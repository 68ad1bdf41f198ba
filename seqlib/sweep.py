"""Run what has no record yet, through any `concurrent.futures.Executor`, and write each record as
it finishes."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context

from tqdm.auto import tqdm

from seqlib import data
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError
from seqlib.processes import cores, limit_threads
from seqlib.record import Record, Spec
from seqlib.store import Store


class InProcess(Executor):
    """Runs a call where it is submitted: it has all threads, and an error shows at once."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_group(specs: Sequence[Spec]) -> list[Record]:
    """Train one group; the function that an executor runs."""
    before = sys.getswitchinterval()
    # stacks train in threads of short operations: Python's 5 ms would let them wait
    sys.setswitchinterval(1e-4)
    try:
        return studies.get(specs[0].study).train(list(specs))
    finally:
        sys.setswitchinterval(before)


def pool(workers: int) -> Executor:
    """In-process for one worker, else a pool of fresh processes that share the cores.

    Raises UsageError on what is no number of processes."""
    if not isinstance(workers, int) or workers < 1:
        raise UsageError(f"workers is {workers!r}; name a number of processes, 1 or more")
    if workers == 1:
        return InProcess()
    threads = max(1, cores() // workers)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"),
                               initializer=limit_threads, initargs=(threads,))


def sweep(specs: Sequence[Spec], store: Store, executor: Executor | None = None, workers: int = 1,
          quiet: bool = False, trained: list[Record] | None = None,
          redo_older: bool = False) -> list[Record]:
    """Records of all `specs` from `store`, after running those that are missing; these are added to
    `trained` as well. With `redo_older`, a record that other code made counts as missing, and is
    replaced once its run has finished.

    Locks are one a spec: two sweeps on one store share the work, and a run that another process
    holds is waited for, not done twice. Killing a sweep loses the runs in flight at most. Raises
    SeqlibError when a worker dies."""
    if not specs:
        return []
    study = studies.get(specs[0].study)
    counts = study.current if redo_older else lambda record: True
    known = {spec.key: _counted(store.get(spec), counts) for spec in specs}
    missing = [spec for spec in {s.key: s for s in specs}.values() if known[spec.key] is None]
    for name in study.data(missing):
        data.locate(name)
    groups, trained = study.groups(missing), [] if trained is None else trained
    ours = pool(workers) if executor is None else None
    try:
        with tqdm(total=len(specs), initial=len(specs) - len(missing), desc=specs[0].study,
                  unit="run", disable=quiet or not missing) as bar:
            under_way = _Sweep(store, executor or ours, workers, bar, known, trained, counts)
            held_elsewhere = under_way.groups(groups, wait_for_locks=False)
            under_way.groups(held_elsewhere, wait_for_locks=True)
    finally:
        if ours:
            ours.shutdown(wait=False, cancel_futures=True)
    return [known[spec.key] for spec in specs]


def _counted(record: Record | None, counts: Callable[[Record], bool]) -> Record | None:
    """The record, unless it does not count."""
    return record if record is not None and counts(record) else None


@dataclass
class _Sweep:
    """One sweep under way; `known` maps each key to its record or None."""

    store: Store
    executor: Executor
    workers: int
    bar: tqdm
    known: dict[str, Record | None]
    trained: list[Record]
    counts: Callable[[Record], bool]

    def groups(self, groups: list[list[Spec]], wait_for_locks: bool) -> list[list[Spec]]:
        """Run `groups`, at most `workers` at once; returns the specs that another process holds."""
        queue, held_elsewhere, running = list(groups), [], {}
        try:
            while queue or running:
                while queue and len(running) < self.workers:
                    with ExitStack() as locks:  # let go of on any error, Ctrl-C in this process too
                        mine, busy = self.take(queue.pop(0), locks, wait_for_locks)
                        held_elsewhere += [busy] if busy else []
                        if mine:
                            self.bar.set_postfix_str(f"{mine[0].arm} x{len(mine)}")
                            future = self.executor.submit(run_group, mine)
                            running[future] = (mine, locks.pop_all())
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    mine, locks = running.pop(future)
                    with locks:
                        self.keep(_result(future, mine))
        finally:
            for _, locks in running.values():
                locks.close()
        return held_elsewhere

    def take(self, specs: list[Spec], locks: ExitStack,
             wait_for_locks: bool) -> tuple[list[Spec], list[Spec]]:
        """Lock `specs`: those that are ours to run, those that are held elsewhere."""
        mine, busy = [], []
        for spec in sorted(specs, key=lambda s: s.key):  # everyone in the same order: no deadlock
            held = locks.enter_context(self.store.lock(spec, wait_for_locks))
            self.known[spec.key] = _counted(self.store.get(spec), self.counts) if held else None
            if not held:
                busy.append(spec)
            elif self.known[spec.key] is None:
                mine.append(spec)
            else:
                self.bar.update()  # another sweep finished it since we looked
        return sorted(mine, key=lambda s: s.seed), busy

    def keep(self, records: list[Record]) -> None:
        for record in records:
            self.store.put(record)
            self.known[record.key] = record
            self.trained.append(record)
            self.bar.update()


def _result(future: Future, specs: list[Spec]) -> list[Record]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        run = f"{specs[0].study}/{specs[0].arm}"
        raise SeqlibError(f"a worker process died while training {run} (killed, or out of memory); "
                          "finished records are kept: run the command again to resume") from error
