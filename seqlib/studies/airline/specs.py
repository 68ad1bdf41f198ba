"""Settings of an airline run, and which runs train together."""

from itertools import groupby
from typing import Literal

from pydantic import Field, model_validator

from seqlib.record import Spec, digest, name_in
from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.baselines import Baseline


class AirlineSpec(Spec):
    """`engine`: `stacked` (all seeds at once), `loop` (plain loop), `classical` (baselines)."""

    study: Literal["airline"] = "airline"
    arm: name_in(ARMS)
    protocol: Literal["published", "rolling"] = "published"
    engine: Literal["stacked", "loop", "classical"] = "stacked"
    epochs: int = Field(150, ge=1, le=10_000)
    batch: int = Field(16, ge=1, le=132)
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(1e-5, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def of_the_arm(cls, values):
        """Without a `weight_decay`, that of the arm; a baseline's engine is `classical`, on the
        processor whatever the others train on."""
        arm = ARMS.get(values.get("arm"))
        if isinstance(arm, Baseline):
            return {"engine": "classical"} | values | {"device": "cpu"}
        decay = getattr(arm, "weight_decay", None)
        return values if decay is None else {"weight_decay": decay} | values

    @model_validator(mode="after")
    def engine_fits(self):
        if isinstance(ARMS[self.arm], Baseline) != (self.engine == "classical"):
            raise ValueError(f"engine is {self.engine!r}: baselines such as sarima want classical, "
                             "all other arms stacked or loop")
        return self


def group(specs: list[AirlineSpec], size: int = 30) -> list[list[AirlineSpec]]:
    """Specs that differ in their seed alone train together, up to `size`; the others run alone."""
    def settings(spec):
        alone = spec.seed if spec.engine == "loop" else -1  # arms in turn, so drift hits all alike
        return alone, digest(spec.model_dump(exclude={"seed"}))

    order = {spec.key: i for i, spec in enumerate(specs)}
    groups = []
    for _, same in groupby(sorted(specs, key=settings), key=settings):
        same = sorted(same, key=lambda s: s.seed)
        groups += [same[i : i + size] for i in range(0, len(same), size)]
    return sorted(groups, key=lambda g: order[g[0].key])
