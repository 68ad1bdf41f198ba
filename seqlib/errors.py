"""Errors that a person can act on: one line that names the thing and the way out."""

import difflib
import re
from collections.abc import Iterable
from reprlib import repr as short


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
    """A pydantic ValidationError as one line: `name: what is wrong (got value)`; for an unknown
    name, or a value that is none of a few, the nearest of those that are allowed."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return str(nearest("name", name, allowed)) if allowed else f"{name}: no such parameter"
    if problem["type"] == "literal_error" and name:
        options = re.split(", | or ", problem["ctx"]["expected"])
        return str(nearest(name, problem["input"], [option.strip("'") for option in options]))
    message = problem["msg"].removeprefix("Value error, ")
    if not name or problem["type"] == "missing":  # then the input is all of the parameters
        return f"{name or 'parameters'}: {message}"
    return f"{name}: {message} (got {short(problem['input'])})"


def nearest(kind: str, name: str, allowed: Iterable[str]) -> UsageError:
    """The error for an unknown `name`: the most similar one that is allowed, and all of them."""
    allowed = [str(option) for option in allowed]
    close = difflib.get_close_matches(name, allowed, 1, 0.5) if isinstance(name, str) else []
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"unknown {kind} {short(name)}; {hint}choose from: {', '.join(allowed)}")
