"""Settings of a run (`TuneSpec`), parameters of the notebook, and which runs they ask for."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from seqlib import data, smollm
from seqlib.errors import SeqlibError
from seqlib.record import Spec
from seqlib.study import Params, known_arms

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


class TuneParams(Params):
    """`arms` train under the fair protocol with `batch` and `seeds`; they and `small_arms` once more with `small_batch` and
    `small_seeds`, adapters at each of their `ranks` with `rank_seeds`; `arms` with the small batch for `long_steps` with
    `long_seeds`, and as long on filler text with `filler_seeds`. `grid_seeds` runs at every one of `full_rates` (of
    `lora_rates` for adapters) choose each one's learning rate on validation text; what was chosen stands in `lr`, by arm or by
    arm and rank ("lora-r16"); what is not in it has the rate of `lora`. `published_seeds` tells, by text, how many runs of the
    document's two arms on a slice, in `published_epochs`, or a part of one."""

    base: Annotated[str, Field(min_length=1)] = "auto"
    text: Literal[TEXTS] = SHAKESPEARE
    book_path: str = ""
    arms: list[str] = Field(default=["full", "lora"], min_length=1, max_length=len(ARMS))
    context: Annotated[int, Field(ge=2, le=8192)] = 128
    batch: Batch = 8
    steps: Steps = 60
    seeds: Count = 1
    rank: Rank = RANK
    alpha: Annotated[float, Field(gt=0)] = ALPHA
    dropout: Annotated[float, Field(ge=0, lt=1)] = DROPOUT
    targets: list[str] = []
    lr: dict[str, Rate] = {"full": 1e-4, "lora": 1e-3}
    small_arms: list[str] = []
    ranks: dict[Literal[LORA], list[Rank]] = {}
    small_batch: Batch = 2
    small_seeds: Count = 0
    rank_seeds: Count = 0
    long_steps: Steps = 240
    long_seeds: Count = 0
    filler_seeds: Count = 0
    full_rates: list[Rate] = Field(default=[1e-4], min_length=1, max_length=10)
    lora_rates: list[Rate] = Field(default=[1e-3], min_length=1, max_length=10)
    grid_seeds: Count = 0
    published_seeds: dict[Literal[TEXTS], Count] = {}
    published_epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    slice_tokens: Annotated[int, Field(ge=0)] = 0

    @field_validator("arms", "small_arms")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        return known_arms(names, ARMS)

    @model_validator(mode="after")
    def adds_up(self):
        if not any((self.seeds, self.small_seeds, self.rank_seeds, self.long_seeds, self.filler_seeds, self.grid_seeds,
                    *self.published_seeds.values())):
            raise ValueError("all numbers of seeds are 0, so nothing would run; raise seeds")
        wrong = [name for name in self.lr if not re.fullmatch(f"({'|'.join(ARMS[:-1])})(-r[1-9][0-9]*)?", name)]
        if wrong:
            raise ValueError(f"lr has a rate for {wrong[0]!r}; choose from {', '.join(ARMS[:-1])}, or a rank such as lora-r16")
        if not {"full", "lora"} <= set(self.lr):
            raise ValueError(f"lr has rates for {', '.join(self.lr) or 'nothing'}; it wants one for full and one for lora")
        if (FILE in (self.text, *self.published_seeds)) != bool(self.book_path):
            raise ValueError("text and book_path go together: text 'file' with a book_path, any other without")
        if any(self.published_seeds.values()) and self.slice_tokens < 10 * (self.context + 2):
            raise ValueError(f"slice_tokens is {self.slice_tokens}: the last tenth of it has to hold two windows of "
                             f"{self.context} tokens")
        return self


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


def specs_of(params: TuneParams) -> list[TuneSpec]:
    """All runs, seed by seed, the grid first."""
    base = choose() if params.base == "auto" else params.base
    common = {"base": base, "base_sha256": "" if base in BASES else content(base), "context": params.context}
    book = {"book_path": params.book_path, "book_sha256": content(params.book_path)} if params.book_path else {}
    fair = common | {"text": params.text} | (book if params.text == FILE else {})

    def one(arm: str, r: int = params.rank, **more) -> TuneSpec:
        if arm == "frozen":
            more |= {"steps": 0, "lr": 0.0, "seed": 0, "batch": params.small_batch}
        if arm in LORA:
            more |= {"r": r, "alpha": params.alpha * r / params.rank, "dropout": params.dropout}
            more |= {"targets": tuple(params.targets)} if arm != "lora-all" else {}
        return TuneSpec(arm=arm, **more)

    def rate(arm: str, r: int) -> float:
        name = label({"arm": arm, "r": r if arm in LORA else 0})
        return params.lr.get(name) or params.lr.get(arm) or params.lr["lora" if arm in LORA else "full"]

    small = [(a, params.rank) for a in dict.fromkeys([*params.arms, *params.small_arms])]
    other = [(a, r) for a, ranks in params.ranks.items() for r in ranks if (a, r) not in small]
    trained = [(a, r) for a, r in [*small, *other] if a != "frozen"]
    specs = [one(a, r, **fair, batch=params.small_batch, steps=params.steps, stage="grid", seed=GRID_SEED + s, lr=lr)
             for s in range(params.grid_seeds) for a, r in trained
             for lr in (params.lora_rates if a in LORA else params.full_rates)]
    pair, less = [(a, params.rank) for a in params.arms], {"batch": params.small_batch, "steps": params.steps}
    for seeds, chosen, settings in (
            (params.small_seeds, small, fair | less), (params.rank_seeds, other, fair | less),
            (params.seeds, pair, fair | less | {"batch": params.batch}),
            (params.long_seeds, pair, fair | less | {"steps": params.long_steps}),
            (params.filler_seeds, pair, common | {"text": LOREM} | less | {"steps": params.long_steps})):
        specs += [one(a, r, **settings, seed=s, lr=rate(a, r)) for s in range(seeds) for a, r in chosen]
    for text, seeds in params.published_seeds.items():
        own = common | {"text": text, "slice_tokens": params.slice_tokens} | (book if text == FILE else {})
        specs += [published(one, arm, own | {"seed": s}, params) for s in range(seeds) for arm in ("full", "lora")]
    return list({spec.key: spec for spec in specs}.values())


def published(one, arm: str, settings: dict, params: TuneParams) -> TuneSpec:
    """The document's settings of an arm, some epochs over the slice's windows, or a part of one."""
    batch, lr = {"full": (64, 3e-5), "lora": (16, 3e-4)}[arm]
    count = params.slice_tokens - params.slice_tokens // 10 - params.context  # windows of the first nine tenths
    steps = max(1, int(params.published_epochs * count / batch))
    return one(arm, **settings, protocol="published", batch=batch, lr=lr, steps=steps)
