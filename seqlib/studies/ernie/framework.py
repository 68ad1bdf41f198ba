"""PaddlePaddle: set up before its import, and imported when this study runs, not earlier.

On AMD processors the MKL inside Paddle takes a slow path unless MKL_DEBUG_CPU_TYPE says otherwise, and Paddle starts with one
thread. Both are read when its libraries load, so they have to be set before.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from pathlib import Path

from seqlib.errors import SeqlibError, first_line
from seqlib.sweep import cores

log = logging.getLogger(__name__)
CPUINFO = Path("/proc/cpuinfo")
MISSING = ("the study ernie needs paddlepaddle and paddlenlp; install them with `pip install -c constraints.txt paddlepaddle "
           "paddlenlp`")


def on_amd() -> bool:
    """Whether this is an AMD processor, as the system tells."""
    return CPUINFO.exists() and "AuthenticAMD" in CPUINFO.read_text()


def prepare() -> dict[str, str]:
    """Set what makes Paddle fast on an AMD processor, where the user has not set it, and say so in the log; elsewhere do
    nothing. Returns what was set. To be called before Paddle's import: behind it a warning tells that nothing comes of it."""
    if not on_amd():
        return {}
    wanted = {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": str(cores())}
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    told = ", ".join(f"{name}={value}" for name, value in new.items())
    if new and "paddle" in sys.modules:
        warnings.warn(f"paddle was imported before seqlib could set {told}, so it stays slow on this processor; restart the "
                      "kernel and let seqlib import it", stacklevel=2)
        return {}
    os.environ.update(new)
    if new:
        log.info("for Paddle on an AMD processor: set %s", told)
    return new


@functools.cache
def paddle():
    """The module paddle, set up first. Raises SeqlibError where it is not installed."""
    return _load("paddle")


@functools.cache
def nlp(module: str):
    """A module of PaddleNLP ("transformers", "peft"), its chatter turned down. Raises SeqlibError where it is not installed."""
    paddle()
    loaded = _load(f"paddlenlp.{module}")
    _load("paddlenlp.utils.log").logger.set_level("ERROR")
    return loaded


def need() -> None:
    """Raises SeqlibError where Paddle or PaddleNLP is not installed; neither is imported."""
    absent = [name for name in ("paddle", "paddlenlp") if importlib.util.find_spec(name) is None]
    if absent:
        raise SeqlibError(f"{MISSING} (there is no {' and no '.join(absent)})")


def _load(name: str):
    prepare()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # on compilers, packaging and threads: nothing that a user can act on
            return importlib.import_module(name)
    except ImportError as error:
        raise SeqlibError(f"{MISSING} ({first_line(error)})") from error
