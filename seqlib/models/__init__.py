"""Models, as published and as trained here.

Shapes: B batch, T time, C channels, H heads, D head width, E experts, K seeds at once,
V vocabulary.
"""

from collections.abc import Collection


def check_choice(what: str, given: str | None, known: Collection[str | None]) -> None:
    """Raises ValueError on a choice that a model does not know: it would build another model."""
    if given not in known:
        raise ValueError(f"unknown {what} {given!r}; choose from: {', '.join(map(str, known))}")
