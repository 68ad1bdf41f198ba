"""Tiny Shakespeare: a character model with and without recurrence, with and without attention."""

from seqlib.record import Record
from seqlib.studies.shakespeare import recall, run
from seqlib.studies.shakespeare.arms import ARMS
from seqlib.studies.shakespeare.specs import ShakespeareSpec, parameter_counts
from seqlib.study import study


def modules(spec: dict) -> tuple[str, ...]:
    return recall.MODULES if spec["corpus"] == "mqar" else run.MODULES


def run_group(specs: list[ShakespeareSpec]) -> list[Record]:
    return [(recall if spec.corpus == "mqar" else run).run(spec) for spec in specs]


def data(specs: list[ShakespeareSpec]) -> list[str]:
    return sorted({spec.corpus for spec in specs} - {"mqar"})


study(ShakespeareSpec, arms=dict.fromkeys(ARMS), data=data, count=parameter_counts)(run_group)
