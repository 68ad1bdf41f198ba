"""The attention search: thirteen configurations at one size, and the fair version of it."""

from seqlib.studies.attention_search import run  # noqa: F401 - registers the study
