"""Errors that a person can act on: one line that names the thing and the way out."""

import difflib
from collections.abc import Iterable


class SeqlibError(Exception):
    """A run, a record or a data set failed; the command ends with exit code 1."""

    def _render_traceback_(self) -> list[str]:
        """In a notebook: the message alone (IPython asks for this)."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(SeqlibError):
    """A name or a value that is not allowed; the command ends with exit code 2."""


def first_line(error: Exception) -> str:
    """The first line of an error of some library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_problem(error, allowed: Iterable[str] = ()) -> str:
    """A pydantic ValidationError as one line: `name: what is wrong (got value)`; an unknown name with those that are allowed."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"]) or "parameters"
    if problem["type"] == "extra_forbidden":
        return str(nearest("name", name, allowed)) if allowed else f"{name}: no such parameter"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + (f" (got {problem['input']!r})" if problem["loc"] else "")  # else all parameters


def nearest(kind: str, name: str, allowed: Iterable[str]) -> UsageError:
    """The error for an unknown `name`: the most similar one that is allowed, and all of them."""
    allowed = [str(option) for option in allowed]
    close = difflib.get_close_matches(str(name), allowed, 1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"unknown {kind} {name!r}; {hint}choose from: {', '.join(allowed)}")
