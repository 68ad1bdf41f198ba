"""Settings of a run (`TuneSpec`) and what has to hold between them."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from seqlib import data, smollm
from seqlib.errors import SeqlibError, first_line
from seqlib.record import Spec, name_in
from seqlib.studies.gpt2.arms import ARMS

RANK, ALPHA, DROPOUT = 8, 16.0, 0.05  # as published
DECAY, WARM_UP = 0.01, 0.06  # weight decay; the share of the steps in which the rate rises
TINY = "tiny-random"
BASES = (smollm.GPT2, smollm.BASE, TINY)  # any other is a folder or a name on the hub
LOREM, SHAKESPEARE, FILE = "lorem", "shakespeare", "file"


class TuneSpec(Spec):
    """A run of one arm.

    `published` draws windows, one token apart, from the first `slice_tokens` tokens of the text and
    validates on the last tenth of that slice; `fair` draws windows that do not overlap and keeps
    whole parts of the text for validation and test. A run of the stage `grid` chooses a learning
    rate and sees validation text alone. A base or a book that is the user's file has the hash of
    its content in the spec, so that a changed file is another run.
    """

    study: Literal["gpt2"] = "gpt2"
    arm: name_in(ARMS)
    base: str = smollm.BASE
    base_sha256: str = ""
    text: Literal[LOREM, SHAKESPEARE, FILE] = SHAKESPEARE
    book_path: str = ""
    book_sha256: str = ""
    protocol: Literal["published", "fair"] = "fair"
    stage: Literal["grid", "final"] = "final"
    context: int = Field(128, ge=2, le=8192)
    batch: int = Field(8, ge=1, le=4096)
    steps: int = Field(60, ge=0, le=1_000_000)
    lr: float = Field(0.0, ge=0, le=1)
    slice_tokens: int = Field(0, ge=0)
    r: int = Field(0, ge=0, le=4096)
    alpha: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def filled_in(cls, values):
        """`auto` is GPT-2, or the stand-in where that cannot be had. An adapter is the published
        one, with an alpha of twice the rank, where nothing else is asked for; the frozen base has
        no steps. A base or a book of the user's has the hash of its content."""
        values = dict(values)
        if values.get("base") == "auto":
            values["base"] = choose()
        arm, r = ARMS.get(values.get("arm")), values.get("r", RANK)
        if arm and arm.adapter is not None:
            alpha = ALPHA * r / RANK if isinstance(r, int) else ALPHA
            values = {"r": RANK, "alpha": alpha, "dropout": DROPOUT} | values
        elif arm and not arm.trains:
            values = {"steps": 0, "lr": 0.0} | values
        if isinstance(values.get("book_path"), str) and values["book_path"]:
            with suppress(RuntimeError):  # no such user; `content` says so
                values["book_path"] = str(Path(values["book_path"]).expanduser().absolute())
        for name, hashed in (("base", "base_sha256"), ("book_path", "book_sha256")):
            own = values.get(name)
            if isinstance(own, str) and own and own not in BASES and hashed not in values:
                values[hashed] = content(own, name)
        return values

    @model_validator(mode="after")
    def belongs(self):
        arm = ARMS[self.arm]
        adapts = arm.adapter is not None
        if not adapts == (self.r > 0) == (self.alpha > 0):
            raise ValueError(f"r is {self.r}, alpha {self.alpha}: an adapter wants both above 0, "
                             "other arms have neither")
        if self.dropout and not adapts:
            raise ValueError(f"dropout is {self.dropout}: the arm {self.arm} has no adapter")
        if self.targets and (not adapts or arm.chooses_layers):
            raise ValueError(f"targets: the arm {self.arm} has no adapter, or chooses its layers "
                             "itself; leave them out, or take the arm lora")
        if not arm.trains == (self.steps > 0) == (self.lr > 0):
            raise ValueError(f"steps is {self.steps}, lr {self.lr}: a run with steps wants a rate "
                             "above 0, the frozen base has neither")
        if (self.slice_tokens > 0) != (self.protocol == "published"):
            raise ValueError(f"slice_tokens is {self.slice_tokens}: the published protocol wants a "
                             "slice of the text, the fair one none")
        if (self.text == FILE) != bool(self.book_path):
            raise ValueError(f"text is {self.text!r} and book_path {self.book_path!r}: a file "
                             "wants a path, other texts none")
        return self


def label(spec: dict) -> str:
    """Name of what was trained: the arm, with its rank where that is not the published one."""
    return spec["arm"] if spec["r"] in (0, RANK) else f"{spec['arm']}-r{spec['r']}"


def choose() -> str:
    """GPT-2 where it can be had, else the stand-in, which a run may then have to do without."""
    try:
        return data.locate(smollm.GPT2).name
    except data.WrongFile:
        raise
    except SeqlibError:
        return smollm.BASE


def content(path: str, name: str) -> str:
    """sha256 of a file, or of the weights in a folder; empty where there is none, which the run
    itself will say. Raises ValueError, with the setting's name, where it cannot be looked at."""
    whole = hashlib.sha256()
    try:
        given = Path(path).expanduser()
        files = sorted(given.glob("*.safetensors")) if given.is_dir() else [given] * given.is_file()
        for found in files:
            with found.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except (OSError, RuntimeError) as error:  # no such user, a name too long, a dead link
        raise ValueError(f"{name} {path[:80]!r} cannot be read ({first_line(error)[:120]}); name a "
                         "folder or a file that can") from error
    return whole.hexdigest() if files else ""
