"""Tiny Shakespeare: a character model with and without recurrence, with and without attention."""

from functools import partial

from seqlib.record import Record
from seqlib.studies.shakespeare import recall, run
from seqlib.studies.shakespeare.arms import ARMS
from seqlib.studies.shakespeare.specs import ShakespeareParams, ShakespeareSpec, parameter_counts, specs_of
from seqlib.study import Study


def modules(spec: dict) -> tuple[str, ...]:
    return recall.MODULES if spec["corpus"] == "mqar" else run.MODULES


def run_group(specs: list[ShakespeareSpec]) -> list[Record]:
    return [(recall if spec.corpus == "mqar" else run).run(spec) for spec in specs]


def data(specs: list[ShakespeareSpec]) -> list[str]:
    return sorted({spec.corpus for spec in specs} - {"mqar"})


STUDY = Study("shakespeare", ShakespeareSpec, ShakespeareParams, specs_of, lambda specs: [[spec] for spec in specs], run_group,
              modules, data, {arm: partial(parameter_counts, arm) for arm in ARMS})
