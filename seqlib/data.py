"""Data sets: where each is found, every file checked against its sha256."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from seqlib.errors import SeqlibError, nearest
from seqlib.studies.airline import protocol


@dataclass(frozen=True)
class Located:
    """`name` is what the data is, `source` where it was found."""

    name: str
    source: str
    path: str
    sha256: str
    bytes: int


def checked(path: Path, sha256: str, name: str, source: str) -> Located:
    """The file at `path`, after its hash was compared. Raises SeqlibError when it differs or is absent."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SeqlibError(f"data {name}: cannot read {path}: {error.strerror}; reinstall seqlib") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SeqlibError(f"data {name}: {path} has sha256 {found}, expected {sha256}; restore the file from {source}")
    return Located(name, source, str(path), found, len(content))


def airline() -> Located:
    """The 144 monthly totals, shipped with the package."""
    return checked(Path(str(protocol.SERIES)), protocol.SERIES_SHA256, "airline", "the package")


DATA: dict[str, Callable[[], Located]] = {"airline": airline}


def locate(name: str) -> Located:
    """Find a data set and check it. Raises UsageError on an unknown name, SeqlibError on a wrong or absent file."""
    if name not in DATA:
        raise nearest("data set", name, DATA)
    return DATA[name]()


def rows(name: str | None = None) -> list[dict]:
    """JSON-ready rows for one data set or for all."""
    return [asdict(locate(key)) for key in ([name] if name else DATA)]
