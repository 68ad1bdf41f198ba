"""`seqlib status`: what runs now and where, what has failed, and how long the rest takes."""

import json
import os
import platform
import signal

import pytest

from seqlib import logs, plan, status
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import note_of
from tests.studies.test_airline import Exploding
from tests.test_cli import airline_status, call
from tests.test_sweep import wait_for


def test_a_run_under_way_elsewhere_is_shown_until_its_process_is_killed(
        checkout, monkeypatch, capsys):
    monkeypatch.setenv("SEQLIB_RUNS", str(checkout.root / "runs"))
    process = checkout.start("sweep", "airline", "published", "--arms", "rope", "--seeds", "0-1",
                             "--set", "epochs=10000")
    checkpoints = checkout.root / "runs" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*.safetensors")))
    running = airline_status(capsys)["live"]["running"]
    where = f"process {process.pid} on {platform.node()}"
    assert {(run["run"], run["where"]) for run in running} == {
        ("airline/rope seed 0", where), ("airline/rope seed 1", where)}
    assert f"  airline/rope seed 0 to 1: {where}, since 20" in call("status", capsys=capsys)[1]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert list((Store.live().root / ".locks").glob("*.holder")), "it could not tidy up"
    assert airline_status(capsys)["live"]["running"] == []
    assert "running:" not in call("status", capsys=capsys)[1]
    [log, _] = (checkout.root / "runs" / "logs" / "airline").glob("*.log")
    assert " began on " in log.read_text() and not logs.ENDED.search(log.read_text())


def test_a_lease_that_nobody_renews_is_not_running(tmp_path, monkeypatch):
    """Of a machine without `flock` that died."""
    def missing(*given):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    store = Store(tmp_path)
    with store.lock("a" * 64, run="airline/rope seed 3"):
        [run] = store.running()
        assert run["run"] == "airline/rope seed 3" and str(os.getpid()) in run["where"]
        [lease] = tmp_path.rglob("*.lease")
        os.utime(lease, (0, 0))
        assert store.running() == []


def test_a_store_that_cannot_be_written_shows_what_runs_there(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with Store(tmp_path).lock("a" * 64, run="airline/rope seed 3"):
        monkeypatch.setattr("seqlib.store._try_lock", refuse)
        assert [run["run"] for run in Store(tmp_path).running()] == ["airline/rope seed 3"]
        monkeypatch.undo()


def test_failures_have_the_last_line_of_their_error_and_their_log(capsys, monkeypatch):
    spec = AirlineSpec(arm="gru", epochs=2)
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 8))
    assert call("sweep", "airline", "smoke", "--arms", "gru", capsys=capsys)[0] == 1
    row = airline_status(capsys)["live"]
    [failure] = row["failures"]
    assert row["failed"] == 1 and failure["run"] == "airline/gru seed 0"
    assert "is not finite" in failure["error"] and "\n" not in failure["error"]
    assert failure["log"] == str(logs.path("airline", spec.key))
    out = call("status", capsys=capsys)[1]
    assert f"failed:\n  airline/gru seed 0: {failure['error']} (log: {failure['log']})" in out
    note_of(spec).write_text("{}")
    [failure] = airline_status(capsys)["live"]["failures"]
    assert "cannot be read" in failure["error"]


def test_what_is_left_takes_as_long_as_runs_with_the_same_settings(capsys):
    specs = plan.specs("airline", "published")
    row = airline_status(capsys)["archive"]
    assert row["seconds_left"] is None and row["untold"] == row["missing"] > 150
    left = f"  airline: {row['missing']} runs, time unknown\n"
    assert left in call("status", capsys=capsys)[1]
    spec = next(spec for spec in specs if spec.arm == "rope" and spec.seed == 4)
    Store.archive().put(Record.of(spec, {"seconds": 600}, {}, {"wall_seconds": 600}))
    row = airline_status(capsys)["archive"]
    alike = [one for name in plan.of_archive("airline") for one in plan.specs("airline", name)
             if one.model_copy(update={"seed": 4}) == spec]
    assert row["seconds_left"] == 600 * (len({one.key for one in alike}) - 1) > 0
    assert row["untold"] == row["missing"] - len({one.key for one in alike}) + 1


def test_the_table_keeps_its_columns_and_json_its_keys(capsys):
    row = json.loads(call("status", "--json", capsys=capsys)[1])[0]
    assert list(row)[:10] == ["study", "store", "records", "missing", "underway", "unplanned",
                              "older_code", "failed", "damaged", "path"]
    assert set(row) - set(status.LISTS) == set(list(row)[:10])
    table = call("status", capsys=capsys)[1].splitlines()
    assert table[0].split() == list(row)[:10]


@pytest.mark.parametrize("count", [3, 40])
def test_long_lists_of_failures_are_cut(count):
    row = {"study": "airline", "store": "live", "running": [], "failures": [
        {"run": f"airline/rope seed {n}", "error": "no", "log": ""} for n in range(count)]}
    lines = status.text([row]).splitlines()
    assert len(lines) == 1 + min(count, status.LISTED + 1)
    assert (f"airline: {count - status.LISTED} more" in lines[-1]) == (count == 40)
