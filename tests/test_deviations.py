"""The frozen plan: every claim's test is the one that was declared, or its change is in the log."""

import shutil
import subprocess

import pytest

from seqlib import claims, deviations, study
from seqlib.errors import UsageError
from seqlib.store import ROOT

LOG = """
claims:
  A04:
    declared: {commit: b2bc101, date: 2026-11-22}
    test: "000000000000"
    changes:
      - date: 2026-11-22
        commit: 0e24dbc
        what: x
        why: not recorded
        seen: true
        test_before: {method: order, metric: test_mse, margin: 0.05, pairs: [[rope, lstm]]}
plan:
  - {date: 2026-11-22, commit: a844f0a, what: x, why: x, seen: true, claims: [A05]}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the airline study's log in place of the real one."""
    for name in ("plan.yaml", "claims.yaml"):
        shutil.copy(study.folder("airline") / name, tmp_path)
    study.get("airline")
    monkeypatch.setattr(study, "folder", lambda name: tmp_path)
    return (tmp_path / "deviations.yaml").write_text


@pytest.mark.parametrize("name", study.names())
def test_no_test_has_changed_without_an_entry(name):
    assert list(deviations.read(name).claims) == list(claims.read(name).claims)
    changed = deviations.differing(name)
    assert not changed, "\n".join(changed)


def test_a_changed_test_and_a_claim_without_entry_are_a_line_each(written):
    written(LOG)
    known = claims.read("airline").claims
    lines = deviations.differing("airline")
    assert len(lines) == len(known)
    new = deviations.fingerprint(known["A04"])
    [line] = [line for line in lines if f'deviations.yaml, A04: enter test: "{new}"' in line]
    assert "changes" in line and "\n" not in line
    written(LOG.replace("000000000000", new))
    assert len(deviations.differing("airline")) == len(known) - 1


def test_a_fingerprint_is_of_what_a_test_says_and_not_of_how_it_is_written():
    test = {"method": "order", "metric": "m", "margin": 0, "pairs": [["a", "b"]]}

    def fingerprint(test):
        claim = claims.Claim(kind="order", says="x", source="document 000", test=test)
        return deviations.fingerprint(claim)

    assert fingerprint(test) == fingerprint({**test, "where": {}, "margin": 0.0})
    assert len({fingerprint(None), fingerprint(test), fingerprint({**test, "margin": 0.1})}) == 3


@pytest.mark.parametrize("old, new, problem", [
    ("what: x\n", "waht: x\n", "A04: unknown name 'waht'; did you mean 'what'"),
    ("        why: not recorded\n", "", "A04: changes.0.why: Field required"),
    ("seen: true\n", "seen: false\n", "A04: .*seen: true, and only that, wants its test_before"),
    ("rope, lstm", "rop, lstm", "A04: unknown arm or column 'rop'; did you mean 'rope'|"
                                "A04: unknown arm 'rop'; did you mean 'rope'"),
    ("method: order", "metod: order", "A04: unknown name 'metod'; did you mean 'method'"),
    ("  A04:", "  A14:", "unknown claim 'A14'; did you mean 'A13'"),
    ("[A05]", "[A50]", "unknown claim 'A50'"),
    ("plan:", "plans:", "unknown name 'plans'; did you mean 'plan'")])
def test_a_wrong_entry_is_one_line_that_names_file_and_claim(written, old, new, problem):
    assert old in LOG
    written(LOG.replace(old, new))
    with pytest.raises(UsageError, match="deviations.yaml.*" + problem) as caught:
        deviations.read("airline")
    assert "\n" not in str(caught.value)


def test_a_study_without_a_log_has_no_rows(written):
    assert not deviations.read("airline").claims
    assert deviations.rows([]).empty


def test_a_row_has_the_verdicts_before_and_now(written, monkeypatch):
    written(LOG)
    monkeypatch.setattr(claims, "study_verdicts", lambda name: [
        claims.Verdict(id_, "airline", "order", "x", "equivalent",
                       repairs={"mended": {"verdict": "reproduced"}})
        for id_ in claims.read("airline").claims])
    monkeypatch.setattr(claims, "judge", lambda name, given, runs: [
        claims.Verdict(id_, name, "order", "x", str(claim.test.pairs))
        for id_, claim in given.items()])
    rows = deviations.rows(["airline"])
    assert list(rows.claim) == ["A04", "A05"] and list(rows.now) == ["equivalent", ""]
    assert list(rows.before) == ["[('rope', 'lstm')]", ""]
    assert list(rows.repairs) == ["mended: none, now reproduced", ""]


def git(*command):
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)


def test_every_commit_of_the_log_is_in_the_history():
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the history is not here")
    named = {}
    for name in study.names():
        log = deviations.read(name)
        parts = [part for entry in log.claims.values() for part in (entry.declared, *entry.changes)]
        for part in [*parts, *log.plan]:
            if part.commit:  # empty until there is one
                named[part.commit] = str(part.date)
    for commit, date in named.items():
        done = git("show", "-s", "--format=%as", f"{commit}^{{commit}}")
        assert done.stdout.strip() == date, f"{commit}: {done.stderr or done.stdout}"
