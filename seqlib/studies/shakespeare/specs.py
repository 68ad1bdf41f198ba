"""Settings of a run."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from seqlib.record import Spec, name_in
from seqlib.studies.shakespeare.arms import ARMS
from seqlib.studies.shakespeare.corpus import CORPORA, choose


class ShakespeareSpec(Spec):
    """A run on a text, or (`corpus` mqar) on the recall task: there `context` is the length of a
    sequence and `width` the channels of the model."""

    study: Literal["shakespeare"] = "shakespeare"
    arm: name_in(ARMS)
    corpus: Literal[(*CORPORA, "mqar")] = "tiny_shakespeare"
    context: int = Field(128, ge=2, le=4096)
    batch: int = Field(32, ge=1, le=4096)
    epochs: int = Field(5, ge=1, le=1000)
    epoch_steps: int = Field(500, ge=1, le=100_000)
    lr: float = Field(3e-4, gt=0, le=1)
    width: int | None = Field(None, ge=8, le=1024)

    @field_validator("corpus", mode="before")
    @classmethod
    def at_hand(cls, name: str) -> str:
        """`auto` is Tiny Shakespeare, or another edition of its plays where that cannot be had."""
        return choose() if name == "auto" else name

    @model_validator(mode="after")
    def fits(self):
        if (self.corpus == "mqar") != (self.width is not None):
            raise ValueError("width belongs to the recall task (corpus mqar), and to it alone")
        if self.corpus == "mqar" and (not ARMS[self.arm].recall or self.context < 16):
            takes = ", ".join(name for name, arm in ARMS.items() if arm.recall)
            raise ValueError(f"the recall task takes {takes} and sequences of at least 16")
        return self
