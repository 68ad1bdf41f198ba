"""How long runs will take, by the records of runs with the same settings and other seeds; and the
bar that shows it."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm

from seqlib.errors import SeqlibError
from seqlib.record import Record, Spec, canonical
from seqlib.store import Store, examine

ENOUGH = 3  # records that tell how long a run takes


def took(record: Record) -> float | None:
    """Seconds of a run; those that train together share the clock. A resumed one does not tell."""
    source = record.provenance
    if source.get("resumed") or "wall_seconds" not in source:
        return None
    return source["wall_seconds"] / source.get("seeds_at_once", 1)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def settings(spec: Spec | Mapping[str, Any]) -> str:
    """All settings of a run without its seed."""
    fields = spec.model_dump(mode="json") if isinstance(spec, Spec) else spec
    return canonical({name: value for name, value in fields.items() if name != "seed"})


class Times:
    """Seconds that runs take, by their settings."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        seconds = took(record)
        if seconds is not None:
            self.seconds.setdefault(settings(record.spec), []).append(seconds)

    def of(self, alike: str) -> float | None:
        """Seconds of a run with some `settings`, None where no record tells."""
        found = self.seconds.get(alike)
        return fmean(found) if found else None

    def look(self, specs: Iterable[Spec], stores: Iterable[Store]) -> None:
        """Find records that tell of some runs: a few, since reading all of a study takes seconds.
        A file that is no sound record is left as it is."""
        for alike, spec in {settings(spec): spec for spec in specs}.items():
            others = (spec.model_copy(update={"seed": seed}).key for seed in range(10))
            paths = (store.path(spec.study, key) for key in others for store in stores)
            for path in paths:
                if len(self.seconds.get(alike, ())) >= ENOUGH:
                    break
                with suppress(OSError, SeqlibError):
                    if isinstance(record := examine(path), Record):
                        self.add(record)


class Bar(tqdm):
    """tqdm's bar, whose time left is what `seconds_left` says, or, where that is None, its own
    estimate."""

    seconds_left: Callable[[], float | None] = staticmethod(lambda: None)

    def __init__(self, *given: Any, disable: bool = False, **options: Any):
        # tqdm reads the variable too, and for a notebook's bar alone forgets it
        wanted = os.environ.get("TQDM_DISABLE", "0") in ("", "0")
        super().__init__(*given, disable=disable or not wanted, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        found, seconds = super().format_dict, self.seconds_left()
        if seconds is not None and found["total"] > found["n"]:
            # what is left of the time is shown as what is left of the runs by their rate
            found["rate"] = (found["total"] - found["n"]) / max(seconds, 1e-3)
        return found
