"""Sequence-model comparisons with paired seeds and computed verdicts.

The functions that a researcher needs stand here: `load`, `curves`, `train`, `compare`, `verdicts`
(see `seqlib.api`), and `interval` for seaborn's error bars.
"""

import importlib
from typing import Any

from seqlib import places

__version__ = "0.2.0"
__all__ = ["build", "compare", "curves", "interval", "load", "train", "verdicts"]
places.settle()  # before numba or Paddle is imported


def __getattr__(name: str) -> Any:
    """The researcher's functions, imported at first use: pandas and torch take seconds."""
    if name in __all__:
        return getattr(importlib.import_module("seqlib.api"), name)
    raise AttributeError(f"module 'seqlib' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
