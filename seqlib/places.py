"""Folders: those that the environment names, and a home where the user has none to write to."""

import contextlib
import os
import tempfile
from pathlib import Path

NAMED = ("SEQLIB_ROOT", "SEQLIB_RUNS", "SEQLIB_RESULTS", "SEQLIB_CACHE", "SEQLIB_DATA")


def named(name: str, default: Path | str) -> Path:
    """The folder that a variable of the environment names, else `default`; absolute."""
    return Path(os.path.abspath(os.path.expanduser(os.environ.get(name) or default)))


ROOT = named("SEQLIB_ROOT", Path(__file__).resolve().parents[1])


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
