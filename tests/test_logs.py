"""The log of a run: in this process, in a pool's worker and in a process of its own, and what it
says of one that fails or dies."""

import json
import logging
import os
import platform
import signal
import warnings
from dataclasses import replace

import pytest

from seqlib import logs
from seqlib.errors import SeqlibError
from seqlib.store import Store, scratch
from seqlib.studies.airline.arms import ARMS, Arm
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import InProcess, sweep
from tests.studies.test_airline import Exploding
from tests.test_sweep import SPECS


def log_of(spec):
    return logs.path(spec.study, spec.key).read_text().splitlines()


class Loud(Arm):
    """An arm whose making warns, logs, and starts a process that is killed where it is told to."""

    def build(self):
        warnings.warn("a thing to know", stacklevel=1)
        logging.getLogger("seqlib.studies.airline").info("made")
        return super().build()


class Dying(Arm):
    def build(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_says_where_it_began_what_it_kept_and_how_it_ended(tmp_path, workers):
    store, spec = Store(tmp_path / "store"), AirlineSpec(arm="gru", epochs=51)
    sweep([*SPECS[:3], spec], store, workers=workers, quiet=True)
    first, *_, last = log_of(SPECS[1])
    process = int(first.split("process ")[1].split(":")[0])
    assert f"began on {platform.node()}, process" in first
    assert (process == os.getpid()) == (workers == 1)
    assert json.dumps(SPECS[1].model_dump()) in first and "seeds 0, 1, 2" in first
    record = store.get(SPECS[1])
    assert " done after " in last and f"test_mae {record.metrics['test_mae']:g}" in last
    assert any(f"kept {scratch() / 'checkpoints'}" in line for line in log_of(spec))
    assert "together" not in log_of(spec)[0]


def test_warnings_and_what_the_package_logs_are_kept_and_still_seen(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "seqlib")
    monkeypatch.setitem(ARMS, "gru", Loud("gru", 8))
    spec = AirlineSpec(arm="gru", epochs=1, engine="loop")
    logger, before = logging.getLogger("seqlib"), warnings.showwarning
    level, shown = logger.level, logger.handlers[:]
    with pytest.warns(UserWarning, match="a thing to know"):
        sweep([spec], Store(tmp_path / "store"), quiet=True)
    text = "\n".join(log_of(spec))
    assert "warning: UserWarning: a thing to know" in text and "info: made" in text
    assert (logger.level, logger.handlers, warnings.showwarning) == (level, shown, before)
    assert "made" in caplog.text and "kept" not in caplog.text


def test_a_failure_has_its_traceback_and_a_new_try_replaces_it(tmp_path, monkeypatch):
    good, bad = ARMS["gru"], AirlineSpec(arm="gru", epochs=1)
    monkeypatch.setitem(ARMS, "gru", replace(good, hidden=-1))  # torch refuses it
    with pytest.raises(SeqlibError):
        sweep([bad], Store(tmp_path / "store"), quiet=True)
    text = "\n".join(log_of(bad))
    assert "failed after" in text and "Traceback" in text and text.count("failed") == 1
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 8))
    with pytest.raises(SeqlibError):
        sweep([bad], Store(tmp_path / "store"), quiet=True)
    assert "is not finite" in log_of(bad)[-1] and "Traceback" not in "\n".join(log_of(bad))
    monkeypatch.setitem(ARMS, "gru", good)
    sweep([bad], Store(tmp_path / "store"), quiet=True)
    assert "done after" in log_of(bad)[-1] and "failed" not in "\n".join(log_of(bad))


def test_a_run_whose_own_process_was_killed_says_so(tmp_path, monkeypatch):
    """It cannot itself: its sweep does."""
    monkeypatch.setitem(ARMS, "gru", Dying("gru", 8))
    kind = type("Alone", (), {"alone": staticmethod(lambda spec: 1)})
    from seqlib import study

    monkeypatch.setitem(study.REGISTERED, "airline",
                        replace(study.get("airline"), alone=kind.alone))
    spec = AirlineSpec(arm="gru", epochs=1)
    with pytest.raises(SeqlibError, match="died"):
        sweep([spec], Store(tmp_path / "store"), quiet=True)
    first, last = log_of(spec)
    assert str(os.getpid()) not in first and "failed: the process that trained" in last


def test_stopping_a_cell_is_an_interruption(monkeypatch):
    @logs.logged
    def train(name, specs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("airline", SPECS[:1])
    assert "interrupted after" in log_of(SPECS[0])[-1]


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path):
    scratch().mkdir()
    (scratch() / "logs").write_text("in the way")
    with InProcess() as executor:
        assert len(sweep(SPECS[:1], Store(tmp_path / "store"), executor, quiet=True)) == 1
