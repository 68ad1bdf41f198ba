"""Settings of a run (`ErnieSpec`), parameters of the notebook, and which runs they ask for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from seqlib import data, headlines
from seqlib.errors import SeqlibError
from seqlib.record import Spec

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

    @model_validator(mode="before")
    @classmethod
    def filled_in(cls, values):
        """`auto` is the published text or base, or its stand-in where that cannot be had; arms with LoRA have the published
        adapter unless told otherwise."""
        values = dict(values)
        if values.get("text") == "auto":
            values["text"] = choose_text()
        if values.get("base") == "auto":
            values["base"] = choose_base()
        if values.get("arm") in LORA:
            values = {"r": RANK, "alpha": ALPHA, "dropout": DROPOUT, "targets": ATTENTION} | values
        return values

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
