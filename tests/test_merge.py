"""Shards are parts of a whole, and stores come together without a loss."""

import json

import pytest

from seqlib import plan
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS
from tests.studies.test_airline import Exploding
from tests.test_cli import call

PLANNED = plan.specs("airline", "published")


def put(store, spec, mae=1.0, seconds=1.0, more=None, **facts):
    record = Record.of(spec, {"test_mae": mae, "seconds": seconds, **(more or {})}, {}, facts)
    store.put(record)
    return store.path("airline", record.key)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}


@pytest.mark.parametrize("of", [1, 2, 7, 400])
def test_every_run_is_in_exactly_one_shard_whatever_the_order(monkeypatch, capsys, of):
    swept = []
    monkeypatch.setattr("seqlib.sweep.sweep", lambda specs, *_, **__: swept.extend(specs))
    for number in range(1, of + 1):
        names = ("published", "loop")[:: 1 if number % 2 else -1]
        arguments = ("sweep", "airline", *names, "--shard", f"{number}/{of}")
        assert call(*arguments, capsys=capsys)[0] == 0
    whole = PLANNED + plan.specs("airline", "loop")
    assert sorted(spec.key for spec in swept) == sorted(spec.key for spec in whole)


def test_shards_make_the_whole_and_an_empty_one_is_no_error(tmp_path, monkeypatch, capsys):
    runs = ("sweep", "airline", "baselines", "--arms", "naive,seasonal-naive,seasonal-ratio")
    for number in range(1, 5):
        monkeypatch.setenv("SEQLIB_RESULTS", str(tmp_path / f"shard-{number}"))
        code, out, _ = call(*runs, "--shard", f"{number}/4", capsys=capsys)
        assert code == 0 and f"in shard {number} of 4" in out
    shards = [path for path in sorted(tmp_path.glob("shard-*")) if any(path.rglob("*.json"))]
    monkeypatch.setenv("SEQLIB_RESULTS", str(tmp_path / "whole"))
    code, out, _ = call("merge", *map(str, shards), capsys=capsys)
    made = content(tmp_path / "whole")
    assert code == 0 and made == {k: v for path in shards for k, v in content(path).items()}
    assert out == f"{len(made)} new, 0 same, 0 differs, 0 refused\n"
    assert "0 of them new" in call(*runs, capsys=capsys)[1]
    assert call("merge", *map(str, shards), capsys=capsys)[1].startswith("0 new")
    assert content(tmp_path / "whole") == made


def test_other_numbers_are_shown_and_nothing_is_replaced(tmp_path, capsys):
    here, other = Store.archive(), Store(tmp_path / "other")
    kept = put(here, PLANNED[0], 1.5), put(here, PLANNED[1], seconds=9.0)
    put(other, PLANNED[0], 1.25)
    put(other, PLANNED[1], seconds=2.0, machine="another")  # it took less, and has the same numbers
    put(other, PLANNED[2])
    before, theirs = [path.read_bytes() for path in kept], content(other.root)
    code, out, _ = call("merge", str(other.root), capsys=capsys)
    differs, counts = out.splitlines()
    assert code == 1 and counts == "1 new, 1 same, 1 differs, 0 refused"
    assert all(str(store.path("airline", PLANNED[0].key)) in differs for store in (here, other))
    assert "test_mae (1.5 there, 1.25 here)" in differs and "seconds" not in differs
    assert [path.read_bytes() for path in kept] == before and content(other.root) == theirs
    code, out, _ = call("merge", str(other.root), "--json", capsys=capsys)
    rows = {row["outcome"]: row for row in json.loads(out)}
    assert code == 1 and rows["differs"]["figures"] == {"test_mae": [1.5, 1.25]}


def test_what_cannot_be_trusted_is_refused_with_a_line_and_stays(tmp_path, capsys):
    other = Store(tmp_path / "other")
    cut, edited, moved, strange, newer, good = (put(other, spec) for spec in PLANNED[:6])
    cut.write_bytes(cut.read_bytes()[:-40])
    edited.write_text(edited.read_text().replace('"test_mae":1.0', '"test_mae":2.0'))
    moved.rename(moved.with_stem("0" * 64))
    (other.root / "ernie").mkdir()
    strange.rename(other.root / "ernie" / strange.name)
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"schema_version": 2}))
    unplanned = put(other, PLANNED[0].model_copy(update={"epochs": 3}))
    before = content(other.root)
    code, out, err = call("merge", str(other.root), capsys=capsys)
    assert code == 1 and not err and content(other.root) == before
    *lines, counts = out.splitlines()
    assert counts == "1 new, 0 same, 0 differs, 6 refused" and len(lines) == 6
    for name, why in ((cut.name, "not a record"), (edited.name, "checksum"),
                      ("0" * 64, "file name"), (strange.name, "it is of the study airline"),
                      (newer.name, "schema version 2"), (unplanned.name, "no plan of airline")):
        [line] = [line for line in lines if name in line]
        assert line.startswith("refused: ") and why in line
    assert list(content(Store.archive().root)) == [good.relative_to(other.root)]
    call("merge", str(other.root), "--into", str(tmp_path / "third"), capsys=capsys)
    assert len(content(tmp_path / "third")) == 2  # a folder of one's own takes any sound record


def test_a_figure_that_one_of_two_records_lacks_is_a_difference(tmp_path, capsys):
    other = Store(tmp_path / "other")
    put(Store.archive(), PLANNED[0], more={"left": 1})
    put(other, PLANNED[0], more={"right": 2})
    code, out, _ = call("merge", str(other.root), capsys=capsys)
    assert code == 1 and "left (1 there, None here)" in out and "right (None there, 2 here)" in out


def test_a_run_that_a_sweep_trains_is_left_to_it(tmp_path, capsys):
    other = Store(tmp_path / "other")
    put(other, PLANNED[0])
    with Store.archive().lock(PLANNED[0].key):
        code, out, _ = call("merge", str(other.root), capsys=capsys)
    assert code == 1 and "a sweep trains this run now" in out
    assert not content(Store.archive().root)


def test_a_newer_record_that_is_there_stays_and_the_others_go_on(tmp_path, capsys):
    here, other = Store.archive(), Store(tmp_path / "other")
    newer = put(here, PLANNED[0])
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"schema_version": 2}))
    before = newer.read_bytes()
    for spec in PLANNED[:2]:
        put(other, spec)
    code, out, _ = call("merge", str(other.root), capsys=capsys)
    assert code == 1 and "1 new, 0 same, 0 differs, 1 refused" in out and "schema version 2" in out
    assert newer.read_bytes() == before


def test_a_damaged_record_that_is_there_is_set_aside_for_a_sound_one(tmp_path, capsys):
    here, other = Store.archive(), Store(tmp_path / "other")
    damaged, sound = put(here, PLANNED[0]), put(other, PLANNED[0])
    damaged.write_text("{}")
    with pytest.warns(UserWarning, match="damaged record set aside"):
        assert call("merge", str(other.root), capsys=capsys)[0] == 0
    assert damaged.read_bytes() == sound.read_bytes()
    assert damaged.with_name(damaged.name + ".damaged").read_text() == "{}"


def test_a_folder_without_records_is_named_before_anything_is_copied(tmp_path, capsys):
    other = Store(tmp_path / "other")
    put(other, PLANNED[0])
    code, _, err = call("merge", str(other.root), str(other.root / "airline"), capsys=capsys)
    assert code == 2 and f"{other.root / 'airline'} has no records" in err
    assert not content(Store.archive().root)


def test_failures_are_listed_once_all_else_is_done_unless_the_first_is_to_end_it(
        monkeypatch, capsys):
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 8))
    runs = ("sweep", "airline", "published", "--arms", "gru,rope", "--seeds", "0-1,40",
            "--set", "epochs=1")
    code, out, err = call(*runs, capsys=capsys)
    assert code == 1 and "3 records of airline" in out
    lines = [line for line in err.splitlines() if "not finite" in line]
    assert len(lines) == 3 and "3 runs failed; what is finished is kept" in err
    code, out, err = call(*runs, "--fail-fast", capsys=capsys)
    assert code == 1 and "not finite" in err and not out
