"""Which code counts as the same as which, and why: `results/STUDY/accepted.json`.

`seqlib verify --accept` writes it. Every entry leads from the fingerprint that a record carries (or
that was accepted before) to a newer one, arm by arm, with the evidence: the runs that agreed to the
bit, the machine and the date.
"""

import json
from pathlib import Path
from typing import Any

from seqlib.errors import SeqlibError
from seqlib.places import cached_by
from seqlib.store import Store


def path_of(name: str) -> Path:
    """The file of a study."""
    return Store.archive().root / name / "accepted.json"


@cached_by(lambda name: [path_of(name)])
def entries(name: str) -> dict[str, Any]:
    """A study's accepted changes: {"evidence": [...], "codes": {old: {arm: {new: number}}}}, where
    the number is that of the evidence. Raises SeqlibError on a damaged file."""
    path = path_of(name)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {"evidence": [], "codes": {}}
    except ValueError as error:
        raise SeqlibError(f"{path} is not JSON ({error}); take it from git again") from None


@cached_by(lambda name, arm, code: [path_of(name)], size=4096)
def equivalents(name: str, arm: str, code: str) -> frozenset[str]:
    """`code` and all that was accepted in its place for an arm."""
    codes, found, waiting = entries(name)["codes"], set(), [code]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += codes.get(at, {}).get(arm, {})
    return frozenset(found)
