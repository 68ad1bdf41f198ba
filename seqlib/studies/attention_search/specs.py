"""Settings of a run (`SearchSpec`), parameters of the notebook, and which runs they ask for."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from seqlib.record import Spec
from seqlib.studies.attention_search.arms import ARMS, FAIR, PUBLISHED, SMALL, THIRTEEN, Shape, attention_of, outline, widths_of
from seqlib.studies.attention_search.texts import PROTOCOLS, TEXTS, choose
from seqlib.study import Params, count_parameters, known_arms

Count = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]


class SearchSpec(Spec):
    """A run of one arm at one shape. Widths that do not divide are refused here, before any weight is made."""

    study: Literal["attention_search"] = "attention_search"
    arm: Literal[ARMS]
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
    steps: Steps = 50
    lr: Rate = 1e-4

    @property
    def shape(self) -> Shape:
        return Shape(self.vocabulary, self.d_model, self.layers, self.heads, self.d_ff, self.experts, self.top_k)

    @model_validator(mode="after")
    def divides(self):
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is above the number of experts, {self.experts}")
        attention_of(self.arm, self.shape)
        widths_of(self.arm, self.shape)
        return self


class SearchParams(Params):
    """`arms` of the thirteen train at the published shape under both protocols, with `published_seeds` and `repaired_seeds`.
    At the small shape the same arms train for `long_steps` under the repaired protocol with `small_seeds`, for `steps` under
    both others with `short_seeds`, with parameters matched for `fair_steps` with `matched_seeds`; and the fair search's arms
    with `fair_seeds` at each of `fair_lr` (the page reports the first of the full profile's), with `rate_seeds` at each of
    `rates`."""

    text: Literal[("auto", *TEXTS)] = "auto"
    arms: list[str] = Field(default=list(THIRTEEN), min_length=1, max_length=len(THIRTEEN))
    context: Annotated[int, Field(ge=2, le=8192)] = 256
    batch: Annotated[int, Field(ge=1, le=4096)] = 4
    steps: Steps = 50
    lr: Rate = 1e-4
    published_seeds: Count = 0
    repaired_seeds: Count = 0
    vocabulary: Annotated[int, Field(ge=300, lt=PUBLISHED.V)] = SMALL.V
    d_model: Annotated[int, Field(ge=8, le=8192)] = SMALL.D
    layers: Annotated[int, Field(ge=1, le=128)] = SMALL.L
    heads: Annotated[int, Field(ge=1, le=128)] = SMALL.H
    d_ff: Annotated[int, Field(ge=1, le=65_536)] = SMALL.F
    small_context: Annotated[int, Field(ge=2, le=8192)] = 64
    small_batch: Annotated[int, Field(ge=1, le=4096)] = 8
    small_lr: Rate = 1e-3
    small_seeds: Count = 1
    short_seeds: Count = 0
    long_steps: Steps = 200
    matched_seeds: Count = 0
    fair_arms: list[str] = Field(default=list(FAIR), max_length=len(FAIR))
    fair_seeds: Count = 0
    fair_lr: list[Rate] = Field(default=[1e-3], min_length=1, max_length=10)
    fair_steps: Steps = 500
    rate_seeds: Count = 0
    rates: list[Rate] = Field(default=[], max_length=10)

    @field_validator("arms", "fair_arms")
    @classmethod
    def known(cls, names: list[str], info) -> list[str]:
        return known_arms(names, THIRTEEN if info.field_name == "arms" else FAIR)

    @model_validator(mode="after")
    def divides(self):
        if not any(getattr(self, name) for name in type(self).model_fields if name.endswith("_seeds")):
            raise ValueError("all numbers of seeds are 0, so nothing would run; raise small_seeds")
        for arm in (*self.arms, *self.fair_arms, *self.matched):
            widths_of(arm, self.small_shape)
        return self

    @property
    def matched(self) -> list[str]:
        """The arms of the thirteen with their parameters matched; the baseline needs no matching."""
        return [f"{arm}-matched" for arm in self.arms if arm != "baseline"] if self.matched_seeds else []

    @property
    def small_shape(self) -> Shape:
        return Shape(self.vocabulary, self.d_model, self.layers, self.heads, self.d_ff, SMALL.E, SMALL.k)


def specs_of(params: SearchParams) -> list[SearchSpec]:
    """All runs, seed by seed, so that what is cut short is still paired. Raises SeqlibError when no text can be had."""
    text = choose() if params.text == "auto" else params.text
    large = {"text": text, "context": params.context, "batch": params.batch, "steps": params.steps, "lr": params.lr}
    small = {"text": text, "vocabulary": params.vocabulary, "d_model": params.d_model, "layers": params.layers,
             "heads": params.heads, "d_ff": params.d_ff, "context": params.small_context, "batch": params.small_batch,
             "lr": params.small_lr, "protocol": "repaired"}
    specs = [SearchSpec(arm=a, seed=s, **small, steps=params.long_steps)
             for s in range(params.small_seeds) for a in params.arms]
    specs += [SearchSpec(arm=a, seed=s, **small | {"protocol": protocol}, steps=params.steps)
              for s in range(params.short_seeds) for protocol in ("published", "shared") for a in params.arms]
    specs += [SearchSpec(arm=a, seed=s, **small, steps=params.fair_steps)
              for s in range(params.matched_seeds) for a in params.matched]
    specs += [SearchSpec(arm=a, seed=s, **small | {"lr": lr}, steps=params.fair_steps)
              for seeds, rates in ((params.fair_seeds, params.fair_lr), (params.rate_seeds, params.rates))
              for lr in rates for s in range(seeds) for a in params.fair_arms]
    for protocol, seeds in (("published", params.published_seeds), ("repaired", params.repaired_seeds)):
        specs += [SearchSpec(arm=a, seed=s, protocol=protocol, **large) for s in range(seeds) for a in params.arms]
    return list({spec.key: spec for spec in specs}.values())


def parameter_counts(arm: str) -> dict[str, int]:
    """Of the thirteen at the published shape, of the others at the small one. All are trained."""
    shape = PUBLISHED if arm in THIRTEEN else SMALL
    return count_parameters(lambda: outline(attention_of(arm, shape), shape, widths_of(arm, shape)))
