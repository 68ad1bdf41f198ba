"""What trainings share: a separate process, and checkpoints that are used only where they are
sound."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from seqlib.errors import SeqlibError, first_line
from seqlib.processes import check_main, limit_threads
from seqlib.store import write_atomically


def in_own_process(call: Callable[..., Any], *arguments: Any, threads: int, what: str) -> Any:
    """`call(*arguments)` in a fresh process with some threads, whose peak memory is that of this
    call alone. Raises SeqlibError, which names `what` was trained, when that process dies."""
    check_main()
    with ProcessPoolExecutor(1, get_context("spawn"), limit_threads, (threads,)) as executor:
        try:
            return executor.submit(call, *arguments).result()
        except BrokenProcessPool as error:
            raise SeqlibError(f"the process that trained {what} died (killed, or out of memory); "
                              "lower its batch") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in scratch. Raises SeqlibError where it is damaged."""
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise SeqlibError(f"the weights in {path} cannot be read ({first_line(error)}); delete "
                          "that file and its run in SEQLIB_RUNS, and train again") from error


class Checkpoint:
    """Tensors in one safetensors file with a checksum of their content; a file that is cut or
    altered counts as absent."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.path, save(kept, {"sha256": _content(kept)}))

    def load(self) -> dict[str, Tensor] | None:
        """The tensors, or None where there is no sound checkpoint; an unsound one is deleted."""
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # no mapping
                known = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            known, tensors = None, {}
        if known == _content(tensors):
            return tensors
        self.delete()
        return None

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)


def _content(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def pack(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer,
         curves: Mapping[str, list], **numbers: float) -> dict[str, Tensor]:
    """What a resumed training needs, as plain tensors: parameters by name, the optimizer's state,
    curves and numbers."""
    state = optimizer.state_dict()
    out = {f"parameter.{name}": value.detach() for name, value in parameters.items()}
    out |= {f"optimizer.{i}.{name}": value
            for i, own in state["state"].items() for name, value in own.items()}
    out |= {f"rate.{i}": torch.tensor(group["lr"], dtype=torch.float64)
            for i, group in enumerate(state["param_groups"])}
    out |= {f"curve.{name}": torch.tensor(values, dtype=torch.float64)
            for name, values in curves.items()}
    return out | {f"number.{name}": torch.tensor(value, dtype=torch.float64)
                  for name, value in numbers.items()}


def unpack(saved: Mapping[str, Tensor], parameters: Mapping[str, Tensor],
           optimizer: torch.optim.Optimizer) -> tuple[dict[str, list], dict[str, float]]:
    """Put what `pack` took back into parameters and optimizer; returns curves and numbers."""
    state: dict[int, dict[str, Tensor]] = {}
    curves, numbers = {}, {}
    groups = optimizer.state_dict()["param_groups"]
    for key, value in saved.items():
        kind, _, name = key.partition(".")
        if kind == "parameter":
            parameters[name].data.copy_(value)
        elif kind == "optimizer":
            i, _, field = name.partition(".")
            state.setdefault(int(i), {})[field] = value.clone()
        elif kind == "rate":
            groups[int(name)]["lr"] = value.item()
        elif kind == "curve":
            curves[name] = value.tolist()
        else:
            numbers[name] = value.item()
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return curves, numbers
