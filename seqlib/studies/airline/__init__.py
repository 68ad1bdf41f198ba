"""Airline passengers, one month ahead: recurrence against attention on 144 values."""

from functools import partial

from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.run import MODULES, run
from seqlib.studies.airline.specs import AirlineParams, AirlineSpec, group, parameter_counts, specs_of
from seqlib.study import Study


def headline() -> str:
    from seqlib.studies.airline import page  # figures are slow to import, and few commands draw

    return page.headline()


STUDY = Study("airline", AirlineSpec, AirlineParams, specs_of, group, run, MODULES, ("airline",),
              {arm: partial(parameter_counts, arm) for arm in ARMS}, headline)
