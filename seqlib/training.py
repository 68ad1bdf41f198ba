"""What trainings share: a process of their own, and checkpoints that are taken up where they are sound."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from seqlib.errors import SeqlibError
from seqlib.record import Record, Spec
from seqlib.sweep import limit_threads


def in_own_process(call: Callable[[Spec], Record], spec: Spec, threads: int) -> Record:
    """`call(spec)` in a fresh process with some threads, whose peak memory is then that of this run alone. Raises SeqlibError
    when that process dies."""
    with ProcessPoolExecutor(1, get_context("spawn"), limit_threads, (threads,)) as executor:
        try:
            return executor.submit(call, spec).result()
        except BrokenProcessPool as error:
            raise SeqlibError(f"the process that trained {spec.study}/{spec.arm} seed {spec.seed} died (killed, or out of "
                              "memory); lower its batch") from error


def checkpoint(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint, where there is a sound one; a damaged one is deleted."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError:
        path.unlink()
        return None
