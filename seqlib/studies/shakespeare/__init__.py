"""Tiny Shakespeare: a character model with and without recurrence, with and without attention."""

from seqlib.studies.shakespeare import run  # noqa: F401 - registers the study
