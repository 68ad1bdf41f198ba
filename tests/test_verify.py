"""Trained again: archived runs with today's code, and older code against today's."""

import json
import shutil
import subprocess

import pytest

from seqlib import accepted, cli, plan, study, verify
from seqlib.errors import SeqlibError, UsageError
from seqlib.store import Store, write_atomically
from seqlib.sweep import sweep
from tests.test_study import ROOT, run


@pytest.fixture
def archive():
    planned = plan.specs("airline", "baselines")
    specs = [spec for spec in planned if spec.arm in ("naive", "ridge-ar12")]
    sweep(specs, Store.archive(), quiet=True)
    return specs


def test_an_archived_run_is_trained_again_and_compared_figure_by_figure(archive):
    specs = verify.sample("airline", None, 1)
    assert {spec.arm for spec in specs} == {"naive", "ridge-ar12"}
    rows = verify.check("airline", specs)
    assert {row["outcome"] for row in rows} == {"to the bit"}
    assert all(row["metrics"] > 8 for row in rows)
    record = Store.archive().get(archive[0])
    for factor, outcome in ((1 + 1e-5, "to rounding"), (1.1, "off")):
        metrics = {**record.metrics, "test_mae": record.metrics["test_mae"] * factor}
        changed = record.model_copy(update={"metrics": metrics})
        changed.checksum = changed.expected_checksum()
        Store.archive().put(changed)
        row = next(row for row in verify.check("airline", specs) if row["arm"] == archive[0].arm)
        assert row["outcome"] == outcome and row["metric"] == "test_mae" and row["differ"] == 1


def test_what_another_machine_does_is_told_from_a_change_of_code(archive, monkeypatch):
    """Older code trained here, as far from the record as today's, clears today's."""
    record = Store.archive().get(archive[0])
    elsewhere = {**record.metrics, "test_mae": record.metrics["test_mae"] * 1.1}
    changed = record.model_copy(update={"metrics": elsewhere})
    changed.checksum = changed.expected_checksum()
    Store.archive().put(changed)
    for older, outcome in ((record, "as older code here"), (changed, "off")):
        monkeypatch.setattr(verify, "old_records", lambda *given, it=older: {it.key: it})
        [row] = verify.check("airline", archive[:1], "a commit")
        assert row["outcome"] == outcome
        assert row["older_code_here"] == pytest.approx(1 - 1 / 1.1 if older is record else 0)


def test_the_outcomes_of_several_machines_stay_side_by_side():
    rows = [{"outcome": "to the bit"}]
    here = {"cpu": "A", "python": "3.11.7"}
    for machine, threads in (here, 1), (here, 2), (here | {"python": "3.12.1"}, 2), (here, 2):
        verify.keep("airline", rows, machine, threads)
    kept = verify.kept("airline")
    assert [(one["machine"]["python"], one["threads"]) for one in kept] == [
        ("3.11.7", 1), ("3.11.7", 2), ("3.12.1", 2)]
    assert verify.kept("gpt2") == []


def test_the_command_takes_one_study_several_or_all(archive, capsys, monkeypatch):
    done = []
    monkeypatch.setattr(verify, "sample", lambda name, *given: done.append(name) or archive)
    monkeypatch.setattr(verify, "check", lambda name, *given: [
        {"arm": "lstm", "seed": 0, "outcome": "to the bit", "metrics": 1, "differ": 0}])
    cli.main(["verify", "--all-studies", "--sample", "3", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert done == study.names() == [row["study"] for row in rows]
    cli.main(["verify", "airline", "gpt2"])
    assert done[-2:] == ["airline", "gpt2"]
    for wrong in (["verify"], ["verify", "airline", "--all-studies"],
                  ["verify", "--all-studies", "--arms", "lstm"],
                  ["verify", "airline", "--experiment", "check"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(wrong)
        assert ended.value.code == 2


def test_what_no_two_runs_share_is_left_out():
    timed = ("seconds", "step_cpu_seconds", "peak_rss_mb", "tokens_per_second", "busy_share")
    assert all(map(verify.is_timed, timed))
    assert not any(map(verify.is_timed, ("test_mae", "saved_bytes", "parameters")))


@pytest.mark.parametrize("arguments, problem", [
    ((["lstn"], 1), "did you mean 'lstm'"), ((["lstm"], 1), "the archive has no such run"),
    ((["lstm"], 1, "baselines"), "baselines has no such run"),
    ((None, 1, "chek"), "did you mean 'check'"),
])
def test_what_cannot_be_trained_again_is_named(archive, arguments, problem):
    with pytest.raises(UsageError, match=problem):
        verify.sample("airline", *arguments)


def test_damaged_evidence_is_named():
    path = accepted.path_of("airline")
    write_atomically(path, b'{"codes": {')
    with pytest.raises(SeqlibError, match=r"accepted.json is not JSON .*; take it from git again"):
        accepted.equivalents("airline", "lstm", "0" * 64)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository with one study more, and its runs."""
    root = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "seqlib", root / "seqlib", ignore=ignore)
    assert run(root, "-m", "seqlib", "new", "copy_first").returncode == 0
    edit(root, "plan.yaml", "archive: {arm: [lstm, gru], seed: 8}",
         "archive: {arm: [lstm, gru], seed: 1, steps: 5}")
    assert run(root, "-m", "seqlib", "sweep", "copy_first").returncode == 0
    git(root, "init", "-q")
    git(root, "add", "seqlib")
    git(root, "-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "first")
    return root


def git(root, *arguments):
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)


def edit(root, file, old, new):
    path = root / "seqlib" / "studies" / "copy_first" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def older(root):
    current = "seqlib.load('copy_first').current.astype(bool)"
    done = run(root, "-c", f"import seqlib; print((~{current}).sum())")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_code_that_makes_the_same_figures_is_accepted_with_its_evidence(project):
    assert older(project) == 0
    draw = ("{0} = torch.rand(batch, run.spec.length, generator=run.rng(*stream)).to(run.device)\n"
            "    return {0}, {0}[:, 0]")
    edit(project, "__init__.py", draw.format("x"), draw.format("values"))
    assert older(project) == 2
    # an arm that the older code has not does not stand in the way
    edit(project, "__init__.py", '"gru": Arm(', '"w": Arm("gru", 2), "gru": Arm(')
    edit(project, "plan.yaml", "arm: [lstm, gru]", "arm: [lstm, gru, w]")
    assert run(project, "-m", "seqlib", "sweep", "copy_first").returncode == 0
    done = run(project, "-m", "seqlib", "verify", "copy_first", "--accept", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["outcome"] for row in json.loads(done.stdout)} == {"to the bit"}
    assert older(project) == 0
    kept = json.loads((project / "results" / "copy_first" / "accepted.json").read_text())
    assert kept["evidence"][0]["machine"]["cpu"] and len(kept["evidence"][0]["runs"]) == 2


def test_code_that_makes_other_figures_is_refused_and_named(project):
    before = (project / "results" / "copy_first" / "accepted.json").read_text()
    edit(project, "__init__.py", "return values, values[:, 0]", "return values, values[:, 1]")
    assert older(project) == 3
    done = run(project, "-m", "seqlib", "verify", "copy_first", "--accept", "--against", "HEAD")
    assert done.returncode == 1 and "differs from" in done.stderr
    assert "nothing was accepted" in done.stderr and "Traceback" not in done.stderr
    assert (project / "results" / "copy_first" / "accepted.json").read_text() == before
    assert older(project) == 3


@pytest.mark.parametrize("name", study.names())
def test_the_archive_says_by_what_evidence_its_code_was_accepted(name):
    path = ROOT / "results" / name / "accepted.json"
    kept = json.loads(path.read_text())
    assert kept["evidence"]
    for by_arm in kept["codes"].values():
        for entries in by_arm.values():
            assert all(0 <= number < len(kept["evidence"]) for number in entries.values())
    for evidence in kept["evidence"]:
        assert {"date", "against", "kind", "machine", "runs"} <= set(evidence) and evidence["runs"]
