"""Two stores of records: `results/` (the archive, tracked) and `.runs/` (scratch: live runs).

A record is one file, STORE/STUDY/KEY.json. Writing is atomic; reading verifies. A damaged file is
renamed to KEY.json.damaged with a warning, so that the run is done again and nothing is lost.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from seqlib.errors import SeqlibError
from seqlib.places import ROOT, named
from seqlib.record import SCHEMA_VERSION, Record, Spec


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
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
        """All sound records of a study, sorted by key. Raises SeqlibError on another schema
        version: such a record is not damaged, and stays."""
        if self.root.exists() and not self.root.is_dir():
            raise SeqlibError(
                f"{self.root} is not a folder; point SEQLIB_RUNS or SEQLIB_RESULTS at one")
        for path in sorted((self.root / study).glob("[0-9a-f]" * 64 + ".json")):
            record = self._read(path)
            if record is not None:
                yield record

    def _read(self, path: Path) -> Record | None:
        try:
            record = Record.model_validate_json(path.read_bytes())
            if record.schema_version != SCHEMA_VERSION:
                raise SeqlibError(f"{path} has schema version {record.schema_version}, this code "
                                  f"reads {SCHEMA_VERSION}; use the seqlib that wrote it")
            problem = record.problem()
            if problem is None and path.stem != record.key:
                problem = "file name does not match its key"
        except FileNotFoundError:
            return None
        except ValidationError as error:
            problem = f"not a record ({error.errors()[0]['msg']})"
        except ValueError as error:  # NaN, which is not JSON
            problem = f"not a record ({error})"
        if problem is None:
            return record
        aside = path.with_name(path.name + ".damaged")
        with reported(aside):
            os.replace(path, aside)
        warnings.warn(f"damaged record set aside as {aside}: {problem}; sweep the study again to "
                      "redo it", stacklevel=2)
        return None

    @contextmanager
    def lock(self, spec: Spec, wait: bool = True) -> Iterator[bool]:
        """Hold the right to run `spec` for this store. Yields True when it is held; without `wait`,
        False when another process has it."""
        folder = self.root / ".locks"  # beside the records: whoever writes there sees them
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{spec.key}.lock")
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()
