"""Settings of a run."""

import importlib.metadata
import os
from typing import Literal

from pydantic import Field, field_validator, model_validator

from seqlib import data, devices, headlines
from seqlib.errors import SeqlibError
from seqlib.record import Spec, later, name_in
from seqlib.studies.ernie.arms import ARMS, PRETRAINING

RANK, ALPHA, DROPOUT, LENGTH = 16, 32.0, 0.1, 128  # as published
SAME_RATE, COST = "same rate", "cost"  # stages
ATTENTION, ALL = "attention", "all"  # LoRA adapts the first four of these layers, all, or one
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "linear1", "linear2")
SMALL, TINY = "ernie-mini-small", "ernie-tiny"
RANDOM = "ernie-3.0-medium-random"  # the published architecture, for what a step costs
SHAPES = {headlines.ERNIE: (6, 12, 768), RANDOM: (6, 12, 768),  # layers, heads, width
          headlines.MINI: (4, 4, 256), SMALL: (3, 4, 128), TINY: (2, 2, 32)}
MADE = (headlines.MINI, SMALL, TINY)  # bases that are pretrained here
TEXTS = (headlines.TNEWS, headlines.CLUE, headlines.REVIEWS)


class ErnieSpec(Spec):
    """A run of one arm, or (arm `pretraining`) the making of a base.

    `base_steps` are those of the base's pretraining; with 0 it has random weights. Protocol
    `published` trains on `examples` headlines at a constant rate; `fair` on all, or on `examples`,
    at a rate that falls behind a warm-up. `dev_examples`, where it is not 0, are the headlines of
    the development set. Stage `grid` chooses a rate by the development set and sees no test set,
    nor does `cost`, which measures a step; `same rate` has the published rate."""

    study: Literal["ernie"] = "ernie"
    arm: name_in(ARMS)
    text: Literal[TEXTS] = headlines.TNEWS
    base: Literal[tuple(SHAPES)] = headlines.MINI
    base_steps: int = Field(0, ge=0, le=10_000_000)
    protocol: Literal["published", "fair"] = "fair"
    stage: Literal["grid", "final", SAME_RATE, COST] = "final"
    length: int = Field(LENGTH, ge=4, le=LENGTH)
    examples: int = Field(0, ge=0)
    dev_examples: int = later(0, ge=0)
    batch: int = Field(16, ge=1, le=4096)
    epochs: int = Field(1, ge=0, le=1000)
    lr: float = Field(5e-5, ge=0, le=1)
    r: int = Field(0, ge=0)
    alpha: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str = ""

    @model_validator(mode="before")
    @classmethod
    def filled_in(cls, values):
        """`auto` is the published text or base, or its stand-in where that cannot be had; without
        further settings an adapter is the published one."""
        values = dict(values)
        for name, choose in (("text", choose_text), ("base", choose_base)):
            if values.get(name) == "auto":
                values[name] = choose()
        arm = ARMS.get(values.get("arm"))
        if arm and arm.adapter:
            adapter = {"r": RANK, "alpha": ALPHA, "dropout": DROPOUT, "targets": ATTENTION}
            values = adapter | values
        return values

    @field_validator("device", mode="before")
    @classmethod
    def best(cls, name: str) -> str:
        """`auto` is a card where the Paddle that is installed knows cards."""
        if name != "auto" or os.environ.get(devices.VARIABLE):
            return name
        return "cuda" if any(importlib.metadata.distributions(name="paddlepaddle-gpu")) else "cpu"

    @model_validator(mode="after")
    def adapter_belongs(self):
        adapted = ARMS[self.arm].adapter
        given = (self.r > 0, self.alpha > 0, bool(self.targets))
        width = SHAPES[self.base][2]
        if not all(g == adapted for g in given) or self.dropout and not adapted:
            raise ValueError(f"r is {self.r}, alpha {self.alpha}: LoRA arms want both above 0 and "
                             "targets, others none of them")
        if adapted and self.targets not in (ATTENTION, ALL, *LAYERS):
            raise ValueError(f"targets {self.targets!r} match no layer; choose {ATTENTION}, {ALL}, "
                             f"or one of {', '.join(LAYERS)}")
        if self.r > width:
            raise ValueError(f"rank {self.r} is above the width of {self.base}, {width}, and "
                             "adapts nothing more; lower it")
        return self

    @model_validator(mode="after")
    def belongs(self):
        making = self.arm == PRETRAINING
        if making and self.device != "cpu":
            raise ValueError(f"device is {self.device!r}: a base is pretrained on cpu")
        if self.base not in MADE and (self.base_steps or making):
            raise ValueError(f"base_steps is {self.base_steps}: {self.base} is not pretrained "
                             "here; set it to 0")
        if self.protocol == "published" and not self.examples:
            raise ValueError("examples is 0: the published protocol wants some")
        if making != (self.epochs == 0) or making and not self.base_steps:
            raise ValueError(f"epochs is {self.epochs}: a base is made in base_steps, an arm "
                             "trained in epochs")
        return self


def label(spec: dict) -> str:
    """The arm, what of its adapter is not as published, and "random" where the base is."""
    parts = [spec["arm"]]
    if spec["r"]:
        parts += [f"r{spec['r']}"] * (spec["r"] != RANK)
        parts += [f"a{spec['alpha']:g}"] * (spec["alpha"] != ALPHA)
        parts += [f"d{spec['dropout']:g}"] * (spec["dropout"] != DROPOUT)
        parts += [spec["targets"]] * (spec["targets"] != ATTENTION)
    if spec["arm"] != PRETRAINING and spec["base"] != headlines.ERNIE and not spec["base_steps"]:
        parts.append("random")
    return "-".join(parts)


def pretraining(spec: ErnieSpec) -> ErnieSpec:
    """The run that makes the base of `spec`."""
    length = LENGTH if spec.text == headlines.REVIEWS else LENGTH // 2  # headlines are short
    return ErnieSpec(arm=PRETRAINING, text=spec.text, base=spec.base, base_steps=spec.base_steps,
                     epochs=0, lr=0.0, batch=64, length=length)


def choose_text() -> str:
    """TNEWS, the few-shot release, or its stand-in."""
    return data.first(headlines.TNEWS, headlines.REVIEWS).name


def choose_base() -> str:
    """ERNIE 3.0 medium where it can be had, else the base that is pretrained here."""
    try:
        return data.locate(headlines.ERNIE).name
    except data.WrongFile:
        raise
    except SeqlibError:
        return headlines.MINI
