"""A study: its arms, parameters, specs and how to run them. Each lives in `seqlib.studies.NAME` as `STUDY`."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from seqlib.errors import UsageError, first_problem, nearest
from seqlib.provenance import made_by
from seqlib.record import Record, Spec
from seqlib.store import ROOT

if TYPE_CHECKING:
    import torch

NAMES = ("airline", "shakespeare", "attention_search", "ernie", "gpt2")
PROFILES = ("smoke", "quick", "full")


class Params(BaseModel):
    """Parameters of a study's notebook; a study extends it. Wrong names, types and ranges are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    profile: Literal["smoke", "quick", "full"] = "quick"


def known_arms(names: list[str], allowed) -> list[str]:
    """`names`, for a validator: raises ValueError on one that is not allowed or that stands twice."""
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"unknown arm {unknown[0]!r}; choose from: {', '.join(allowed)}")
    if len(set(names)) < len(names):
        raise ValueError("an arm is named twice")
    return names


def count_parameters(build: Callable[[], "torch.nn.Module"]) -> dict[str, int]:
    """Trainable and total parameters of a model; torch's global generator is left as it was."""
    import torch  # slow, and most commands need none

    with torch.random.fork_rng(devices=[]):
        sizes = [(p.numel(), p.requires_grad) for p in build().parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


@dataclass(frozen=True)
class Study:
    """`specs` lists the runs of a parameter set; `group` puts those together that train as one; `run` trains a group and
    returns its records in the order of the specs. `modules` names, for a record's spec, the sources whose hash it carries;
    `data` the data sets of some specs, which a sweep checks before it trains; `arms` maps each arm to a function that counts
    its parameters.
    """

    name: str
    spec: type[Spec]
    params: type[Params]
    specs: Callable[[Params], list[Spec]]
    group: Callable[[list[Spec]], list[list[Spec]]]
    run: Callable[[list[Spec]], list[Record]]
    modules: Callable[[dict], tuple[str, ...]]
    data: Callable[[list[Spec]], Iterable[str]]
    arms: dict[str, Callable[[], dict[str, int]]]

    def headline(self, records: list[Record], verdicts: dict) -> str:
        """The answer in one line, by the study's page, from the whole archive and the verdicts by claim."""
        page = importlib.import_module(f"seqlib.studies.{self.name}.page")  # figures are slow to import, and few commands draw
        return page.headline(records, verdicts)

    def parameters(self, profile: str, **overrides) -> Params:
        """Values of notebooks/profiles/PROFILE.yaml with overrides, validated. Raises UsageError."""
        if profile not in PROFILES:
            raise nearest("profile", profile, PROFILES)
        path = ROOT / "notebooks" / "profiles" / f"{profile}.yaml"
        if not path.exists():
            raise UsageError(f"no profile {path}; run from a source checkout, or set SEQLIB_ROOT to one")
        values = yaml.safe_load(path.read_text())[self.name]
        return self.validate({"profile": profile, **values, **overrides})

    def current(self, record: Record) -> bool:
        """Whether today's code would make this record."""
        return made_by(record.provenance["code_hash"], self.modules(record.spec))

    def planned(self) -> set[str]:
        """Keys of the runs that the full profile asks for, which are the archive."""
        return {spec.key for spec in self.specs(self.parameters("full"))}

    def validate(self, values: dict) -> Params:
        try:
            return self.params(**values)
        except ValidationError as error:
            raise UsageError(f"study {self.name}, {first_problem(error)}; allowed: "
                             f"{', '.join(self.params.model_fields)}") from None


def get(name: str) -> Study:
    if name not in NAMES:
        raise nearest("study", name, NAMES)
    return importlib.import_module(f"seqlib.studies.{name}").STUDY
