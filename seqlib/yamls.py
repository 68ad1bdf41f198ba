"""YAML as people mean it: YAML 1.2 (`1e-3` is a number, `010` is ten), and a key that stands twice is an error."""

import functools
from pathlib import Path
from typing import Any

from seqlib.errors import UsageError


def parse(text: str, source: str) -> Any:
    """The value of a YAML text. Raises UsageError that names `source` and the line."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{source}{line}: {problem}") from None


@functools.cache
def _read(path: Path, changed: int) -> Any:
    return parse(path.read_text(encoding="utf-8"), str(path))


def read(path: Path) -> Any:
    """The value of a YAML file; parsed once for each version of the file. Do not change what is returned."""
    if not path.exists():
        raise UsageError(f"no file {path}; run from a source checkout, or install seqlib again")
    return _read(path, path.stat().st_mtime_ns)
