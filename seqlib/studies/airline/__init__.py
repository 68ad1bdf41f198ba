"""Airline passengers, one month ahead: recurrence against attention on 144 values."""

from functools import partial

from seqlib.record import Record
from seqlib.store import scratch
from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.run import MODULES, run
from seqlib.studies.airline.specs import AirlineParams, AirlineSpec, group, parameter_counts, specs_of
from seqlib.study import Study


def run_group(specs: list[AirlineSpec]) -> list[Record]:
    """As `run`; records of a run that resumed from a checkpoint say so and carry no `seconds`, which would tell of its last
    part alone."""
    def checkpoints():
        return set((scratch() / "checkpoints").glob("airline-*.safetensors"))

    before = checkpoints()
    records = run(specs)
    if before <= checkpoints():
        return records
    return [Record.of(spec, {k: v for k, v in r.metrics.items() if k != "seconds"}, r.curves, {**r.provenance, "resumed": True})
            for spec, r in zip(specs, records)]


STUDY = Study("airline", AirlineSpec, AirlineParams, specs_of, group, run_group,
              lambda spec: MODULES, lambda specs: ["airline"] if specs else [],
              {arm: partial(parameter_counts, arm) for arm in ARMS})
