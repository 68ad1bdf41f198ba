"""Settings of a run (`TuneSpec`), parameters of the notebook, and which runs they ask for."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from seqlib import data, smollm
from seqlib.errors import SeqlibError
from seqlib.record import Spec

LORA = ("lora", "lora-all", "rslora", "dora")
ARMS = ("full", *LORA, "frozen")
RANK, ALPHA, DROPOUT = 8, 16.0, 0.05  # as published
TINY = "tiny-random"
BASES = (smollm.GPT2, smollm.BASE, TINY)  # any other is a folder or a name on the hub
LOREM, SHAKESPEARE, FILE = "lorem", "shakespeare", "file"
TEXTS = (LOREM, SHAKESPEARE, FILE)
MODULES = (*(f"seqlib.models.{m}" for m in ("fused", "loss", "streamed")),
           *(f"seqlib.studies.gpt2.{m}" for m in ("arms", "bases", "books", "quick", "specs", "train", "run")))

Count = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Rank = Annotated[int, Field(ge=1, le=4096)]
Batch = Annotated[int, Field(ge=1, le=4096)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]
PROTOCOLS = ("published", "fair")
DECAY, WARM_UP = 0.01, 0.06  # weight decay, and the share of the steps in which the rate rises
GRID_SEED = 1000  # of the runs that choose a learning rate: none of theirs is reported


class TuneSpec(Spec):
    """A run of one arm. `published` draws windows, one token apart, from the first `slice_tokens` tokens of the text and
    validates on the last tenth of that slice; `fair` draws windows that do not overlap and holds whole parts of the text out.
    A run of the stage `grid` chooses a learning rate and sees validation text alone. A base or book that is the user's file
    goes into the spec with the hash of its content, so that a changed file is another run."""

    study: Literal["gpt2"] = "gpt2"
    arm: Literal[ARMS]
    base: str = smollm.BASE
    base_sha256: str = ""
    text: Literal[TEXTS] = SHAKESPEARE
    book_path: str = ""
    book_sha256: str = ""
    protocol: Literal[PROTOCOLS] = "fair"
    stage: Literal["grid", "final"] = "final"
    context: int = Field(128, ge=2, le=8192)
    batch: Batch = 8
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
        """`auto` is GPT-2, or its stand-in where that cannot be had; adapters are the published one unless told otherwise; a base
        or a book of the user's has the hash of its content."""
        values = dict(values)
        if values.get("base") == "auto":
            values["base"] = choose()
        if values.get("arm") in LORA:
            values = {"r": RANK, "alpha": ALPHA * values.get("r", RANK) / RANK, "dropout": DROPOUT} | values
        for name, hashed in (("base", "base_sha256"), ("book_path", "book_sha256")):
            own = values.get(name) or ""
            if own and own not in BASES and hashed not in values:
                values[hashed] = content(own)
        return values

    @model_validator(mode="after")
    def belongs(self):
        if (self.r > 0) != (self.arm in LORA):
            raise ValueError(f"r is {self.r}: LoRA arms want a rank of 1 or more, others have none")
        if self.arm in LORA and self.alpha <= 0 or self.arm not in LORA and (self.alpha or self.dropout or self.targets):
            raise ValueError(f"alpha is {self.alpha}: LoRA arms want one above 0, others neither alpha, dropout nor targets")
        if (self.steps > 0) != (self.lr > 0):
            raise ValueError(f"lr is {self.lr}: a run with steps wants a rate above 0, the frozen base none")
        if (self.arm == "frozen") != (self.steps == 0):
            raise ValueError(f"steps is {self.steps}: the frozen base trains for none, others for one or more")
        if (self.slice_tokens > 0) != (self.protocol == "published"):
            raise ValueError(f"slice_tokens is {self.slice_tokens}: the published protocol wants a slice of the text, the fair "
                             "one none")
        if (self.text == FILE) != bool(self.book_path):
            raise ValueError(f"text is {self.text!r} and book_path {self.book_path!r}: a file wants a path, others have none")
        return self


def label(spec: dict) -> str:
    """Name of what was trained: the arm, with its rank where that is not the published one."""
    return spec["arm"] if spec["r"] in (0, RANK) else f"{spec['arm']}-r{spec['r']}"


def choose() -> str:
    """GPT-2 where it can be had, else the stand-in (which a run may then have to do without)."""
    try:
        return data.locate(smollm.GPT2).name
    except data.WrongFile:
        raise
    except SeqlibError:
        return smollm.BASE


def content(path: str) -> str:
    """sha256 of a file, or of the weights in a folder; empty where there is none, which the run itself will say."""
    given, whole = Path(path).expanduser(), hashlib.sha256()
    files = sorted(given.glob("*.safetensors")) if given.is_dir() else [given] if given.is_file() else []
    for found in files:
        with found.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest() if files else ""
