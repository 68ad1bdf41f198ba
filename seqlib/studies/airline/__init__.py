"""Airline passengers, one month ahead: recurrence against attention on 144 values."""

from seqlib.studies.airline import run  # noqa: F401 - registers the study
