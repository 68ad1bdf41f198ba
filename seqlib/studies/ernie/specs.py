"""Settings of a run (`ErnieSpec`), parameters of the notebook, and which runs they ask for."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from seqlib import data, headlines
from seqlib.errors import SeqlibError
from seqlib.record import Spec
from seqlib.study import Params, known_arms

LORA = ("lora", "lora-frozen-head")
ARMS = ("full", *LORA, "head-only", "bitfit")
PRETRAINING = "pretraining"  # the arm of the run that makes a base
RANK, ALPHA, DROPOUT, LENGTH = 16, 32.0, 0.1, 128  # as published
RATE, BATCH = 5e-5, 8  # as published
SAME_RATE, COST = "same rate", "cost"  # stages
COSTED = 64  # headlines of a run that tells what a step costs
ATTENTION, ALL = "attention", "all"  # what LoRA adapts: the first four of these layers, all of them, or one
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "linear1", "linear2")
SMALL, TINY = "ernie-mini-small", "ernie-tiny"
RANDOM = "ernie-3.0-medium-random"  # the published architecture with random weights: for what a step costs
MADE = (headlines.MINI, SMALL, TINY)  # bases that are pretrained here
BASES = (headlines.ERNIE, *MADE, RANDOM)
TEXTS = (headlines.TNEWS, headlines.CLUE, headlines.REVIEWS)
WIDTH = {headlines.ERNIE: 768, RANDOM: 768, headlines.MINI: 256, SMALL: 128, TINY: 32}
PUBLISHED = {1: (512, 256), 2: (1024, 512)}  # headlines to train and to evaluate on, by epochs
GRID_SEED = 1000  # of the runs that choose a learning rate: none of theirs is reported
MAKERS = ("seqlib.models.forecast", *(f"seqlib.studies.ernie.{m}" for m in ("sentences", "bases", "pretrain")))  # of a base
MODULES = ("seqlib.headlines", "seqlib.models.forecast", *(f"seqlib.studies.ernie.{m}" for m in (
    "framework", "specs", "sentences", "names", "bases", "pretrain", "arms", "train", "run")))

Count = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Rank = Annotated[int, Field(ge=1, le=768)]
Epochs = Annotated[int, Field(ge=1, le=1000)]


class ErnieSpec(Spec):
    """A run of one arm, or (arm `pretraining`) the making of a base.

    `base_steps` are those of the base's pretraining; with 0 it has random weights. `published` trains on `examples` headlines
    at a constant rate; `fair` on all, the rate falling behind a warm-up. Of the stages, `grid` chooses a rate and sees the
    development set alone, as does `cost`, which tells what a step takes; `same rate` has the published rate."""

    study: Literal["ernie"] = "ernie"
    arm: Literal[(*ARMS, PRETRAINING)]
    text: Literal[TEXTS] = headlines.TNEWS
    base: Literal[BASES] = headlines.MINI
    base_steps: int = Field(0, ge=0, le=10_000_000)
    protocol: Literal["published", "fair"] = "fair"
    stage: Literal["grid", "final", SAME_RATE, COST] = "final"
    length: int = Field(LENGTH, ge=4, le=LENGTH)
    examples: int = Field(0, ge=0)
    batch: int = Field(16, ge=1, le=4096)
    epochs: int = Field(1, ge=0, le=1000)
    lr: float = Field(RATE, ge=0, le=1)
    r: int = Field(0, ge=0)
    alpha: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str = ""

    @model_validator(mode="after")
    def belongs(self):
        adapted, given = self.arm in LORA, (self.r > 0, self.alpha > 0, bool(self.targets))
        if not all(g == adapted for g in given) or self.dropout and not adapted:
            raise ValueError(f"r is {self.r}, alpha {self.alpha}: LoRA arms want both above 0 and targets, others none of them")
        if adapted:
            known_targets(self.targets)
        check_rank(self.r, self.base)
        if self.base not in MADE and (self.base_steps or self.arm == PRETRAINING):
            raise ValueError(f"base_steps is {self.base_steps}: {self.base} is not pretrained here")
        if (self.examples > 0) != (self.protocol == "published"):
            raise ValueError(f"examples is {self.examples}: the published protocol wants some, the fair one takes all")
        if (self.arm == PRETRAINING) != (self.epochs == 0) or self.arm == PRETRAINING and not self.base_steps:
            raise ValueError(f"epochs is {self.epochs}: a base is made in base_steps, an arm trained in epochs")
        return self


def known_targets(which: str) -> str:
    """For a validator: raises ValueError on what no layer is called."""
    if which not in (ATTENTION, ALL, *LAYERS):
        raise ValueError(f"targets {which!r} match no layer; choose {ATTENTION}, {ALL}, or one of {', '.join(LAYERS)}")
    return which


def check_rank(r: int, base: str) -> None:
    """For a validator: raises ValueError on a rank above the width."""
    if r > WIDTH[base]:
        raise ValueError(f"rank {r} is above the width of {base}, {WIDTH[base]}, and adapts nothing more; lower it")


def label(spec: dict) -> str:
    """Name of what was trained: the arm, with what of its adapter is not as published, and "random" where the base is."""
    told = [spec["arm"]]
    if spec["r"]:
        told += [f"r{spec['r']}"] * (spec["r"] != RANK) + [f"a{spec['alpha']:g}"] * (spec["alpha"] != ALPHA)
        told += [f"d{spec['dropout']:g}"] * (spec["dropout"] != DROPOUT)
        told += [spec["targets"]] * (spec["targets"] != ATTENTION)
    if spec["arm"] != PRETRAINING and spec["base"] in (*MADE, RANDOM) and not spec["base_steps"]:
        told.append("random")
    return "-".join(told)


def pretraining(spec: ErnieSpec) -> ErnieSpec:
    """The run that makes the base of `spec`."""
    return ErnieSpec(arm=PRETRAINING, text=spec.text, base=spec.base, base_steps=spec.base_steps, epochs=0, lr=0.0, batch=64,
                     length=LENGTH if spec.text == headlines.REVIEWS else LENGTH // 2)  # headlines are short


class ErnieParams(Params):
    """`arms` train under the fair protocol with `seeds`, at the rates of `lr` by arm; LoRA adapts `targets`, "attention", "all"
    linear layers, or those of one name; `random_seeds` more of `full` from random
    weights, `same_rate_seeds` of full and lora at the published rate. `rank_seeds` runs each of LoRA at `ranks`, with alpha
    twice the rank and with `ALPHA`; `variant_seeds` of LoRA without dropout, on all linear layers, and at half of both
    without dropout. `grid_seeds` runs at every one of `full_rates` (of `lora_rates` for all other arms) choose the rates.
    `published_seeds` runs of full, lora and lora-frozen-head as published, for each of `published_epochs`; `cost_seeds` of full
    and lora at the published architecture, in batches of 8 and 16."""

    text: Literal[("auto", *TEXTS)] = "auto"
    base: Literal[("auto", *BASES)] = "auto"
    base_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    arms: list[str] = Field(default=["full", "lora"], min_length=1, max_length=len(ARMS))
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    epochs: Epochs = 1
    seeds: Count = 1
    lr: dict[str, Rate] = {"full": 3e-4, "lora": 2e-3}
    targets: Annotated[str, Field(min_length=1)] = ATTENTION
    random_seeds: Count = 0
    same_rate_seeds: Count = 0
    ranks: list[Rank] = []
    rank_seeds: Count = 0
    variant_seeds: Count = 0
    full_rates: list[Rate] = Field(default=[3e-4], min_length=1, max_length=10)
    lora_rates: list[Rate] = Field(default=[2e-3], min_length=1, max_length=10)
    grid_seeds: Count = 0
    published_epochs: list[Literal[1, 2]] = []
    published_seeds: Count = 0
    cost_seeds: Count = 0

    @field_validator("arms")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        return known_arms(names, ARMS)

    @model_validator(mode="after")
    def adds_up(self):
        known_targets(self.targets)
        for r in self.ranks:
            check_rank(r, headlines.MINI if self.base == "auto" else self.base)
        if not any(getattr(self, name) for name in type(self).model_fields if name.endswith("seeds")):
            raise ValueError("all numbers of seeds are 0, so nothing would run; raise seeds")
        wrong = [name for name in self.lr if not re.fullmatch(f"({'|'.join(ARMS)})(-.+)?", name)]
        if wrong:
            raise ValueError(f"lr has a rate for {wrong[0]!r}; choose from {', '.join(ARMS)}")
        if not {"full", "lora"} <= set(self.lr):
            raise ValueError(f"lr has rates for {', '.join(self.lr) or 'nothing'}; it wants one for full and one for lora")
        if self.base == headlines.ERNIE and self.base_steps:
            raise ValueError(f"base_steps is {self.base_steps}: {self.base} comes pretrained; set it to 0")
        return self


def choose_text() -> str:
    """TNEWS, the few-shot release, or the stand-in."""
    return data.first(headlines.TNEWS, headlines.REVIEWS).name


def choose_base() -> str:
    """ERNIE 3.0 medium where it can be had, else the base that is pretrained here."""
    try:
        return data.locate(headlines.ERNIE).name
    except data.WrongFile:
        raise
    except SeqlibError:
        return headlines.MINI


def specs_of(params: ErnieParams) -> list[ErnieSpec]:
    """All runs, seed by seed: the base first, then those that choose rates."""
    base = choose_base() if params.base == "auto" else params.base
    steps = params.base_steps if base in MADE else 0
    common = {"text": choose_text() if params.text == "auto" else params.text, "base": base, "base_steps": steps}
    fair = common | {"batch": params.batch, "epochs": params.epochs}

    def one(arm: str, **more) -> ErnieSpec:
        adapter = {"r": RANK, "alpha": ALPHA, "dropout": DROPOUT, "targets": params.targets} if arm in LORA else {}
        given = fair | adapter | more
        if "lr" not in given:
            name = label({"arm": arm, "r": 0, "alpha": 0.0, "dropout": 0.0, "targets": "", **given})
            given["lr"] = params.lr.get(name) or params.lr.get(arm) or params.lr["full" if arm == "full" else "lora"]
        return ErnieSpec(arm=arm, **given)

    ranks = [{"r": r, "alpha": alpha} for r in params.ranks for alpha in dict.fromkeys((2.0 * r, ALPHA))]
    less = {"r": RANK // 2, "alpha": ALPHA / 2, "dropout": 0.0}
    variants = [{"dropout": 0.0}, {"targets": ALL}, less]
    random = {"base_steps": 0, "base": base if base in MADE else RANDOM}
    tried = [(arm, {}) for arm in params.arms] + [("full", random)] * (params.random_seeds > 0)
    tried += [("lora", less)] * (params.variant_seeds > 0)
    specs = [one(arm, seed=seed, stage="grid", lr=lr, **changed)
             for seed in range(GRID_SEED, GRID_SEED + params.grid_seeds) for arm, changed in tried
             for lr in (params.full_rates if arm == "full" else params.lora_rates)]
    specs += [one(arm, seed=seed) for seed in range(params.seeds) for arm in params.arms]
    specs += [one("full", seed=seed, **random) for seed in range(params.random_seeds)]
    specs += [one(arm, seed=seed, stage=SAME_RATE, lr=RATE) for seed in range(params.same_rate_seeds)
              for arm in ("full", "lora")]
    specs += [one("lora", seed=seed, **adapter) for seed in range(params.rank_seeds) for adapter in ranks]
    specs += [one("lora", seed=seed, **variant) for seed in range(params.variant_seeds) for variant in variants]
    specs += [one(arm, seed=seed, protocol="published", epochs=epochs, examples=PUBLISHED[epochs][0], batch=BATCH, lr=RATE)
              for epochs in params.published_epochs for seed in range(params.published_seeds)
              for arm in ("full", "lora", "lora-frozen-head")]
    specs += [one(arm, seed=seed, base=RANDOM, base_steps=0, stage=COST, protocol="published", epochs=1, examples=COSTED,
                  batch=batch, lr=RATE)
              for seed in range(params.cost_seeds) for batch in (BATCH, 2 * BATCH) for arm in ("full", "lora")]
    made = [pretraining(spec) for spec in specs if spec.base_steps][:1]
    return list({spec.key: spec for spec in made + specs}.values())
