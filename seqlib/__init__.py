"""Sequence models, compared again: paired seeds, computed verdicts, one notebook a study."""

__version__ = "0.1.0"
