"""PaddlePaddle: set up before its import, and imported when this study runs, not earlier.

On AMD processors the MKL inside Paddle takes a slow path unless MKL_DEBUG_CPU_TYPE says otherwise,
and Paddle starts with one thread. Both are read when its libraries load, so they are set before.
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

from seqlib import devices
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.processes import cores

log = logging.getLogger(__name__)
CPUINFO = Path("/proc/cpuinfo")
PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}  # threads that wait look idle
MISSING = ("the study ernie needs paddlepaddle and paddlenlp; install them with `pip install -c "
           "constraints.txt paddlepaddle paddlenlp`")


def set_up(passive: bool = False) -> dict[str, str]:
    """Set what makes Paddle fast on an AMD processor, and `PASSIVE` where that is asked for, unless
    the user has set it. Returns what was set. Behind Paddle's import it comes too late, and a
    warning says so."""
    wanted = dict(PASSIVE) if passive else {}
    if CPUINFO.exists() and "AuthenticAMD" in CPUINFO.read_text():
        wanted |= {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": str(cores())}
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    listed = ", ".join(f"{name}={value}" for name, value in new.items())
    if new and "paddle" in sys.modules:
        warnings.warn(f"paddle was imported before seqlib could set {listed}, which comes too late "
                      "for this process; restart the kernel and let seqlib import it", stacklevel=2)
        return {}
    os.environ.update(new)
    if new:
        log.info("for Paddle: set %s", listed)
    return new


def threads() -> int:
    """This worker's share of the cores."""
    import torch

    return int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())


@functools.cache
def paddle():
    """The module paddle, set up first. Raises SeqlibError where it is not installed."""
    return _load("paddle")


def place(kind: str) -> None:
    """Let Paddle compute on a device of this kind from now on. Raises UsageError where it cannot:
    the wheel `paddlepaddle` knows processors alone."""
    number = devices.card(kind)
    if kind != "cpu" and (kind != "cuda" or paddle().device.cuda.device_count() <= number):
        raise UsageError(f"device {kind}: Paddle has none here; install paddlepaddle-gpu, or train "
                         "on cpu")
    paddle().set_device("cpu" if kind == "cpu" else f"gpu:{number}")


@functools.cache
def nlp(module: str):
    """A module of PaddleNLP ("transformers", "peft"), its chatter turned down. As `paddle`."""
    paddle()
    loaded = _load(f"paddlenlp.{module}")
    _load("paddlenlp.utils.log").logger.set_level("ERROR")
    return loaded


def need() -> None:
    """Raises SeqlibError where Paddle or PaddleNLP is not installed; neither is imported."""
    absent = [name for name in ("paddle", "paddlenlp") if not importlib.util.find_spec(name)]
    if absent:
        raise SeqlibError(f"{MISSING} (there is no {' and no '.join(absent)})")


def _load(name: str):
    set_up()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # on compilers, packaging, threads: nothing to act on
            return importlib.import_module(name)
    except ImportError as error:
        raise SeqlibError(f"{MISSING} ({first_line(error)})") from error
