"""The index of a store: frames come faster from it, and nothing else depends on it."""

import os
import random
import shutil
import warnings
from pathlib import Path

import pytest

from seqlib import frames, index
from seqlib.record import Record
from seqlib.store import RECORD, Store

ROOT = Path(__file__).parents[1]
ARCHIVED = sorted((ROOT / "results" / "airline").glob(RECORD))[::300]
KEYS = [path.stem for path in ARCHIVED]


@pytest.fixture
def store(tmp_path):
    """Some archived records, written an hour ago."""
    store = Store(tmp_path / "store")
    for path in ARCHIVED:
        target = store.path("airline", path.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return store


@pytest.fixture(autouse=True)
def settled(monkeypatch, tmp_path):
    """Files count as settled at once, and few are enough, or no test's record would get into an
    index."""
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH", 1)
    monkeypatch.setattr(index, "SETTLED", -60.0)


@pytest.fixture
def read(monkeypatch):
    """Keys of the records that were read out of their files."""
    keys, by_key = [], Store.by_key

    def counted(store, study, key):
        keys.append(key)
        return by_key(store, study, key)

    monkeypatch.setattr(Store, "by_key", counted)
    return keys


def frame_of(store, keys=KEYS):
    return frames.frame("airline", index.heads(store, "airline", keys))


def check(store, keys=KEYS):
    """The frame, twice, is that of the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = frame_of(store, keys), frame_of(store, keys)
    plain = frames.frame("airline", frames.stored("airline", keys, store))
    for found in (first, second):
        assert found.equals(plain) and list(found.columns) == list(plain.columns)
        assert found.dtypes.equals(plain.dtypes)
    return plain


def altered(record, **metrics):
    return Record.of(_Spec(record), {**record.metrics, **metrics}, record.curves, record.provenance)


class _Spec:
    """The spec of a record, as `Record.of` wants it."""

    def __init__(self, record):
        self.key, self.spec = record.key, record.spec

    def model_dump(self, mode):
        return self.spec


def test_a_second_frame_is_the_same_and_reads_no_record(store, read):
    check(store)
    read.clear()
    assert len(frame_of(store)) == len(KEYS) and not read


def test_some_records_of_many_and_then_others(store, read):
    assert len(check(store, KEYS[:3])) == 3
    read.clear()
    assert frame_of(store, KEYS[2:6]).key.tolist() == KEYS[2:6]
    assert read == KEYS[3:6]
    check(store, KEYS[::-1])


def test_what_the_index_gives_has_no_curves_to_take_for_empty_ones(store):
    for _ in range(2):
        with pytest.raises(AttributeError, match="curves"):
            index.heads(store, "airline", KEYS)[0].curves  # noqa: B018


@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_a_record_that_is_replaced_is_read_again(store, read, keeps_its_time):
    """With other numbers in a file of the same size, and though the time of modification is set
    back, as `cp -p` and `rsync -t` do."""
    before = check(store)
    path = store.path("airline", KEYS[1])
    stat, old = path.stat(), store.by_key("airline", KEYS[1])
    store.put(altered(old, seconds=old.metrics["seconds"] + 1))
    if keeps_its_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    read.clear()
    after = frame_of(store)
    assert read == [KEYS[1]]
    assert after.seconds[1] == pytest.approx(before.seconds[1] + 1)
    assert check(store).drop(1).equals(before.drop(1))


def test_a_damaged_record_is_noticed_and_set_aside(store):
    check(store)
    path = store.path("airline", KEYS[1])
    stat = path.stat()
    path.write_text(path.read_text().replace('"seconds":', '"secondz":'))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.warns(UserWarning, match="damaged record set aside"):
        assert frame_of(store).key.tolist() == [KEYS[0], *KEYS[2:]]
    assert not path.exists()
    check(store)


def test_records_that_come_and_go(store, tmp_path):
    check(store)
    moved = store.path("airline", KEYS[0])
    moved.rename(tmp_path / "away")
    assert len(check(store)) == len(KEYS) - 1
    (tmp_path / "away").rename(moved)
    assert len(check(store)) == len(KEYS)
    shutil.rmtree(store.root)
    assert check(store).empty


def test_a_record_under_the_name_of_another_is_not_taken(store):
    check(store)
    shutil.copy(store.path("airline", KEYS[0]), store.path("airline", KEYS[1]))
    with pytest.warns(UserWarning, match="file name does not match"):
        assert len(frame_of(store)) == len(KEYS) - 1


def test_a_record_just_written_is_read_until_its_time_tells_changes_apart(store, read, monkeypatch):
    monkeypatch.setattr(index, "SETTLED", 60.0)
    check(store)
    read.clear()
    frame_of(store)
    assert read == KEYS and not index.path_of(store, "airline").exists()


def test_a_store_of_few_records_has_no_index(store, monkeypatch):
    monkeypatch.setattr(index, "WORTH", len(KEYS) + 1)
    check(store)
    assert not index.path_of(store, "airline").exists()


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:40], lambda data: data[: len(data) // 2],
    lambda data: b"x" * len(data), lambda data: data + b"x", lambda data: data[32:]],
    ids=["empty", "head", "half", "other", "longer", "plain"])
def test_a_damaged_index_is_made_again_in_silence(store, damage):
    check(store)
    path = index.path_of(store, "airline")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(store)
    assert path.read_bytes() == whole
    path.unlink()
    check(store)
    assert path.exists()


def test_no_flipped_bit_of_an_index_counts(store):
    check(store)
    path, draw = index.path_of(store, "airline"), random.Random(0)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        assert not index._load(path)


@pytest.mark.parametrize("obstacle", ["file", "folder", "read only"])
def test_an_index_that_cannot_be_written_is_left(store, obstacle, monkeypatch):
    path = index.path_of(store, "airline")
    if obstacle == "folder":
        path.mkdir(parents=True)
    else:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.write_text("in the way")
    if obstacle == "read only":
        path.parent.unlink()
        monkeypatch.setattr("tempfile.mkstemp", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(store)


def refuse(*arguments):
    raise OSError(30, "Read-only file system")


def test_two_stores_do_not_share_an_index(store, tmp_path):
    check(store)
    other = Store(tmp_path / "other")
    assert check(other).empty and len(check(store)) == len(KEYS)
    same = Store(tmp_path / "other" / ".." / "store")
    assert index.path_of(same, "airline") == index.path_of(store, "airline")


def test_status_and_single_records_read_the_files_themselves(store, read):
    check(store)
    read.clear()
    with_curves = store.by_key("airline", KEYS[0])
    assert with_curves.curves and read == [KEYS[0]]
    assert all(record.curves for record in store.records("airline"))
    assert all(record.curves for record in frames.stored("airline", KEYS, store))
