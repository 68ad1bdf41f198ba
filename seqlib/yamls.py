"""YAML as people mean it: YAML 1.2 (`1e-3` is a number, `010` is ten), and no key twice."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from seqlib.errors import UsageError
from seqlib.places import cached_by


def parse(text: str, source: str) -> Any:
    """The value of a YAML text. Raises UsageError that names `source` and the line."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise UsageError(f"{source}: is nested too deep") from None
    except (YAMLError, ValueError, TypeError) as error:  # the last two by 2020-02-31 and [[a]]: 3
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{source}{line}: {problem}") from None


@cached_by(lambda path: [path])
def read(path: Path) -> Any:
    """The value of a YAML file, parsed once for each version of the file: do not change it.

    Raises UsageError where there is no such file, and where it is no YAML."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UsageError(f"no file {path}; run from a source checkout, or install seqlib again"
                         ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from None


def value(text: str, where: str) -> Any:
    """A number, true or false, a [list], a {mapping} or a quoted text as YAML has them, anything
    else as it stands. Raises UsageError, which names `where`, on a list without its end."""
    if text.startswith(("[", "{", '"', "'")):
        return parse(text, where)
    if " #" not in text:  # in YAML a comment
        with suppress(UsageError):  # no YAML, as a text may well be
            found = parse(text, where)
            if isinstance(found, (bool, int, float)):
                return found
    return text
