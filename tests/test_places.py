"""Folders that the environment names, machines without a home that can be written, and without the
modules that Windows lacks."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from seqlib import data, places, processes, provenance
from seqlib.store import Store, scratch

ROOT = Path(__file__).parents[1]
WITHOUT = "import sys; sys.modules |= dict.fromkeys(['resource', 'fcntl']); import seqlib.cli; "


def seqlib(*arguments, python=(sys.executable,), cwd=ROOT, **more):
    environment = {**os.environ, "SEQLIB_RESULTS": str(ROOT / "results"),
                   "PYTHONDONTWRITEBYTECODE": "1", **more}
    return subprocess.run([*python, *arguments], env=environment, cwd=cwd, capture_output=True,
                          text=True, timeout=300)


def powerless():
    """What a command begins with, so that the modes of files hold for it: root ignores them."""
    power = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # reads alone
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *power]
    if os.geteuid():
        return []
    if not shutil.which("setpriv") or subprocess.run([*command, "true"]).returncode:
        pytest.skip("root cannot give up its powers here")
    return command


def test_a_read_only_install_without_a_home_is_enough_to_look(tmp_path):
    shutil.copytree(ROOT / "seqlib", tmp_path / "seqlib",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*tmp_path.rglob("*"), tmp_path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    calls = [["status"], ["claims", "--study", "gpt2"], ["params", "ernie"], ["--help"]]
    program = f"from seqlib.cli import main\nfor call in {calls}: main(call)"
    python = [*powerless(), sys.executable]
    done = seqlib("-c", program, python=python, cwd="/", HOME="/nonexistent", SEQLIB_RUNS="",
                  PYTHONPATH=str(tmp_path), SEQLIB_ROOT=str(tmp_path))
    assert done.returncode == 0 and not done.stderr
    assert all(word in done.stdout for word in ("older_code", "G01", "trainable", "Usage"))


def test_a_home_that_cannot_be_written_is_replaced_by_one_in_scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    places.settle()
    assert os.environ["HOME"] == str(tmp_path / "runs" / "home")
    places.settle()
    assert os.environ["HOME"] == str(tmp_path / "runs" / "home")


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    places.settle()
    assert os.environ["HOME"] == str(tmp_path) and not list(tmp_path.iterdir())


def test_status_runs_without_the_modules_that_windows_lacks(tmp_path):
    (tmp_path / "gpt2").symlink_to(ROOT / "results" / "gpt2")  # a small archive
    done = seqlib("-c", WITHOUT + "seqlib.cli.main(['status'])", SEQLIB_RESULTS=str(tmp_path))
    assert done.returncode == 0 and "airline" in done.stdout, done.stderr


def test_windows_counts_its_memory_and_has_no_hangup(monkeypatch):
    memory = type("Memory", (), {"peak_wset": 3 * 2**20})
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: memory)
    monkeypatch.setattr(provenance, "Path", lambda path: Path("/nonexistent"))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert provenance.peak_rss_mb() == 3
    monkeypatch.delattr(signal, "SIGHUP")
    before = signal.getsignal(signal.SIGTERM)
    with processes.signals_unwind():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in places.NAMED:
        monkeypatch.setenv(name, f"~/{name}")
    assert scratch() == tmp_path / "SEQLIB_RUNS"
    assert Store.archive().root == tmp_path / "SEQLIB_RESULTS"
    assert data.cache() == tmp_path / "SEQLIB_CACHE"
    (tmp_path / "SEQLIB_DATA" / "gpt2").mkdir(parents=True)
    assert data.given("gpt2") == tmp_path / "SEQLIB_DATA" / "gpt2"


def test_a_relative_folder_is_that_of_the_process_that_was_started_there(tmp_path):
    program = ("import os, subprocess, sys; from seqlib.store import Store; os.chdir('/'); "
               "print(Store.live().root); print(os.environ['SEQLIB_DATA'], flush=True); "
               "subprocess.run([sys.executable, '-c', "
               "'from seqlib.store import Store; print(Store.live().root)'])")
    done = seqlib("-c", program, cwd=tmp_path, SEQLIB_RUNS="mine", SEQLIB_DATA="~/x",
                  HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    records = str(tmp_path / "mine" / "records")
    assert done.stdout.split() == [records, str(tmp_path / "x"), records], done.stderr


@pytest.mark.parametrize("arguments", [["data"], ["data", "gpt2"], ["data", "tnews"]])
def test_a_misspelt_data_folder_is_one_line_and_no_stand_in(arguments, tmp_path):
    done = seqlib("-m", "seqlib", *arguments, HOME=str(tmp_path), SEQLIB_DATA="~/typo")
    assert done.returncode == 1 and f"there is no folder {tmp_path}/typo" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_the_first_that_can_be_had_is_not_asked_where_the_data_folder_is_misspelt(monkeypatch):
    monkeypatch.setenv("SEQLIB_DATA", "/nonexistent")
    with pytest.raises(data.WrongFile, match="SEQLIB_DATA: there is no folder /nonexistent"):
        data.first("gpt2", "airline")
