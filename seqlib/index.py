"""An index of a store's records, so that a frame need not read and verify thousands of files again.

It is no truth: the cache (SEQLIB_CACHE) has a Parquet file a store and study of some size, with a
row a record: the size and times of its file, and all that a frame needs, which is all but curves.
A record whose file has the same size and times comes from there; any other is read and verified,
and the index is written anew. A damaged one, and one that cannot be written, is ignored.

What is trusted is that a file which changes gets another size or time. The system sets the time of
a change (ctime) at every write, so that an edit or a copy which keeps the time of modification is
noticed. Bits that rot on the disk below it are not, nor is a person who sets the clock back or
writes an index. So `seqlib status`, `verify`, `merge` and `sweep`, and whoever asks for curves,
always read the files themselves.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from seqlib.errors import SeqlibError
from seqlib.record import SCHEMA_VERSION, Record, digest
from seqlib.sources import cache
from seqlib.store import Store, write_atomically

FORMAT = 1  # raise it when the columns change, or when a record is verified more strictly
COLUMNS = ("key", "size", "mtime", "ctime", "head")
WORTH = 256  # records from which on an index saves time
SETTLED = 2.0  # seconds; two changes within one tick of a file system's clock have the same time


def heads(store: Store, study: str, keys: Iterable[str]) -> list[Record]:
    """The sound records of these keys that a store has, without curves: to ask one for them raises
    AttributeError. Warns of damaged ones and sets them aside as `Store.by_key` does."""
    keys, path, found = dict.fromkeys(keys), path_of(store, study), []
    rows, changed = _load(path, keys), False
    for key in keys:
        row, state = rows.get(key), ()
        with suppress(OSError):  # taken before the file is read: a later change gives another
            stat = os.stat(store.path(study, key))
            state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if row is None or row[:3] != state:
            changed |= rows.pop(key, None) is not None
            if (record := store.by_key(study, key)) is None:
                continue
            row = (*state, json.dumps([record.spec, record.metrics, record.provenance]))
            if state and max(state[1:]) / 1e9 < time.time() - SETTLED:
                rows[key], changed = row, True
        spec, metrics, provenance = json.loads(row[-1])
        found.append(Record.model_construct(
            spec=spec, key=key, metrics=metrics, provenance=provenance))
    if changed and len(rows) >= WORTH:
        with suppress(SeqlibError):  # as in a cache that is read only
            others = {key: row for key, row in _load(path).items() if key not in keys}
            _save(path, others | rows)
    return found


def path_of(store: Store, study: str) -> Path:
    """The index of a study's records in a store."""
    what = digest([str(store.root.resolve()), study, FORMAT, SCHEMA_VERSION])
    return cache() / "index" / f"{study}-{what[:32]}.parquet"


def _load(path: Path, keys: Iterable[str] | None = None) -> dict[str, tuple]:
    """Rows of an index by key, of some keys or of all; none where it cannot be used."""
    from pyarrow import ArrowException, BufferReader, array, compute, parquet, string

    try:
        data = path.read_bytes()
        if data[:32] != hashlib.sha256(data[32:]).digest():
            return {}
        table = parquet.ParquetFile(BufferReader(data[32:])).read()
        if keys is not None:
            table = table.filter(compute.is_in(table["key"], array(list(keys), string())))
    except (OSError, ArrowException):
        return {}
    key, *others = (column.to_pylist() for column in table.select(COLUMNS).columns)
    return dict(zip(key, zip(*others)))


def _save(path: Path, rows: dict[str, tuple]) -> None:
    """Write an index after its sha256, since Parquet does not check all of its bytes."""
    from pyarrow import BufferOutputStream, parquet, table

    columns = list(zip(*((key, *row) for key, row in rows.items()))) or [()] * len(COLUMNS)
    buffer = BufferOutputStream()
    parquet.write_table(table(dict(zip(COLUMNS, columns))), buffer, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    write_atomically(path, hashlib.sha256(data).digest() + data)
