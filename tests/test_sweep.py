import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from seqlib.errors import SeqlibError
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS, Arm
from seqlib.studies.airline.specs import AirlineSpec, group
from seqlib.sweep import InProcess, note_of, sweep
from tests.studies.test_airline import Exploding

ROOT = Path(__file__).parents[1]
SPECS = [AirlineSpec(arm=a, seed=s, epochs=1) for a in ("rope", "learned") for s in range(3)]


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def test_groups_differ_in_the_seed_alone_and_hold_every_spec():
    specs = SPECS + [AirlineSpec(arm="rope", seed=s, epochs=2) for s in range(40)] + [
        AirlineSpec(arm="lstm", seed=s, engine="loop") for s in range(2)]
    groups = group(specs)
    assert sorted(s.key for g in groups for s in g) == sorted(s.key for s in specs)
    assert all(len({s.model_dump_json(exclude={"seed"}) for s in g}) == 1 for g in groups)
    assert all(len(g) <= 30 for g in groups)
    assert all(len(g) == 1 for g in groups if g[0].engine == "loop")


@pytest.mark.parametrize("make", [InProcess, lambda: ThreadPoolExecutor(1)])
def test_any_executor_gives_all_records_once(tmp_path, make):
    store, trained = Store(tmp_path / "store"), []
    with make() as executor:
        records = sweep(SPECS, store, executor, quiet=True, trained=trained)
        assert [r.key for r in records] == [s.key for s in SPECS] and len(trained) == 6
        again = sweep(SPECS, store, executor, quiet=True, trained=trained)
    assert again == records and len(trained) == 6 and len(list(store.records("airline"))) == 6


def test_a_damaged_record_is_done_again_and_nothing_else(tmp_path):
    store, trained = Store(tmp_path / "store"), []
    records = sweep(SPECS, store, quiet=True)
    store.path("airline", records[2].key).write_text("{}")
    with pytest.warns(UserWarning, match="damaged"):
        sweep(SPECS, store, quiet=True, trained=trained)
    assert [r.key for r in trained] == [records[2].key]


def test_a_thousand_runs_at_once_hold_their_locks_within_the_limit_of_open_files(checkout):
    process = subprocess.run(["bash", "-c", """ulimit -Sn 100; exec "$0" -c '
from concurrent.futures import Future
from seqlib import sweep
from seqlib.store import Store
from seqlib.studies.airline.specs import AirlineSpec

class Late(sweep.Executor):
    count = 0
    def submit(self, call, specs, *more):
        self.count += 1
        future = Future()
        if self.count >= 200:
            future.set_exception(ValueError("enough"))
        return future

specs = [AirlineSpec(arm="rope", seed=seed, engine="loop") for seed in range(200)]
executor = Late()
try:
    sweep.sweep(specs, Store.live(), executor, workers=1000, quiet=True, fail_fast=True)
except sweep.RunsFailed:
    print(executor.count)
'""", sys.executable], env=checkout.environment(PYTHONPATH=ROOT), capture_output=True, text=True)
    assert process.stdout.strip() == "200", process.stderr


def test_a_failing_group_keeps_the_records_before_it(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 64))
    bad = AirlineSpec(arm="gru", epochs=1)
    with pytest.raises(SeqlibError, match="not finite"):
        sweep([*SPECS, bad], store, quiet=True)
    assert len(list(store.records("airline"))) == 6


class Hot(Arm):
    """Weights that are not finite for one seed of those that train together."""

    def build(self):
        model = super().build()
        if torch.initial_seed() == 2:
            nn.init.constant_(model.head.bias, torch.nan)
        return model


def test_one_diverging_seed_of_a_stack_loses_itself_alone(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setitem(ARMS, "gru", Hot("gru", 8))
    specs = [AirlineSpec(arm="gru", seed=seed, epochs=1) for seed in range(4)]
    with pytest.raises(SeqlibError, match="airline/gru seed 2: .* is not finite") as caught:
        sweep(specs, store, quiet=True)
    assert "\n" not in str(caught.value)
    assert [record.spec["seed"] for record in store.records("airline")] != [0, 1, 2, 3]
    assert {record.spec["seed"] for record in store.records("airline")} == {0, 1, 3}
    note = json.loads(note_of(specs[2]).read_text())
    assert note["spec"]["seed"] == 2 and "is not finite" in note["error"]
    monkeypatch.setitem(ARMS, "gru", Arm("gru", 8))
    sweep(specs, store, quiet=True)
    assert not note_of(specs[2]).exists() and len(list(store.records("airline"))) == 4


def test_a_run_that_diverges_is_not_noted_with_another_s_traceback(tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "gru", replace(ARMS["gru"], hidden=-1))  # torch refuses it
    monkeypatch.setitem(ARMS, "lstm", Exploding("lstm", 8))
    raises, diverges = (AirlineSpec(arm=arm, epochs=1) for arm in ("gru", "lstm"))
    with pytest.raises(SeqlibError, match="2 runs failed"):
        sweep([raises, diverges], Store(tmp_path / "store"), quiet=True)
    assert json.loads(note_of(raises).read_text())["traceback"]
    assert json.loads(note_of(diverges).read_text())["traceback"] == []


def test_runs_go_on_beside_one_that_fails_and_all_failures_are_named(tmp_path, monkeypatch):
    store, good = Store(tmp_path / "store"), SPECS[:3]
    monkeypatch.setitem(ARMS, "gru", replace(ARMS["gru"], hidden=-1))  # torch refuses it
    bad = [AirlineSpec(arm="gru", seed=seed, engine="loop", epochs=1) for seed in range(2)]
    named = "2 runs failed; what is finished is kept:\n  airline/gru seed 0"
    with pytest.raises(SeqlibError, match=named):
        sweep([*bad, *good], store, quiet=True)
    assert len(list(store.records("airline"))) == 3
    assert "Traceback" in "".join(json.loads(note_of(bad[0]).read_text())["traceback"])
    named = "^airline/gru seed 0: [A-Za-z]+Error: .*its traceback is in"
    with pytest.raises(SeqlibError, match=named):
        sweep([*bad, *good], store, quiet=True, fail_fast=True)


@pytest.mark.parametrize("program", ["file", "-"])
def test_a_script_with_workers_and_no_guard_ends_with_one_line_that_names_it(tmp_path, program):
    text = "import seqlib\nseqlib.train('airline', arm=['rope', 'gru'], epochs=1, workers=2)\n"
    file = tmp_path / "script.py"
    file.write_text(text)
    given = {"input": text} if program == "-" else {}
    command = [sys.executable, "-" if program == "-" else str(file)]
    environment = {**os.environ, "SEQLIB_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120,
                          **given)
    assert done.returncode and '`if __name__ == "__main__":`' in done.stderr
    file.write_text(text.replace("seqlib.train", "if __name__ == '__main__':\n    seqlib.train"))
    if program == "file":
        assert subprocess.run(command, env=environment, timeout=120).returncode == 0


def test_who_waits_for_a_run_says_who_holds_it(tmp_path, caplog):
    store = Store(tmp_path / "store")
    with (ThreadPoolExecutor(1) as other, store.lock(SPECS[0].key),
          caplog.at_level("INFO", "seqlib")):
        def wait():
            with store.lock(SPECS[0].key, run="airline/rope seed 0"):
                pass

        future = other.submit(wait)
        wait_for(lambda: "waiting for" in caplog.text)
        assert f"waiting for airline/rope seed 0, which process {os.getpid()} on" in caplog.text
        assert not future.done()


def test_an_interrupted_in_process_sweep_lets_go_of_its_locks(tmp_path, monkeypatch):
    """What stopping a cell in a notebook does: the same kernel sweeps again."""
    store = Store(tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr("seqlib.sweep.run_group", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep(SPECS, store, quiet=True)
    assert len(sweep(SPECS, store, quiet=True)) == 6


def interrupt(*given):
    raise KeyboardInterrupt


def test_records_of_other_code_are_trained_again_where_asked(tmp_path):
    store, trained = Store(tmp_path / "store"), []
    records = sweep(SPECS, store, quiet=True)
    other_code = {**records[1].provenance, "code_hash": "0" * 64}
    old = records[1].model_copy(update={"provenance": other_code})
    old.checksum = old.expected_checksum()
    store.put(old)
    sweep(SPECS, store, quiet=True, trained=trained)
    assert trained == []
    again = sweep(SPECS, store, quiet=True, trained=trained, redo_older=True)
    assert [r.key for r in trained] == [old.key]
    assert again[1].provenance["code_hash"] == records[0].provenance["code_hash"]


def test_a_metric_that_is_not_finite_is_never_recorded(tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 64))
    store, spec = Store(tmp_path / "store"), AirlineSpec(arm="gru", epochs=1, protocol="rolling")
    with pytest.raises(SeqlibError, match="airline/gru seed 0: .* is not finite"):
        sweep([spec], store, quiet=True)
    assert list(store.records("airline")) == []


def test_ctrl_c_keeps_what_is_finished_and_the_next_sweep_resumes(checkout):
    arguments = ("sweep", "airline", "published", "--arms", "rope,lstm", "--seeds", "0-3",
                 "--set", "epochs=151")
    process = checkout.start(*arguments)
    checkpoints = checkout.root / "runs" / "checkpoints"
    wait_for(lambda: len(checkout.records()) == 4 and any(checkpoints.glob("*.safetensors")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err and "Traceback" not in err
    assert len(checkout.records()) == 4 and any(checkpoints.glob("*.safetensors"))
    code, out, _ = checkout.seqlib(*arguments)
    assert code == 0 and "8 records" in out and "4 of them new" in out
    assert len(checkout.records()) == 8 and not any(checkpoints.glob("*.safetensors"))
    records = [json.loads(path.read_text()) for path in checkout.records()]
    resumed = [r for r in records if r["provenance"].get("resumed")]
    assert len(resumed) == 4 and all(r["spec"]["arm"] == "rope" for r in resumed)
    assert not any("seconds" in r["metrics"] for r in resumed)
    assert all(r["metrics"]["seconds"] > 0 for r in records if r not in resumed)


def test_a_full_disk_ends_a_sweep_with_one_line_and_loses_no_record(checkout):
    """The system refuses every file beyond 1 kB, which is what a sweep sees of a full disk."""
    arguments = ("sweep", "airline", "baselines", "--set", "epochs=1")
    assert checkout.seqlib(*arguments, "--arms", "naive,sarima")[0] == 0
    before = {path: path.read_bytes() for path in checkout.records()}
    assert len(before) == 2
    process = checkout.start(*arguments, limit=1000)
    _, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if line.startswith("seqlib:")]
    assert process.returncode == 1 and len(lines) == 1
    assert "cannot write" in lines[0] and "free space" in lines[0]
    assert {path: path.read_bytes() for path in checkout.records()} == before
    code, out, _ = checkout.seqlib(*arguments)
    assert code == 0 and "6 of them new" in out


def test_two_sweeps_at_once_share_the_work(checkout):
    arguments = ("sweep", "airline", "published", "--seeds", "0-2", "--set", "epochs=10")
    both = [checkout.start(*arguments, OMP_NUM_THREADS=1) for _ in range(2)]
    results = [p.communicate(timeout=200) for p in both]
    assert [p.returncode for p in both] == [0, 0], results
    new = [int(out.split(",")[1].split()[0]) for out, _ in results]
    assert sum(new) == 15 == len(checkout.records())
    assert all(json.loads(path.read_text())["key"] == path.stem for path in checkout.records())


def test_a_killed_worker_gives_one_line_and_the_next_sweep_resumes(checkout):
    arguments = ("sweep", "airline", "published", "--arms", "rope,lstm,gru", "--seeds", "0-1",
                 "--set", "epochs=160")  # not the plan's
    process = checkout.start(*arguments, "--workers", "2")
    wait_for(lambda: len(checkout.records()) >= 2)
    workers = workers_of(process.pid)
    assert workers
    workers[0].kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "a worker process died" in err and "Traceback" not in err
    kept = len(checkout.records())
    assert 2 <= kept < 6
    code, out, _ = checkout.seqlib(*arguments)
    assert code == 0 and f"{6 - kept} of them new" in out


@pytest.mark.parametrize("number, code, said", [
    (signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, "ended by SIGTERM; what is finished is kept")])
def test_a_killed_sweep_leaves_no_worker_behind(checkout, number, code, said):
    process = checkout.start("sweep", "airline", "published", "--arms", "rope,lstm",
                             "--seeds", "0-1", "--set", "epochs=10000", "--workers", "2")
    checkpoints = checkout.root / "runs" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*.safetensors")))
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and said in err and "Traceback" not in err
    wait_for(lambda: all(map(ended, workers)), seconds=20)


def workers_of(parent: int) -> list[psutil.Process]:
    """A sweep's workers."""
    return [child for child in psutil.Process(parent).children()
            if "spawn_main" in " ".join(child.cmdline())]


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended; it may wait to be collected."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
