"""Two stores of records: `results/` (the archive, tracked) and `.runs/` (scratch: live runs).

A record is one file, STORE/STUDY/KEY.json. Writing is atomic; reading verifies. A damaged file is
renamed to KEY.json.damaged with a warning, so that the run is done again and nothing is lost.
"""

import errno
import json
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout
from pydantic import ValidationError

from seqlib.errors import SeqlibError, nearest
from seqlib.places import ROOT, named
from seqlib.record import SCHEMA_VERSION, Record, Spec

RECORD = "[0-9a-f]" * 64 + ".json"  # names of the files that are records
LEASE = 120.0  # seconds without a sign of its holder after which a lease is free
log = logging.getLogger("seqlib")
FILES = logging.getLogger("seqlib.files")  # says what was written, to the log of a run alone


def scratch() -> Path:
    """The scratch folder: SEQLIB_RUNS, or `.runs/` in the project."""
    return named("SEQLIB_RUNS", ROOT / ".runs")


@contextmanager
def reported(path: Path):
    """Turn an OSError on `path` into a SeqlibError that says what to do."""
    try:
        yield
    except OSError as error:
        raise SeqlibError(
            f"cannot write {path}: {error.strerror or error}; free space or permissions there, or "
            "point SEQLIB_RUNS (scratch) or SEQLIB_RESULTS (archive) at another folder") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write all of `data` or nothing: temporary file in the same folder, fsync, rename."""
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    FILES.debug("kept %s", path)


def _check_version(path: Path, version: object) -> None:
    """Raises SeqlibError on a record of another schema: it is not damaged, and stays."""
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise SeqlibError(f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}; "
                          "use the seqlib that wrote it")


def examine(path: Path) -> Record | str:
    """The record in a file, or what is wrong with it; the file stays as it is.

    Raises SeqlibError on another schema version, and OSError where the file cannot be read."""
    text = path.read_bytes()
    try:
        record = Record.model_validate_json(text)
        _check_version(path, record.schema_version)
        problem = record.problem()
    except ValidationError as error:
        # a newer record may have other fields; what is nested too deep is none
        with suppress(ValueError, AttributeError, RecursionError):
            _check_version(path, json.loads(text).get("schema_version"))
        return f"not a record ({error.errors()[0]['msg']})"
    except ValueError as error:  # NaN, which is not JSON
        return f"not a record ({error})"
    if problem is None and path.stem != record.key:
        problem = "file name does not match its key"
    if problem is None and path.parent.name != record.spec.get("study"):
        problem = f"it is of the study {record.spec.get('study')}"
    return problem or record


def studies_in(folder: Path = Path(__file__).parent / "studies") -> list[str]:
    """Names of the studies in a folder, packages that have a plan, without importing them."""
    return sorted(path.parent.name for path in folder.glob("*/plan.yaml")
                  if (path.parent / "__init__.py").exists())


class Store:
    """Records below the folder `root`."""

    def __init__(self, root: Path):
        self.root = Path(root)

    @classmethod
    def archive(cls) -> "Store":
        """The published records: SEQLIB_RESULTS, or `results/` in the project."""
        return cls(named("SEQLIB_RESULTS", ROOT / "results"))

    @classmethod
    def live(cls) -> "Store":
        """Records of this machine's live runs, in scratch."""
        return cls(scratch() / "records")

    def path(self, study: str, key: str) -> Path:
        return self.root / study / f"{key}.json"

    def put(self, record: Record) -> None:
        text = record.model_dump_json(indent=None) + "\n"
        write_atomically(self.path(record.spec["study"], record.key), text.encode())

    def get(self, spec: Spec) -> Record | None:
        return self.by_key(spec.study, spec.key)

    def by_key(self, study: str, key: str) -> Record | None:
        """The sound record of a key, None where there is none; a damaged one is set aside."""
        path = self.path(study, key)
        return self._read(path) if path.exists() else None

    def records(self, study: str) -> Iterator[Record]:
        """All sound records of a study, sorted by key. Raises UsageError on a name that is no
        study's, and SeqlibError on another schema version: such a record is not damaged, and
        stays."""
        if self.root.exists() and not self.root.is_dir():
            raise SeqlibError(
                f"{self.root} is not a folder; point SEQLIB_RUNS or SEQLIB_RESULTS at one")
        if not (self.root / study).exists() and study not in (known := studies_in()):
            raise nearest("study", study, known)
        for path in sorted((self.root / study).glob(RECORD)):
            record = self._read(path)
            if record is not None:
                yield record

    def _read(self, path: Path) -> Record | None:
        try:
            found = examine(path)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            warnings.warn(f"{path} is a folder and no record; remove it", stacklevel=2)
            return None
        if isinstance(found, Record):
            return found
        aside = path.with_name(path.name + ".damaged")
        try:
            os.replace(path, aside)
            where = f"set aside as {aside}"
        except OSError as error:  # as in an archive that is read only
            where = f"left at {path}, which cannot be renamed ({error.strerror})"
        warnings.warn(f"damaged record {where}: {found}; sweep the study again to redo it",
                      stacklevel=2)
        return None

    def tidy(self, study: str) -> None:
        """Remove what killed processes have left half written: of runs that none holds now, and
        not of just now, since a merge writes without a lock."""
        for path in (self.root / study).glob(".*.tmp"):
            with suppress(OSError, SeqlibError), self.lock(path.name.split(".")[1], False) as held:
                if held and path.stat().st_mtime < time.time() - 5:
                    path.unlink()

    @contextmanager
    def lock(self, key: str, wait: bool = True, run: str = "a run") -> Iterator[bool]:
        """Hold the right to record the run of a key; `run` is its name for people. Yields True when
        it is held; without `wait`, False when another process has it.

        A lock ends with the process that holds it. Where the file system has none, as some that
        machines share, it is a lease that its holder renews."""
        folder = self.root / ".locks"  # beside the records: whoever writes there sees them
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            holder = folder / f"{key}.holder"
            lock, held = _try_lock(folder / key)
            if not held:
                if not wait:
                    yield False
                    return
                log.info("waiting for %s, which %s trains", run,
                         _lines(holder)[0] or "another process")
                _wait(lock)
            now = datetime.now().isoformat(timespec="seconds")
            holder.write_text(f"process {os.getpid()} on {platform.node()}\n{run}\n{now}")
        try:
            yield True
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def running(self) -> list[dict[str, str]]:
        """The runs that processes hold now, here or on other machines: each with its name, where
        and since when. Of a process that was killed its locks are free, whatever it has left."""
        found = []
        for holder in sorted((self.root / ".locks").glob("*.holder")):
            where, run, since = _lines(holder)
            if since and _held(holder.with_suffix("")):
                found.append({"run": run, "where": where, "since": since})
        return found


def _try_lock(path: Path) -> tuple[BaseFileLock, bool]:
    """The lock that the file system has, and whether it is ours now."""
    lock = FileLock(path.with_suffix(".lock"), fallback_to_soft=False)
    try:
        with suppress(Timeout):
            return lock, bool(lock.acquire(timeout=0))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        lock = SoftFileLease(path.with_suffix(".lease"), lease_duration=LEASE)
        with suppress(Timeout):
            return lock, bool(lock.acquire(timeout=0))
    return lock, False


def _wait(lock: BaseFileLock) -> None:
    """Wait for a lock that another process holds. A lease that is empty for `LEASE` seconds is
    taken away: its holder was killed before it wrote its name, and would be waited for for ever."""
    while True:
        empty = _empty(lock)
        with suppress(Timeout):
            lock.acquire(timeout=LEASE, poll_interval=0.2)
            return
        if empty and empty == _empty(lock):
            lock.break_lock()


def _empty(lock: BaseFileLock) -> tuple[int, int] | None:
    """Which file an empty lease is; None for any other lock."""
    with suppress(OSError):
        found = os.stat(lock.lock_file)
        if isinstance(lock, SoftFileLease) and not found.st_size:
            return found.st_ino, found.st_mtime_ns
    return None


def _held(path: Path) -> bool:
    """Whether a process has a lock now: it cannot be had, and, where it is a lease, is renewed."""
    try:
        lock, ours = _try_lock(path)
    except OSError:  # a store that others alone may write to: who took the lock is believed
        return True
    if ours:
        lock.release()
        return False
    with suppress(OSError):
        renewed = os.stat(lock.lock_file).st_mtime
        return not isinstance(lock, SoftFileLease) or time.time() - renewed < LEASE
    return False


def _lines(holder: Path) -> list[str]:
    """Who holds a lock, the name of the run, and since when; empty where it is not known."""
    try:
        return [*holder.read_text().splitlines(), "", "", ""][:3]
    except OSError:
        return ["", "", ""]
