"""The identical command on several machines over one folder: processes of their own, with the file
system's locks and without."""

import errno
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from seqlib import store as stores
from seqlib.store import Store
from seqlib.sweep import sweep
from tests.test_sweep import SPECS, wait_for

ROOT = Path(__file__).parents[1]
NO_FLOCK = """
import errno, fcntl, os, socket

def missing(*arguments):
    raise OSError(errno.ENOSYS, "Function not implemented")

fcntl.flock = missing
if "NODE" in os.environ:
    socket.gethostname = lambda: os.environ["NODE"]
"""
RUNS = ("sweep", "airline", "loop", "--arms", "rope,gru,lstm", "--seeds", "0-3",
        "--set", "epochs=4")


@pytest.fixture
def no_flock(tmp_path):
    """Variables of processes that see a file system without flock."""
    (tmp_path / "sitecustomize.py").write_text(NO_FLOCK)
    return {"OMP_NUM_THREADS": 1, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


def new(out):
    """How many records a sweep says it has made."""
    return int(out.split(",")[1].split()[0])


@pytest.mark.parametrize("locks", ["flock", "leases"])
def test_three_machines_share_the_work_and_one_that_is_killed_loses_its_own_alone(
        checkout, no_flock, locks):
    variables = no_flock if locks == "leases" else {"OMP_NUM_THREADS": 1}
    nodes = [checkout.start(*RUNS, **variables) for _ in range(3)]
    wait_for(lambda: len(checkout.records()) >= 2)
    nodes[0].kill()
    before = {path.stem: path.read_bytes() for path in checkout.records()}
    said = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [-9, 0, 0], said
    records = {path.stem: path for path in checkout.records()}
    assert len(records) == 12
    assert all(records[key].read_bytes() == text for key, text in before.items())
    assert 0 < sum(new(out) for out, _ in said[1:]) <= 12
    assert not any("Traceback" in err or "damaged" in err for _, err in said)
    store = checkout.root / "runs" / "records"
    assert not [path for path in store.rglob("*") if path.suffix in (".tmp", ".holder", ".lease")]


def test_a_killed_sweep_goes_on_at_once_where_there_is_no_flock(checkout, no_flock):
    node, leases = checkout.start(*RUNS, **no_flock), checkout.root / "runs" / "records" / ".locks"

    def caught():  # with a lease in hand, which it lacks between two runs
        if len(checkout.records()) < 2:
            return False
        node.send_signal(signal.SIGSTOP)
        if any(path.stat().st_size for path in leases.glob("*.lease")):
            return True
        node.send_signal(signal.SIGCONT)
        return False

    wait_for(caught)
    node.kill()
    node.communicate()
    kept = len(checkout.records())
    assert list(leases.glob("*.lease"))
    began = time.monotonic()
    code, out, err = checkout.seqlib(*RUNS, **no_flock)
    assert code == 0 and new(out) == 12 - kept and "Traceback" not in err
    assert time.monotonic() - began < stores.LEASE  # a holder that died on this machine is seen
    assert not list(leases.glob("*.lease"))


def test_what_is_finished_is_kept_while_another_machine_holds_what_is_left(tmp_path):
    store, (a, b) = Store(tmp_path / "store"), SPECS[0:4:3]  # two groups
    with (ThreadPoolExecutor(2) as runs, ThreadPoolExecutor(1) as sweeps, ExitStack() as held):
        held.enter_context(store.lock(b.key))
        with store.lock(a.key):
            future = sweeps.submit(sweep, [a, b], store, runs, workers=2, quiet=True)
            time.sleep(1)  # it finds both held, and waits
        wait_for(lambda: store.path("airline", a.key).exists())
        assert not future.done()
        held.close()
        assert [record.key for record in future.result(120)] == [a.key, b.key]


def without_flock(monkeypatch):
    """This process sees a file system without flock, and leases of a second and a half."""
    def missing(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    monkeypatch.setattr(stores, "LEASE", 1.5)


def test_a_lease_whose_holder_was_killed_before_it_wrote_it_is_free_soon_after(
        tmp_path, monkeypatch):
    without_flock(monkeypatch)
    store, lease = Store(tmp_path), tmp_path / ".locks" / f"{'a' * 64}.lease"
    lease.parent.mkdir()
    lease.touch()
    with store.lock("a" * 64, wait=False) as held:
        assert not held  # it may be being written
    began = time.monotonic()
    with store.lock("a" * 64) as held:
        assert held and 1.4 < time.monotonic() - began < 20
    assert not lease.exists()


def test_another_machine_s_lease_is_waited_for_while_it_lives_and_free_soon_after(
        tmp_path, monkeypatch, no_flock):
    script = textwrap.dedent(f"""
        import sys, time
        from seqlib import store
        store.LEASE = 1.5
        with store.Store({str(tmp_path)!r}).lock("a" * 64, wait=False) as held:
            print(held, flush=True)
            time.sleep(600)
    """)
    environment = {"PYTHONPATH": no_flock["PYTHONPATH"], "NODE": "elsewhere"}
    other = subprocess.Popen([sys.executable, "-c", script], env=environment, text=True,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == "True\n"
    without_flock(monkeypatch)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        with Store(tmp_path).lock("a" * 64, wait=False) as held:
            assert not held
        time.sleep(0.3)
    other.kill()
    other.communicate()
    killed = time.monotonic()
    with Store(tmp_path).lock("a" * 64) as held:
        assert held and 0.5 < time.monotonic() - killed < 20
    with Store(tmp_path).lock("a" * 64, wait=False) as held:
        assert held
