"""Where a run trains: a processor (`cpu`), a CUDA card (`cuda`) or Apple's (`mps`).

The kind of device is one of a run's settings: it changes last bits and every cost, so that runs of
two kinds have two keys. Which of several cards it is belongs to the machine: SEQLIB_DEVICE=cuda:1.
"""

import os
import re
from typing import TYPE_CHECKING

from seqlib.errors import UsageError

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps")
VARIABLE = "SEQLIB_DEVICE"


def use(text: str) -> None:
    """Of a name such as `cuda:1`, let this process and those that it starts train on that card from
    now on."""
    if re.fullmatch("cuda:[0-9]+", text):
        os.environ[VARIABLE] = text


def kind(text: str) -> str:
    """`cpu`, `cuda` or `mps` of a device's name; `auto` is the one that SEQLIB_DEVICE names, else
    the best that torch has here. Raises UsageError on anything else."""
    named = (os.environ.get(VARIABLE) or "auto") if text == "auto" else text
    if named == "auto":
        import torch

        return ("cuda" if torch.cuda.is_available()
                else "mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch("cpu|mps|cuda(:[0-9]+)?", str(named)):
        where = f"{VARIABLE} is" if text == "auto" else "device is"
        raise UsageError(f"{where} {named!r}; choose auto, cpu, cuda, cuda:1 (another number for "
                         "another card) or mps")
    return named.partition(":")[0]


def place(kind: str) -> "torch.device":
    """The device of a kind that this process trains on, torch's current one from now on. Raises
    UsageError where torch has none here."""
    import torch

    device = torch.device(kind, card(kind))
    if kind == "cuda" and device.index >= torch.cuda.device_count():
        raise UsageError(f"device {device}: torch sees {torch.cuda.device_count()} CUDA cards "
                         f"here; name another device, or correct {VARIABLE}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps: torch has none here; name another device")
    if kind == "cuda":
        torch.cuda.set_device(device)
    return device


def card(kind: str) -> int | None:
    """The number of the card that SEQLIB_DEVICE names; 0 without one, None for other kinds."""
    if kind != "cuda":
        return None
    found = re.fullmatch("cuda:([0-9]+)", os.environ.get(VARIABLE, ""))
    return int(found[1]) if found else 0


def of(model: "torch.nn.Module") -> "torch.device":
    """Where a model lies."""
    return next(model.parameters()).device


def facts(kind: str) -> dict[str, str]:
    """For a run's provenance: the kind of device, and what its maker calls a card; the name of the
    processor stands there anyhow."""
    import torch

    named = kind == "cuda" and torch.cuda.is_available()
    more = {"device_name": torch.cuda.get_device_name(card(kind))} if named else {}
    return {"device": kind, **more}
