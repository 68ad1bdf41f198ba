"""Errors that a person can act on: one line that names the thing and the way out."""


class SeqlibError(Exception):
    """A run, a record or a data set failed; the command ends with exit code 1."""

    def _render_traceback_(self) -> list[str]:
        """In a notebook: the message alone (IPython asks for this)."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(SeqlibError):
    """A name or a value that is not allowed; the command ends with exit code 2."""


def first_line(error: Exception) -> str:
    """What an error of some library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_problem(error) -> str:
    """A pydantic ValidationError as one line: `name: what is wrong (got value)`."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"]) or "parameters"
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such parameter"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + (f" (got {problem['input']!r})" if problem["loc"] else "")  # else all parameters


def nearest(kind: str, name: str, allowed) -> UsageError:
    """The error for an unknown `name`, with what is allowed."""
    return UsageError(f"unknown {kind} {name!r}; choose from: {', '.join(allowed)}")
