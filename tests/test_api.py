"""The researcher's functions."""

import warnings

import pandas as pd
import pytest

import seqlib
from seqlib.errors import UsageError
from seqlib.store import Store


@pytest.fixture
def archive(monkeypatch):
    from seqlib.store import ROOT

    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))


def test_the_top_of_the_package_has_them_and_nothing_else():
    assert {"load", "curves", "train", "compare", "verdicts"} <= set(seqlib.__all__)
    with pytest.raises(AttributeError, match="it has build, compare"):
        seqlib.laod  # noqa: B018
    assert all(getattr(seqlib, name).__doc__ for name in seqlib.__all__)


def test_load_gives_a_row_a_run_with_settings_and_metrics(archive):
    runs = seqlib.load("airline", "published")
    assert len(runs) == 150 and set(runs.experiment) == {"published"} and runs.current.all()
    assert {"arm", "seed", "epochs", "test_mse", "label", "key"} <= set(runs.columns)
    both = seqlib.load("shakespeare", ["published", "contexts"])
    assert set(both.experiment) == {"published", "contexts"}
    assert both.groupby(["experiment", "arm"]).val_loss_nats.mean()["published"]["lstm"] < 1.8


def test_an_archive_without_runs_gives_an_empty_frame_with_the_settings():
    runs = seqlib.load("airline", "published")
    assert runs.empty and {"arm", "seed", "epochs", "experiment"} <= set(runs.columns)
    assert seqlib.curves("airline", "val_loss", "published").empty


def published():
    return seqlib.load("airline", "published")


@pytest.mark.parametrize("call, problem", [
    (lambda: seqlib.load("airlin"), "did you mean 'airline'"),
    (lambda: seqlib.load(3), "unknown study 3"),
    (lambda: seqlib.load("airline", "publishd"), "did you mean 'published'"),
    (lambda: seqlib.load("airline", 3), "unknown experiment of airline 3"),
    (lambda: seqlib.load("airline", "live"), "not archived"),
    (lambda: seqlib.curves("airline", "val_los", "published"), "did you mean 'val_loss'"),
    (lambda: seqlib.curves("airline", "val_loss", runs=3), "wants a frame"),
    (lambda: seqlib.curves("airline", "val_loss", runs=pd.DataFrame({"a": [1]})), "column 'key'"),
    (lambda: seqlib.curves("gpt2", "val_loss", runs=published()), "no run .* is one of gpt2"),
    (lambda: seqlib.train("airline", arm="lstn"), "did you mean 'lstm'"),
    (lambda: seqlib.train("airline", arm={"lstm"}), "unknown arm"),
    (lambda: seqlib.train("airline", arm=[]), "empty list"),
    (lambda: seqlib.train("airline", arms=["lstm"]), "did you mean 'arm'"),
    (lambda: seqlib.train("airline", epoch=3), "did you mean 'epochs'"),
    (lambda: seqlib.train("airline", epochs=0), "epochs"),
    (lambda: seqlib.train("airline", epochs=True), "epochs: wants int"),
    (lambda: seqlib.train("airline", protocol="rollin"), "did you mean 'rolling'"),
    (lambda: seqlib.train("airline", lr={"lstn": 1e-3}), "arm in lr 'lstn'; did you mean 'lstm'"),
    (lambda: seqlib.train("airline", seed=2.0), "seed is a number of seeds"),
    (lambda: seqlib.train("airline", "lives"), "did you mean 'live'"),
    (lambda: seqlib.train("airline", ["live"]), "unknown experiment"),
    (lambda: seqlib.train("airline", "smoke", arm="lstm", workers=0), "workers is 0"),
    (lambda: seqlib.train("airline", "smoke", arm="lstm", workers="2"), "workers is '2'"),
    (lambda: seqlib.compare(3, "test_mse", "rope", "lstm"), "wants a frame"),
    (lambda: seqlib.compare(published(), "test_ms", "rope", "lstm"), "did you mean 'test_mse'"),
    (lambda: seqlib.compare(published(), "label", "rope", "lstm"), "unknown metric 'label'"),
    (lambda: seqlib.compare(published(), "test_mse", "rope", "lstn"), "did you mean 'lstm'"),
    (lambda: seqlib.compare(published(), "test_mse", "rope", "lstm", by="arms"), "mean 'arm'"),
    (lambda: seqlib.compare(seqlib.load("airline", "all"), "test_mse", "rope", "lstm"),
     "several runs of one seed.*experiment"),
    (lambda: seqlib.build("shakespeare", arm="lstn"), "did you mean 'lstm'"),
    (lambda: seqlib.build("shakespeare", arm=["lstm", "gru"]), "unknown arm"),
    (lambda: seqlib.build("shakespeare", arm="lstm", seed=[1, 2]), "seed"),
    (lambda: seqlib.build("shakespeare"), "arm: Field required"),
    (lambda: seqlib.verdicts("nope"), "unknown study"),
])
def test_a_misspelling_is_one_line_with_the_nearest_name(archive, call, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_experiment_that_is_named_twice_counts_once(archive):
    assert len(seqlib.load("airline", ["published", "published"])) == 150


def test_compare_pairs_by_seed_and_decides_without_a_family():
    runs = pd.DataFrame({"label": ["a"] * 8 + ["b"] * 8, "seed": [*range(8), *range(8)],
                         "loss": [1.0] * 8 + [2.0 + i / 9 for i in range(8)]})
    effect = seqlib.compare(runs, "loss", "a", "b")
    assert effect.n == 8 and effect.verdict == "a is lower" and effect.p < 0.05
    assert effect.low < effect.mean < effect.high < 0
    assert seqlib.compare(runs, "loss", "b", "a").verdict == "b is higher"
    assert seqlib.compare(runs[runs.seed < 3], "loss", "a", "b").verdict == "too few seeds"
    assert effect.text(digits=2, sign=-1) == "1.39 [1.15, 1.63]"
    assert seqlib.compare(runs[:0], "loss", "a", "b").verdict == "no pairs"
    empty = seqlib.load("airline", "published")  # the archive of this test has no runs
    assert seqlib.compare(empty, "test_mse", "rope", "lstm").verdict == "no pairs"


def test_a_frame_of_several_experiments_says_so(archive):
    """A mean over contexts or protocols is no figure of any of them."""
    with pytest.warns(UserWarning, match="experiments of airline with other settings: name one"):
        whole = seqlib.load("airline")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = seqlib.load("airline", "all")
        assert len(every) == len(whole) > len(seqlib.load("airline", "loop"))


def test_train_returns_the_frame_of_load_and_trains_once():
    live = seqlib.train("airline", arm=["lstm", "rope"], seed=2, epochs=2)
    assert len(live) == 4 and live.attrs["trained"] == 4 and live.current.all()
    assert set(live.arm) == {"lstm", "rope"}
    again = seqlib.train("airline", arm=["lstm", "rope"], seed=2, epochs=2)
    assert again.attrs["trained"] == 0 and again.test_mse.tolist() == live.test_mse.tolist()
    losses = seqlib.curves("airline", "train_loss", runs=live)
    assert len(losses) == 8 and set(losses.key) == set(live.key)


def test_curves_of_a_frame_come_from_the_store_that_the_frame_comes_from(archive):
    archived = seqlib.load("airline", "loop").query("arm == 'lstm' and seed == 0")
    record = Store.archive().by_key("airline", archived.key.iloc[0])
    changed = record.model_copy(update={"curves": {"val_loss": [1.0]}})
    changed.checksum = changed.expected_checksum()
    Store.live().put(changed)
    kept = seqlib.curves("airline", "val_loss", runs=archived)
    live = seqlib.curves("airline", "val_loss", runs=archived.assign(live=True))
    assert len(kept) == len(record.curves["val_loss"]) and live.value.tolist() == [1.0]


def test_a_changed_arm_is_trained_again(monkeypatch):
    from dataclasses import replace

    from seqlib.studies.airline.arms import ARMS

    first = seqlib.train("airline", arm="lstm", seed=1, epochs=1)
    monkeypatch.setitem(ARMS, "lstm", replace(ARMS["lstm"], hidden=8))
    small = seqlib.train("airline", arm="lstm", seed=1, epochs=1)
    assert small.attrs["trained"] == 1 and small.parameters[0] < first.parameters[0]


def test_compare_refuses_infinities_and_warns_of_other_lengths(archive):
    runs = seqlib.load("airline", "published")
    with pytest.raises(UsageError, match="test_mae is infinite for the seeds"):
        broken = runs.assign(test_mae=runs.test_mae.where(runs.seed > 2, float("inf")))
        seqlib.compare(broken, "test_mae", "rope", "lstm")
    short = seqlib.train("airline", arm="lstm", seed=2, epochs=1).assign(label="short")
    with pytest.warns(UserWarning, match=r"short and lstm differ in epochs as well: \[1\] and"):
        seqlib.compare(pd.concat([short, runs]), "test_mae", "short", "lstm")


def test_curves_of_runs_without_a_record_are_an_error(archive):
    runs = seqlib.load("airline", "published")[:2]
    unknown = pd.concat([runs, runs[:1].assign(key="a" * 64)])
    with pytest.raises(UsageError, match="1 of 3 runs of this frame have no record"):
        seqlib.curves("airline", "val_loss", runs=unknown)
    with pytest.raises(UsageError, match="not both"):
        seqlib.curves("airline", "val_loss", "rolling", runs=runs)


def test_interval_serves_seaborn():
    low, high = seqlib.interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert low < 3.5 < high and seqlib.interval([3.0]) == (3.0, 3.0)
    assert seqlib.interval([1.0, 2.0, 3.0, 4.0]) == (2.5, 2.5), "an interval needs six values"


def test_the_examples_of_the_docstrings_are_true(archive):
    import doctest

    from seqlib import api

    found = doctest.testmod(api, extraglobs={"seqlib": seqlib})
    assert found.attempted >= 9 and not found.failed
