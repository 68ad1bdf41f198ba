"""Settings of an airline run (`AirlineSpec`), parameters of the notebook, and which runs they ask for."""

from itertools import groupby
from typing import Annotated, Literal

from pydantic import Field, field_validator

from seqlib.record import Spec, digest
from seqlib.studies.airline.arms import ARMS, PUBLISHED
from seqlib.studies.airline.baselines import BASELINES
from seqlib.study import Params, count_parameters, known_arms

Arm = Literal[tuple(ARMS) + tuple(BASELINES)]


class AirlineSpec(Spec):
    """`engine` is `stacked` (all seeds at once), `loop` (plain reference loop) or `classical` (a baseline)."""

    study: Literal["airline"] = "airline"
    arm: Arm
    protocol: Literal["published", "rolling"] = "published"
    engine: Literal["stacked", "loop", "classical"] = "stacked"
    epochs: int = Field(150, ge=1, le=10_000)
    batch: int = Field(16, ge=1, le=132)
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(1e-5, ge=0, le=1)


class AirlineParams(Params):
    """`arms` run on the published split with `seeds` paired seeds, `rolling_arms` on the rolling origin; the first
    `loop_seeds` seeds of the published five also run in the plain loop; `baselines` adds the classical forecasts."""

    arms: list[str] = Field(default=list(PUBLISHED), min_length=1, max_length=len(ARMS))
    seeds: Annotated[int, Field(ge=1, le=1000)] = 10
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 150
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    rolling_arms: list[str] = Field(default=[], max_length=len(ARMS))
    loop_seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    baselines: bool = True

    @field_validator("arms", "rolling_arms")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        return known_arms(names, ARMS)


def specs_of(params: AirlineParams) -> list[AirlineSpec]:
    def make(arm, seed, **more):
        return AirlineSpec(arm=arm, seed=seed, epochs=params.epochs, lr=params.lr,
                           weight_decay=ARMS[arm].weight_decay, **more)

    specs = [make(arm, s) for arm in params.arms for s in range(params.seeds)]
    specs += [make(arm, s, protocol="rolling") for arm in params.rolling_arms for s in range(params.seeds)]
    specs += [make(arm, s, engine="loop") for s in range(params.loop_seeds) for arm in PUBLISHED]
    if params.baselines:
        names = ["published"] + (["rolling"] if params.rolling_arms else [])
        specs += [AirlineSpec(arm=a, protocol=p, engine="classical") for p in names for a in BASELINES]
    return specs


def group(specs: list[AirlineSpec], size: int = 30) -> list[list[AirlineSpec]]:
    """Specs that differ in their seed alone train together, up to `size` at once; the others run alone."""
    def settings(spec):
        alone = spec.seed if spec.engine == "loop" else -1  # interleaves the arms, so that drift hits all alike
        return alone, digest(spec.model_dump(exclude={"seed"}))

    order = {spec.key: i for i, spec in enumerate(specs)}
    groups = []
    for _, same in groupby(sorted(specs, key=settings), key=settings):
        same = sorted(same, key=lambda s: s.seed)
        groups += [same[i : i + size] for i in range(0, len(same), size)]
    return sorted(groups, key=lambda g: order[g[0].key])


def parameter_counts(arm: str) -> dict[str, int]:
    """Trainable and total parameters; a classical forecast has none that a gradient trains."""
    if arm in BASELINES:
        return {"trainable": 0, "total": 0}
    return count_parameters(ARMS[arm].build)
