"""Settings of a run of the attention search."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from seqlib.record import Spec, later, name_in
from seqlib.studies.attention_search.arms import ARMS, PUBLISHED, Shape, attention_of, widths_of
from seqlib.studies.attention_search.texts import PROTOCOLS, TEXTS, choose


class SearchSpec(Spec):
    """A run of one arm at one shape. Widths that do not divide are refused before any weight.

    `precision` bfloat16: products and attention in it by torch's autocast; weights, norms, softmax
    and losses stay in float32."""

    study: Literal["attention_search"] = "attention_search"
    arm: name_in(ARMS)
    text: Literal[TEXTS] = TEXTS[0]
    protocol: Literal[PROTOCOLS] = "published"
    vocabulary: int = Field(PUBLISHED.V, ge=300, le=PUBLISHED.V)
    d_model: int = Field(PUBLISHED.D, ge=8, le=8192)
    layers: int = Field(PUBLISHED.L, ge=1, le=128)
    heads: int = Field(PUBLISHED.H, ge=1, le=128)
    d_ff: int = Field(PUBLISHED.F, ge=1, le=65_536)
    experts: int = Field(PUBLISHED.E, ge=1, le=256)
    top_k: int = Field(PUBLISHED.k, ge=1, le=256)
    context: int = Field(512, ge=2, le=8192)
    batch: int = Field(16, ge=1, le=4096)
    steps: int = Field(50, ge=1, le=1_000_000)
    lr: float = Field(1e-4, gt=0, le=1)
    precision: Literal["float32", "bfloat16"] = later("float32")

    @field_validator("text", mode="before")
    @classmethod
    def at_hand(cls, name: str) -> str:
        """`auto` is the published text, or its stand-in where that cannot be had."""
        return choose() if name == "auto" else name

    @property
    def low(self) -> bool:
        return self.precision == "bfloat16"

    @property
    def shape(self) -> Shape:
        return Shape(V=self.vocabulary, D=self.d_model, L=self.layers, H=self.heads,
                     F=self.d_ff, E=self.experts, k=self.top_k)

    @model_validator(mode="after")
    def divides(self):
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is above the number of experts, {self.experts}")
        attention_of(self.arm, self.shape)
        widths_of(self.arm, self.shape)
        return self
