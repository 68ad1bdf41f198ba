"""The bar of a sweep: what it names, the time left by records of like runs, and the one line of a
sweep without a bar."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from seqlib.progress import Times, duration, settings
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import sweep
from tests.test_sweep import SPECS


def put(store, spec, wall, **more):
    facts = {"wall_seconds": wall, "code_hash": "", **more}
    store.put(Record.of(spec, {"seconds": wall}, {}, facts))


def shown(capsys):
    """What a bar has shown, one state after the other."""
    return [state.strip() for state in re.split(r"[\r\n]", capsys.readouterr().err) if state]


@pytest.mark.parametrize("where", [Store.archive, Store.live])
def test_the_time_left_is_that_of_records_with_the_same_settings(tmp_path, capsys, where):
    for arm in ("rope", "learned"):
        put(where(), AirlineSpec(arm=arm, seed=7, epochs=1), 7200)
        put(where(), AirlineSpec(arm=arm, seed=7, epochs=2), 10)  # another setting
    sweep(SPECS, Store(tmp_path / "store"))
    states = shown(capsys)
    assert re.search(r"airline:\s+0%.* 0/6 \[00:00<(12:00:00|11:59:5\d)", states[0] + states[1])
    assert any("rope seed 0 to 2" in state for state in states)
    assert "6/6" in states[-1]
    learned = [state for state in states if "3/6" in state and "learned" in state]
    assert re.search(r"<00:0\d", learned[-1]), "what ended here was faster, so the rest will be"


def test_without_such_records_the_estimate_is_that_of_tqdm(tmp_path, capsys):
    put(Store.archive(), AirlineSpec(arm="rope", seed=7, epochs=1), 7200)  # none of `learned`
    sweep(SPECS, Store(tmp_path / "store"))
    assert "<?" in shown(capsys)[0]


def test_runs_that_train_together_are_one_piece_of_work_for_several_workers(tmp_path, capsys):
    for arm in ("rope", "learned"):
        put(Store.live(), AirlineSpec(arm=arm, seed=7, epochs=1), 7200)
    with ThreadPoolExecutor(1) as executor:
        sweep(SPECS[:3], Store(tmp_path / "store"), executor, workers=2)
        assert re.search(r"<(6:00:00|5:59:5\d)", capsys.readouterr().err), "one has nothing to do"
        sweep(SPECS, Store(tmp_path / "other"), executor, workers=2)
        assert re.search(r"<(6:00:00|5:59:5\d)", capsys.readouterr().err), "both have"


def test_seeds_that_trained_together_share_the_clock_and_a_resumed_run_does_not_tell(tmp_path):
    times, spec = Times(), SPECS[0]
    put(Store.live(), spec, 90, seeds_at_once=3)
    put(Store.live(), SPECS[1], 5, resumed=True)
    times.look([SPECS[2]], [Store.live()])
    assert times.of(settings(spec)) == 30 and times.of(settings(SPECS[3])) is None


def test_a_damaged_record_that_was_looked_at_stays_where_it_is():
    put(Store.archive(), SPECS[1], 5)
    path = Store.archive().path("airline", SPECS[1].key)
    path.write_text("{}")
    Times().look(SPECS[:1], [Store.archive()])
    assert path.read_text() == "{}"


def test_where_no_bar_is_wanted_one_line_is_logged(tmp_path, capsys, monkeypatch, caplog):
    """As in the kernel of a page, which shows no log and says it in a sentence of its own."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    store = Store(tmp_path / "store")
    sweep(SPECS[:1], store, quiet=True)
    with caplog.at_level("INFO", "seqlib"):
        sweep(SPECS[:3], store)
        sweep(SPECS[:3], store)  # nothing to do, nothing to say
    [said] = caplog.messages
    assert re.fullmatch(r"airline: trained 2 of 2 runs in \d+ s, found 1", said)
    assert "airline" not in capsys.readouterr().err


@pytest.mark.parametrize("seconds, text", [(40.4, "40 s"), (720, "12 min"), (12000, "3 h 20 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
