"""What was declared when: `deviations.yaml` of a study has for every claim the commit that declared
its test, a fingerprint of the test as it stands, and each change since; under `plan`, changes of
rates, repairs, seeds and rules that touch several claims. `python -m seqlib.deviations` prints the
claims whose test is another one than the log has."""

import datetime
from collections.abc import Iterable
from typing import Any

import pandas as pd
from pydantic import model_validator

from seqlib import claims, frames, yamls
from seqlib import study as studies
from seqlib.claims import Claim, Strict, Test
from seqlib.errors import nearest
from seqlib.record import digest
from seqlib.rules import Verdict

FILE = "deviations.yaml"
COLUMNS = ["claim", "study", "date", "commit", "what", "why", "seen", "before", "now",
           "repairs"]


class Declared(Strict):
    """The first commit with a test of the claim, or, of a post-hoc claim, the one that added it."""

    commit: str  # empty until there is one
    date: datetime.date


class PlanChange(Declared):
    """A change that touches several claims. `seen`: runs of an experiment and arm that it concerns
    had been recorded, even if they were replaced later."""

    what: str
    why: str
    seen: bool
    claims: list[str] = []


class TestChange(PlanChange):
    """A change of one claim's test; `test_before` is the earlier one in today's grammar."""

    test_before: Test | None = None

    @model_validator(mode="after")
    def check_seen(self) -> "TestChange":
        if self.seen != (self.test_before is not None):
            raise ValueError("a change with seen: true, and only that, wants its test_before")
        return self


class Entry(Strict):
    """One claim; `test` is the fingerprint of its test as it stands."""

    declared: Declared
    test: str
    changes: list[TestChange] = []


class Log(Strict):
    """A deviations.yaml."""

    claims: dict[str, Any] = {}  # each is read as an Entry
    plan: list[PlanChange] = []


def read(name: str) -> Log:
    """A study's log, empty without a file. Raises UsageError that names file and claim."""
    path, document = studies.folder(name) / FILE, claims.read(name)
    if not path.exists():
        return Log()
    with claims.located(str(path)):
        log = Log.model_validate(yamls.read(path))
        for id_ in [*log.claims, *(id_ for change in log.plan for id_ in change.claims)]:
            if id_ not in document.claims:
                raise nearest("claim", id_, document.claims)
    for id_, given in log.claims.items():
        with claims.located(f"{path}, {id_}"):
            log.claims[id_] = Entry.model_validate(given)
            for test in (change.test_before for change in log.claims[id_].changes):
                if test:
                    test.experiment = test.experiment or document.experiment
                    claims.check(name, _with(document.claims[id_], test), claims.planned(name))
    return log


def fingerprint(claim: Claim) -> str:
    """The first 12 hex digits of the sha256 of the canonical JSON of a claim's test; fields with
    their default are left out, so that the grammar may get more of them."""
    test = claim.test and claim.test.model_dump(mode="json", exclude_defaults=True)
    return digest(test)[:12]


def differing(name: str) -> list[str]:
    """A line for each claim whose test is another one than its entry has."""
    known, entries = claims.read(name).claims, read(name).claims
    new = {id_: fingerprint(claim) for id_, claim in known.items()
           if id_ not in entries or entries[id_].test != fingerprint(claim)}
    why = {True: "and, under changes, what changed in the test and why",
           False: "with declared: {commit: COMMIT, date: DATE}; the claim has no entry yet"}
    return [f'{studies.folder(name) / FILE}, {id_}: enter test: "{hash_}" {why[id_ in entries]}'
            for id_, hash_ in new.items()]


def rows(names: Iterable[str] | None = None) -> pd.DataFrame:
    """Every change in some studies (all if None), a row each. `before` is today's verdict on the
    earlier test, with the other claims as they are; it is empty where the log has none. `repairs`
    names those that have another verdict now."""
    found = []
    for name in studies.names() if names is None else names:
        log, known = read(name), claims.read(name).claims
        now, runs = {row.id: row for row in claims.study_verdicts(name)}, frames.archive(name)
        for id_, change in ((id_, c) for id_, entry in log.claims.items() for c in entry.changes):
            row = {"claim": id_, "study": name, **dict(change), "now": now[id_].verdict}
            if change.test_before:
                family = {other: claim for other, claim in known.items()  # of Holm's adjustment
                          if claim.post_hoc == known[id_].post_hoc
                          and claim.test and claim.test.method == "order"}
                needs = {"needs": known[id_].test.needs}  # the rule on stand-ins is today's
                test = change.test_before.model_copy(update=needs)
                family[id_] = _with(known[id_], test)
                before = {one.id: one for one in claims.judge(name, family, runs)}[id_]
                row |= {"before": before.verdict, "repairs": _turned(before, now[id_])}
            found.append(row)
        found += [{"claim": ", ".join(change.claims), "study": name, **dict(change)}
                  for change in log.plan]
    return pd.DataFrame(found, columns=COLUMNS).fillna("")


def _with(claim: Claim, test: Test) -> Claim:
    """A claim with another test; what belongs to its own goes."""
    return claim.model_copy(update={"test": test, "bound": None, "population": None})


def _turned(before: Verdict, now: Verdict) -> str:
    """Repairs that have another verdict now, or that only one of both has."""
    pairs = {name: [one.repairs.get(name, {}).get("verdict", "none") for one in (before, now)]
             for name in {**before.repairs, **now.repairs}}
    return "; ".join(f"{name}: {a}, now {b}" for name, (a, b) in pairs.items() if a != b)


if __name__ == "__main__":
    print("\n".join(line for name in studies.names() for line in differing(name)))
