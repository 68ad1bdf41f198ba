import json
import os
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from seqlib.errors import SeqlibError
from seqlib.record import Record
from seqlib.store import Store, write_atomically
from seqlib.studies.airline.specs import AirlineSpec

ROOT = Path(__file__).parents[1]


def put(store, seed):
    spec = AirlineSpec(arm="lstm", seed=seed)
    record = Record.of(spec, {"mae": seed / 7}, {}, {"code_hash": "x"})
    store.put(record)
    return record


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_record_comes_back_equal(store):
    records = [put(store, seed) for seed in range(3)]
    assert store.get(AirlineSpec(arm="lstm", seed=1)) == records[1]
    assert store.get(AirlineSpec(arm="lstm", seed=9)) is None
    assert {r.key for r in store.records("airline")} == {r.key for r in records}


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2], lambda text: text.replace('"mae":0.142857', '"mae":0.1'),
    lambda text: "", lambda text: "{}", lambda text: text.replace("0.142857", "NaN")],
    ids=["truncated", "edited", "empty", "another object", "not JSON"])
def test_a_damaged_record_is_set_aside_with_a_message_and_the_others_stay(store, damage):
    records = [put(store, seed) for seed in range(3)]
    path = store.path("airline", records[1].key)
    changed = damage(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.warns(UserWarning, match="damaged record set aside"):
        assert store.get(AirlineSpec(arm="lstm", seed=1)) is None
    assert path.with_name(path.name + ".damaged").read_text() == changed and not path.exists()
    assert {r.key for r in store.records("airline")} == {records[0].key, records[2].key}


def test_a_record_under_another_name_is_not_trusted(store):
    record = put(store, 0)
    path = store.path("airline", record.key)
    path.rename(path.with_stem("0" * 64))
    with pytest.warns(UserWarning, match="file name"):
        assert list(store.records("airline")) == []


def test_a_record_of_another_schema_is_refused_and_stays(store):
    record = put(store, 0)
    record.schema_version = 99
    store.put(record)
    with pytest.raises(SeqlibError, match="schema version 99"):
        list(store.records("airline"))
    assert store.path("airline", record.key).exists()


def test_a_newer_record_with_further_fields_is_left_alone(store):
    path = store.path("airline", put(store, 0).key)
    newer = json.loads(path.read_text()) | {"schema_version": 2, "hardware": {}}
    path.write_text(json.dumps(newer))
    with pytest.raises(SeqlibError, match="schema version 2, this code reads 1"):
        list(store.records("airline"))
    assert path.exists()


def test_a_record_in_another_study_s_folder_is_not_that_study_s(store):
    record = put(store, 0)
    path = store.path("ernie", record.key)
    path.parent.mkdir()
    path.write_bytes(store.path("airline", record.key).read_bytes())
    with pytest.warns(UserWarning, match="it is of the study airline"):
        assert list(store.records("ernie")) == []


def test_a_damaged_record_that_cannot_be_renamed_is_named_and_the_others_count(store, monkeypatch):
    """As in an archive that is read only."""
    records = [put(store, seed) for seed in range(3)]
    store.path("airline", records[1].key).write_text("{}")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.warns(UserWarning, match="damaged record left at .*Read-only"):
        assert len(list(store.records("airline"))) == 2


def refuse(*paths):
    raise OSError(30, "Read-only file system")


def test_what_a_killed_writer_left_is_not_seen_by_git_and_goes_once_nobody_holds_its_run(store):
    record = put(store, 0)
    left = store.path("airline", record.key).with_name(f".{record.key}.json.abc.tmp")
    for age, held, stays in ((0, False, True), (60, True, True), (60, False, False)):
        left.write_text("half")
        os.utime(left, (time.time() - age,) * 2)
        with store.lock(record.key) if held else nullcontext():
            store.tidy("airline")
        assert left.exists() == stays
    command = ["git", "check-ignore", "-q", f"results/airline/{left.name}"]
    ignored = subprocess.run(command, cwd=ROOT)
    assert ignored.returncode == 0


def test_the_records_of_no_study_are_an_error(store):
    with pytest.raises(SeqlibError, match="unknown study 'airlin'; did you mean 'airline'"):
        list(store.records("airlin"))
    assert list(store.records("gpt2")) == []


def test_an_unwritable_store_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SeqlibError, match="cannot write .*SEQLIB_RUNS") as caught:
        put(Store(tmp_path / "file"), 0)
    assert "\n" not in str(caught.value)


def test_a_write_that_runs_out_of_space_leaves_the_old_file_and_no_litter(tmp_path):
    """The operating system refuses the write half way: a limit on the size of a file instead of a
    full disk."""
    path = tmp_path / "kept.json"
    path.write_text("old")
    script = f"""
        import resource, signal
        from pathlib import Path
        from seqlib.store import write_atomically
        from seqlib.errors import SeqlibError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomically(Path({str(path)!r}), b"x" * 5000)
        except SeqlibError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True,
                          text=True, check=True)
    assert "cannot write" in done.stdout and "free space" in done.stdout
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_writing_replaces_the_whole_file(tmp_path):
    write_atomically(tmp_path / "a" / "f", b"long content")
    write_atomically(tmp_path / "a" / "f", b"short")
    assert (tmp_path / "a" / "f").read_bytes() == b"short"


def test_a_lock_held_elsewhere_is_seen(store):
    spec = AirlineSpec(arm="lstm", seed=0)
    script = textwrap.dedent("""
        import sys
        from seqlib.store import Store

        with Store(sys.argv[1]).lock(sys.argv[2], wait=False) as held:
            print(held)
    """)
    with store.lock(spec.key) as mine:
        assert mine
        arguments = [str(store.root), spec.key]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True,
                              text=True, check=True)
        assert done.stdout.strip() == "False"
    with store.lock(spec.key, wait=False) as mine:
        assert mine
