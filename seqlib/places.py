"""Folders: those that the environment names, and a home where the user has none to write to; and
what is computed once for each version of some files."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NAMED = ("SEQLIB_ROOT", "SEQLIB_RUNS", "SEQLIB_RESULTS", "SEQLIB_CACHE", "SEQLIB_DATA")


def named(name: str, default: Path | str) -> Path:
    """The folder that a variable of the environment names, else `default`; absolute."""
    return Path(os.path.abspath(os.path.expanduser(os.environ.get(name) or default)))


ROOT = named("SEQLIB_ROOT", Path(__file__).resolve().parents[1])


def cached_by(files: Callable[..., Iterable[Path]], size: int = 256) -> Callable:
    """A function that is called again when one of the files has changed that `files` names for its
    arguments. What it returns is shared by all who call it: nobody changes it."""
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.lru_cache(maxsize=size)
        def made(state: tuple, *arguments: Any) -> Any:
            return function(*arguments)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return made(tuple((file, file.stat().st_mtime_ns) for file in files(*arguments)
                              if file.exists()), *arguments)

        return call

    return wrap


def settle() -> None:
    """Make what the environment names absolute, for processes that start in another folder, and
    see that HOME can be written: numba and Paddle need that for their import."""
    for name in filter(os.environ.get, NAMED):
        os.environ[name] = str(named(name, ""))
    if os.access(os.path.expanduser("~"), os.W_OK):
        return
    home = named("SEQLIB_RUNS", ROOT / ".runs") / "home"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK):
        settle.folder = tempfile.TemporaryDirectory(prefix="seqlib-")  # gone when this process ends
        home = settle.folder.name
    os.environ["HOME"] = str(home)
