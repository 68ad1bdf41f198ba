"""A Dask cluster of separate processes trains what one process does, and nothing is lost or made
twice where its workers die."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dask
import pytest
import torch
from distributed import Client, LocalCluster

import seqlib
from seqlib.errors import UsageError
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS, Arm
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import RunsFailed, note_of, sweep
from seqlib.training import in_own_process
from seqlib.verify import differences
from tests.test_cli import call
from tests.test_sweep import SPECS, wait_for

LOOPS = [AirlineSpec(arm=arm, seed=seed, epochs=5, engine="loop")
         for arm in ("rope", "gru") for seed in range(4)]
SETTINGS = {"distributed.worker.daemon": False,  # such a process may start none of its own
            "distributed.scheduler.worker-saturation": 1.0,  # no task waits on a worker
            "distributed.scheduler.allowed-failures": 1}


class Deadly(Arm):
    def build(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    environment = {"SEQLIB_RUNS": str(tmp_path_factory.mktemp("workers"))}
    with (dask.config.set(SETTINGS),
          LocalCluster(2, threads_per_worker=1, dashboard_address=None, env=environment) as cluster,
          Client(cluster) as client):
        yield client


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have
    yield
    torch.set_num_threads(threads)


def test_a_cluster_makes_the_records_that_this_process_makes(client, tmp_path, one_thread):
    specs = SPECS + LOOPS[:1]  # two stacks and a single run
    here = sweep(specs, Store(tmp_path / "here"), quiet=True)
    there = sweep(specs, Store(tmp_path / "there"), client=client, quiet=True)
    assert [record.key for record in there] == [spec.key for spec in specs]
    assert not any(differences(a, b) for a, b in zip(here, there))
    assert {record.provenance["threads"] for record in here + there} == {1}
    assert len(list(Store(tmp_path / "there").records("airline"))) == len(specs)


def test_runs_of_a_killed_worker_are_made_by_another_and_none_twice(client, tmp_path):
    store, trained = Store(tmp_path / "store"), []
    workers = client.run(os.getpid)

    def kill():
        wait_for(lambda: list((tmp_path / "store").rglob("*.json")))
        os.kill(next(iter(workers.values())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    sweep(LOOPS, store, client=client, quiet=True, trained=trained)
    killer.join()
    assert sorted(record.key for record in trained) == sorted(spec.key for spec in LOOPS)
    assert {record.key for record in store.records("airline")} == {spec.key for spec in LOOPS}
    sweep(LOOPS, store, client=client, quiet=True, trained=trained)
    assert len(trained) == len(LOOPS)


def test_a_frame_of_runs_from_a_cluster_and_a_failure_that_ends_itself_alone(
        client, monkeypatch, capsys):
    runs = seqlib.train("airline", "smoke", arm=["rope", "lstm"], epochs=1, client=client)
    assert len(runs) == 2 and runs.attrs["trained"] == 2 and set(runs.live) == {True}
    assert seqlib.train("airline", "smoke", arm=["rope", "lstm"], epochs=1).attrs["trained"] == 0
    command = ("sweep", "airline", "smoke", "--arms", "rope", "--scheduler",
               client.scheduler.address, "--set", "epochs=1,3")
    code, out, err = call(*command, capsys=capsys)
    assert code == 0 and "2 records of airline" in out and "1 of them new" in out
    monkeypatch.setitem(ARMS, "gru", Arm("gru", -1))  # torch refuses it
    with pytest.raises(seqlib.errors.SeqlibError, match="airline/gru seed 0: "):
        seqlib.train("airline", "smoke", arm=["gru", "rope"], epochs=2, client=client)
    assert len(list(Store.live().records("airline"))) == 4
    assert note_of(AirlineSpec(arm="gru", epochs=2)).exists()


def test_a_run_that_kills_its_workers_fails_and_the_others_go_on(client, tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "lstm", Deadly("lstm", 8))
    store, deadly = Store(tmp_path / "store"), AirlineSpec(arm="lstm", epochs=1)
    with pytest.raises(RunsFailed, match="KilledWorker") as caught:
        sweep([deadly, *LOOPS[:4]], store, client=client, quiet=True)
    assert [failure.spec for failure in caught.value.failures] == [deadly]
    assert len(list(store.records("airline"))) == 4


def test_a_worker_with_other_code_is_named(client, tmp_path, monkeypatch):
    kind = seqlib.study.get("airline")
    monkeypatch.setattr(type(kind), "fingerprint", lambda self, arm: "0" * 64)
    with pytest.raises(UsageError, match="has other code of airline/rope than the machine"):
        sweep(SPECS[:1], Store(tmp_path / "store"), client=client, quiet=True)


def test_a_worker_may_start_a_process_as_some_studies_do(client):
    child = client.submit(in_own_process, os.getpid, threads=1, what="a run").result(120)
    assert child not in client.run(os.getpid).values()


def test_the_command_trains_on_a_cluster_and_ends_with_one_line_where_that_is_lost(
        checkout, tmp_path):
    """Scheduler and worker as an operator starts them."""
    dask_command, file = Path(sys.executable).with_name("dask"), tmp_path / "scheduler.json"
    environment = checkout.environment(DASK_DISTRIBUTED__WORKER__DAEMON="False")
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler, worker = (subprocess.Popen([dask_command, *arguments], **quiet) for arguments in (
        ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
         "--scheduler-file", str(file)),
        ("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard")))
    try:
        wait_for(lambda: file.exists() and file.read_text())
        address = seqlib.yamls.parse(file.read_text(), str(file))["address"]
        runs = ("sweep", "airline", "loop", "--arms", "rope", "--set", "epochs=5",
                "--scheduler", address)
        sweeping = checkout.start(*runs, "--seeds", "0-29")
        wait_for(lambda: len(checkout.records()) >= 2)
        scheduler.kill()
        out, err = sweeping.communicate(timeout=120)
        said = [line for line in err.splitlines() if line.startswith("seqlib: ")]
        assert sweeping.returncode == 1 and len(said) == 1 and "Traceback" not in err
        assert "scheduler is lost" in said[0] and 2 <= len(checkout.records()) < 30
    finally:
        for process in (scheduler, worker):
            process.kill() if process is scheduler else process.terminate()
            process.wait(60)
