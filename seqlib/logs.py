"""A log a run in scratch, `logs/STUDY/KEY.log`: when and where it began, what was warned of and
kept on the way, and how it ended. A new try replaces it; one that cannot be written ends no run."""

import functools
import json
import logging
import os
import platform
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from seqlib.errors import first_line
from seqlib.record import Spec
from seqlib.store import FILES, scratch

ENDED = re.compile(r"^\S+ (done|failed|interrupted)\b", re.M)


def path(study: str, key: str) -> Path:
    return scratch() / "logs" / study / f"{key}.log"


def write(specs: Sequence[Spec], text: str, mode: str = "a") -> None:
    """Add a line with the time to the logs of some runs; what follows a line break is indented."""
    now, text = datetime.now().isoformat(timespec="seconds"), text.rstrip().replace("\n", "\n  ")
    for spec in specs:
        file = path(spec.study, spec.key)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, mode, encoding="utf-8") as log:  # for one line: a killed run keeps all
                log.write(f"{now} {text}\n")


def close(spec: Spec, error: str) -> None:
    """Say how a run ended whose own process has died before it could."""
    try:
        said = path(spec.study, spec.key).read_text(encoding="utf-8")
    except OSError:
        said = ""
    if not ENDED.search(said):
        write([spec], f"failed: {error}")


def logged(train: Callable[..., list]) -> Callable[..., list]:
    """Let a function that trains a group, `train(name, specs, ...)`, keep the logs of its runs."""
    @functools.wraps(train)
    def call(name: str, specs: Sequence[Spec], *more: Any) -> list:
        seeds = ", ".join(str(spec.seed) for spec in specs)
        beside = f", trained together: seeds {seeds}" if len(specs) > 1 else ""
        for spec in specs:
            settings = json.dumps(spec.model_dump(mode="json"), ensure_ascii=False)
            write([spec], f"began on {platform.node()}, process {os.getpid()}: {settings}{beside}",
                  "w")
        clock = time.perf_counter()
        try:
            with _listening(specs):
                outcomes = train(name, specs, *more)
        except Exception as error:
            write(specs, f"failed after {time.perf_counter() - clock:.1f} s: "
                         f"{type(error).__name__}: {first_line(error)}\n{traceback.format_exc()}")
            raise
        except BaseException as error:  # Ctrl-C, or a signal
            write(specs, f"interrupted after {time.perf_counter() - clock:.1f} s: "
                         f"{type(error).__name__}")
            raise
        took = f"after {time.perf_counter() - clock:.1f} s"
        for spec, one in zip(specs, outcomes):
            lost = getattr(one, "error", None)
            write([spec], f"failed {took}: {lost}" if lost else f"done {took}: {_headline(one)}")
        return outcomes

    return call


def _headline(record: Any) -> str:
    """A record's metrics in a line."""
    return ", ".join(f"{name} {value:g}" for name, value in record.metrics.items()
                     if value is not None)


class _Handler(logging.Handler):
    """Writes into the logs of some runs. `alone`: nobody else listens, so that a warning is still
    shown as Python would have."""

    def __init__(self, specs: Sequence[Spec], alone: bool):
        super().__init__()
        self.specs, self.alone = specs, alone

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.INFO else f"{record.levelname.lower()}: "
        write(self.specs, level + record.getMessage())
        if self.alone and record.levelno >= logging.WARNING and logging.lastResort:
            logging.lastResort.handle(record)


@contextmanager
def _listening(specs: Sequence[Spec]) -> Iterator[None]:
    """Write what the package logs, the files that it keeps, and all warnings into the logs of some
    runs; who saw them before sees them as well."""
    package, shown = logging.getLogger("seqlib"), warnings.showwarning
    handler = _Handler(specs, not package.hasHandlers())

    def warn(message, category, filename, lineno, file=None, line=None):
        write(specs, f"warning: {category.__name__}: {message} ({filename}, line {lineno})")
        shown(message, category, filename, lineno, file, line)

    before = package.level, FILES.level, FILES.propagate
    if handler.alone:
        package.setLevel(logging.INFO)
    FILES.setLevel(logging.DEBUG)
    FILES.propagate, warnings.showwarning = False, warn
    for logger in (package, FILES):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in (package, FILES):
            logger.removeHandler(handler)
        for logger, level in zip((package, FILES), before):
            logger.setLevel(level)
        FILES.propagate = before[-1]
        if warnings.showwarning is warn:  # a library may have put its own in
            warnings.showwarning = shown
