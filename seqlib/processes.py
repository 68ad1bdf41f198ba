"""Processes that train: their threads, their log, and that none outlives what started it."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import current_process, parent_process
from pathlib import Path
from typing import Any

from seqlib.errors import UsageError


def end_with_parent() -> None:
    """End this process when the one that started it has ended, in whatever way, so that a killed
    sweep leaves none behind that trains on."""
    parent = parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def show_log() -> None:
    """Let what the package logs be seen: without a handler of ours, Python shows warnings alone."""
    logger = logging.getLogger("seqlib")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("seqlib: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def limit_threads(threads: int) -> None:
    """Set up a pool's worker: all of them together use each core once, and none outlives what
    started it."""
    end_with_parent()
    show_log()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    import torch

    torch.set_num_threads(threads)


def allow_open_files(number: int) -> None:
    """Let this process have so many files open, where the system's limit can be raised."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if now < number:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, most), most))


GUARD = "put what it does below `if __name__ == \"__main__\":`"


def end_worker_that_imports() -> None:
    """End a worker process that is importing the main program, as each does first (see
    `multiprocessing`, "spawn"): to train there is what it was started for."""
    if getattr(current_process(), "_inheriting", False):
        sys.stderr.write(f"seqlib: {sys.argv[0]} trains while a worker imports it; {GUARD}\n")
        sys.stderr.flush()
        os._exit(1)


def check_main() -> None:
    """Raises UsageError in a program that worker processes cannot import."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file and not Path(file).exists():
        raise UsageError(f"worker processes cannot import the program {file}; save it as a file, "
                         f"and {GUARD}; or train with workers=1")


def kill_children(of: int | None = None) -> None:
    """Kill all that a process, by default this one, has started, and what those have."""
    import psutil  # which needs modules that Windows lacks

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(of).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "resource_tracker" not in " ".join(child.cmdline()):  # it cleans up behind us
                    child.kill()


@contextmanager
def signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process as an exception does, with all that it has started;
    the exit code is 128 and the signal's number, as in a shell."""
    def leave(number: int, frame: Any) -> None:
        print(f"seqlib: ended by {signal.Signals(number).name}; what is finished is kept, the same "
              "command goes on from there", file=sys.stderr)
        kill_children()
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # not on Windows
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
