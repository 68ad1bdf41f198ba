"""Run what has no record yet, through any `concurrent.futures.Executor`, and write each record as it finishes."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import get_context

from tqdm.auto import tqdm

from seqlib import study as studies
from seqlib.errors import SeqlibError
from seqlib.record import Record, Spec
from seqlib.store import Store


class InProcess(Executor):
    """Runs a call where it is submitted: full use of the machine's threads, and an error shows at once."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_group(specs: Sequence[Spec]) -> list[Record]:
    """Train one group; the function that an executor runs."""
    return studies.get(specs[0].study).run(list(specs))


def limit_threads(threads: int) -> None:
    """Set up a pool's worker so that all of them together use each core once."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback of its own
    import torch

    torch.set_num_threads(threads)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool(workers: int) -> Executor:
    """In-process for one worker, else a pool of fresh processes that share the cores."""
    if workers == 1:
        return InProcess()
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=limit_threads,
                               initargs=(max(1, cores() // workers),))


def sweep(specs: Sequence[Spec], store: Store, executor: Executor | None = None, workers: int = 1,
          quiet: bool = False) -> list[Record]:
    """Records of all `specs` from `store`, after running those that are missing.

    Locks are one a spec: two sweeps on one store share the work, and a run that another process holds is waited for,
    not done twice. Killing a sweep loses the runs in flight at most. Raises SeqlibError when a worker dies.
    """
    if not specs:
        return []
    own = executor is None
    executor = executor or pool(workers)
    known = {spec.key: store.get(spec) for spec in specs}
    missing = [spec for spec in {s.key: s for s in specs}.values() if known[spec.key] is None]
    groups = studies.get(specs[0].study).group(missing)
    try:
        with tqdm(total=len(specs), initial=len(specs) - len(missing), desc=specs[0].study, unit="run",
                  disable=quiet or not missing) as bar:
            busy = _pass(groups, store, executor, workers, bar, known, wait_for_locks=False)
            _pass(busy, store, executor, workers, bar, known, wait_for_locks=True)
    finally:
        if own:
            executor.shutdown(wait=False, cancel_futures=True)
    return [known[spec.key] for spec in specs]


def _pass(groups, store: Store, executor: Executor, workers: int, bar, known: dict, wait_for_locks: bool) -> list:
    """Run `groups`; returns those whose specs another process holds."""
    queue, held_elsewhere, running = list(groups), [], {}
    try:
        while queue or running:
            while queue and len(running) < workers:
                locks, mine, busy = ExitStack(), [], []
                for spec in sorted(queue.pop(0), key=lambda s: s.key):  # one order for all: no deadlock
                    held = locks.enter_context(store.lock(spec, wait_for_locks))
                    known[spec.key] = store.get(spec) if held else None
                    if not held:
                        busy.append(spec)
                    elif known[spec.key] is None:
                        mine.append(spec)
                    else:
                        bar.update()  # another sweep finished it since we looked
                held_elsewhere += [busy] if busy else []
                if mine:
                    mine.sort(key=lambda s: s.seed)
                    bar.set_postfix_str(f"{mine[0].arm} x{len(mine)}")
                    running[executor.submit(run_group, mine)] = (mine, locks)
                else:
                    locks.close()
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                mine, locks = running.pop(future)
                with locks:
                    for record in _result(future, mine):
                        store.put(record)
                        known[record.key] = record
                        bar.update()
    finally:
        for _, locks in running.values():
            locks.close()
    return held_elsewhere


def _result(future: Future, specs: list[Spec]) -> list[Record]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SeqlibError(f"a worker process died while training {specs[0].study}/{specs[0].arm} (killed, or out of "
                          "memory); finished records are kept: run the same command again to resume") from error
