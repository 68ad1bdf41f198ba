"""Plans as data: the grammar, its errors, and that the archive holds what the plans ask for."""

from pathlib import Path

import numpy as np
import pytest

from seqlib import plan, study, yamls
from seqlib.errors import UsageError
from seqlib.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a plan of the airline study in place of the real one."""
    def write(text):
        raw = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "plan.yaml").write_bytes(raw)
        monkeypatch.setattr(study, "folder", lambda name: tmp_path)

    return write


def settings(specs, *fields):
    return [tuple(getattr(spec, field) for field in fields) for spec in specs]


def test_a_grid_runs_every_combination_seed_by_seed(written):
    written("a: {arm: [lstm, rope], seed: 2, epochs: 3}")
    assert settings(plan.specs("airline", "a"), "seed", "arm", "epochs") == [
        (0, "lstm", 3), (0, "rope", 3), (1, "lstm", 3), (1, "rope", 3)]


def test_zip_varies_fields_together_and_a_mapping_by_arm(written):
    written("a: {arm: [lstm, rope], zip: {epochs: [1, 2], batch: [8, 4]}, lr: {lstm: 1e-2}}")
    assert settings(plan.specs("airline", "a"), "arm", "epochs", "batch", "lr") == [
        ("lstm", 1, 8, 0.01), ("rope", 1, 8, 0.001), ("lstm", 2, 4, 0.01), ("rope", 2, 4, 0.001)]


def test_zip_counts_before_the_field_beside_it(written):
    written("a: {arm: lstm, epochs: 9, zip: {epochs: [1, 2], batch: [8, 4]}}")
    assert settings(plan.specs("airline", "a"), "epochs", "batch") == [(1, 8), (2, 4)]


def test_of_takes_the_rest_from_another_experiment(written):
    written("a: {arm: [lstm, rope], seed: 3, zip: {epochs: [1, 2], batch: [8, 4]}}\n"
            "b: {of: a, seed: [7], epochs: 5}\n"
            "c:\n- {of: b, arm: gru}\n- {arm: naive, engine: classical}")
    assert settings(plan.specs("airline", "b"), "seed", "arm", "epochs", "batch") == [
        (7, "lstm", 5, 8), (7, "rope", 5, 8), (7, "lstm", 5, 4), (7, "rope", 5, 4)]
    assert [spec.arm for spec in plan.specs("airline", "c")] == ["gru", "gru", "naive"]


def test_an_experiment_underway_is_part_of_no_archive_yet(written):
    written("a: {arm: lstm, seed: 3}\nnext-a: {of: a, seed: 9-11}")
    assert plan.of_archive("airline") == ["a"] and plan.underway("airline") == ["next-a"]
    assert settings(plan.specs("airline", "next-a"), "seed") == [(9,), (10,), (11,)]
    assert len(plan.archived("airline")) == 3 and len(plan.archived("airline", ["next-a"])) == 3


@pytest.mark.parametrize("several", [(1, 2), range(1, 3), np.array([1, 2]), [np.int64(1), 2]])
def test_several_values_may_be_a_tuple_a_range_or_an_array(several):
    runs = plan.overridden("airline", "live", {"arm": "lstm", "seed": several, "epochs": several})
    assert settings(runs, "seed", "epochs") == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize("text, problem", [
    ("a: {arm: lstn}", "a: unknown arm 'lstn'; did you mean 'lstm'"),
    ("a: {arm: lstm, protocol: rollin}", "a: unknown protocol 'rollin'; did you mean 'rolling'"),
    ("a: {arm: lstm, epoch: 3}", "a: unknown name 'epoch'; did you mean 'epochs'"),
    ("a: {arm: lstm, lr: {lstn: 1e-3}}", "a: unknown arm in lr 'lstn'; did you mean 'lstm'"),
    ("a: {arm: lstm, epochs: 0}", "a: epochs: .*greater than or equal to 1"),
    ("a: {arm: lstm, epochs: true}", "a: epochs: wants int, got True"),
    ("a: {arm: [[lstm]]}", "a: unknown arm"),
    ("a: {arm: []}", "a: arm: an empty list asks for no run"),
    ("a: {epochs: 3}", "a: arm: Field required$"),
    ("a: {of: b, epochs: 1}", "a: unknown experiment 'b'"),
    ("a: {of: [b]}", "a: unknown experiment"),
    ("a: {of: a}", "leads back to itself"),
    ("a: {arm: lstm}\na: {arm: gru}", "line 2: .*duplicate key"),
    ("a: {arm: lstm, zip: {epochs: [1, 2], batch: [3]}}", "not of one length"),
    ("a: {arm: lstm, zip: [epochs]}", "a: zip wants fields with a list of values each"),
    ("a: {arm: lstm, zip: {epochs: '12'}}", "a: zip wants fields with a list of values each"),
    ("a: {arm: lstm, zip: {seed: [1, 2]}}", "a: seed cannot vary in zip"),
    ("a: {arm: lstm, seed: -1}", "a: seed is a number of seeds"),
    ("a: {arm: lstm, seed: 0}", "a: seed is a number of seeds"),
    ("a: {arm: lstm, seed: 9-3}", "got '9-3', which ends before it begins"),
    ("a: [3]", "a: wants fields with their values"),
    ("a: {3: lstm}", "a: wants fields with their values"),
    ("a: []", "a: wants fields with their values"),
    ("- 3", "wants named experiments"),
    ("3: {arm: lstm}", "wants named experiments"),
    ("a: {arm: [lstm", "line 1"),
    ("a: {arm: !mine lstm}", "line 1"),
    ("a: {arm: lstm, lr: 2020-02-31}", "day is out of range"),
    (b"a: {arm: \xff}", "is not UTF-8"),
])
def test_a_wrong_plan_is_one_line_that_names_file_and_entry(written, text, problem):
    written(text)
    with pytest.raises(UsageError, match=problem) as caught:
        plan.specs("airline", "a")
    assert "plan.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_are_read_as_yaml_1_2_reads_them():
    found = yamls.parse("{a: 1e-3, b: 010, c: 1:30, d: -2.5E+2}", "here")
    assert found == {"a": 0.001, "b": 10, "c": "1:30", "d": -250.0}


@pytest.mark.parametrize("name", study.names())
def test_the_archive_holds_every_planned_run_and_its_code_is_current(name, monkeypatch):
    """Ten runs of rates and settings that were tried and kept are in no plan; `seqlib status`
    counts them."""
    records = {record.key: record for record in Store(ROOT / "results").records(name)}
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))
    planned = plan.archived(name)
    underway = plan.archived(name, plan.underway(name))
    assert planned.keys() <= records.keys()
    unplanned = records.keys() - planned.keys() - underway.keys()
    assert len(unplanned) == {"attention_search": 2}.get(name, 0)
    kind = study.get(name)
    older = [key for key, record in records.items() if not kind.current(record)]
    remedy = f"show by `seqlib verify {name} --accept` that today's makes the same, or sweep again"
    assert not older, f"{len(older)} records of {name} were made by other code; {remedy}"


@pytest.mark.parametrize("name", study.names())
def test_every_study_has_what_a_notebook_and_a_check_train(name):
    assert {"live", "smoke", "check"} <= set(plan.experiments(name))
    checked = {spec.arm for spec in plan.specs(name, "check")}
    assert checked == set(study.get(name).arms), "the experiment `check` runs every arm"
