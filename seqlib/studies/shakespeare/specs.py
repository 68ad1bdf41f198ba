"""Settings of a run (`ShakespeareSpec`), parameters of the notebook, and which runs they ask for."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from seqlib.record import Spec
from seqlib.studies.shakespeare import recall
from seqlib.studies.shakespeare.arms import ARMS, build
from seqlib.studies.shakespeare.corpus import CORPORA, choose
from seqlib.study import Params, count_parameters, known_arms

Count = Annotated[int, Field(ge=0, le=1000)]
TOKENS = 32 * 128  # a step of the published setting, which the sweep over contexts keeps
TIMED, TIMED_CONTEXTS = 20, (128, 512)  # steps and contexts that tell how the time of a step grows


class ShakespeareSpec(Spec):
    """A run on a text, or (`corpus` mqar) on the recall task: there `context` is the length of a sequence and `width` the
    channels of the model."""

    study: Literal["shakespeare"] = "shakespeare"
    arm: Literal[ARMS]
    corpus: Literal[(*CORPORA, "mqar")] = "tiny_shakespeare"
    context: int = Field(128, ge=2, le=4096)
    batch: int = Field(32, ge=1, le=4096)
    epochs: int = Field(5, ge=1, le=1000)
    epoch_steps: int = Field(500, ge=1, le=100_000)
    lr: float = Field(3e-4, gt=0, le=1)
    width: int | None = Field(None, ge=8, le=1024)

    @model_validator(mode="after")
    def fits(self):
        if (self.corpus == "mqar") != (self.width is not None):
            raise ValueError("width belongs to the recall task (corpus mqar), and to it alone")
        if self.corpus == "mqar" and (self.arm not in recall.ARMS or self.context < 16):
            raise ValueError(f"the recall task takes {', '.join(recall.ARMS)} and sequences of at least 16")
        return self


class ShakespeareParams(Params):
    """`arms` run with `seeds` paired seeds at the published context and batch, `few_arms` with `few_seeds`, the arm without a
    mask for one epoch with `leak_seeds`; `contexts` are swept at equal characters with `sweep_seeds` seeds of `sweep_arms`
    over `sweep_epochs`, and with `timing_seeds` over TIMED steps for the time of a step alone; the recall task runs over
    `recall_lengths` and `recall_widths`."""

    corpus: Literal[("auto", *CORPORA)] = "auto"
    arms: list[str] = Field(default=["lstm", "additive", "transformer"], min_length=1, max_length=len(ARMS))
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    context: Annotated[int, Field(ge=2, le=4096)] = 128
    batch: Annotated[int, Field(ge=1, le=4096)] = 32
    epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    epoch_steps: Annotated[int, Field(ge=1, le=100_000)] = 500
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-4
    few_arms: list[str] = Field(default=[], max_length=len(ARMS))
    few_seeds: Count = 0
    leak_seeds: Count = 0
    sweep_arms: list[str] = Field(default=["lstm", "additive", "transformer"], max_length=len(ARMS))
    sweep_seeds: Count = 0
    contexts: list[Annotated[int, Field(ge=2, le=4096)]] = []
    timing_seeds: Count = 0
    sweep_epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    recall_arms: list[str] = Field(default=[], max_length=len(recall.ARMS))
    recall_lengths: list[Annotated[int, Field(ge=16, le=4096)]] = []
    recall_widths: list[Annotated[int, Field(ge=8, le=1024)]] = []
    recall_seeds: Count = 0
    recall_steps: Annotated[int, Field(ge=5, le=1_000_000)] = 2000

    @field_validator("arms", "few_arms", "sweep_arms", "recall_arms")
    @classmethod
    def known(cls, names: list[str], info) -> list[str]:
        return known_arms(names, recall.ARMS if info.field_name == "recall_arms" else ARMS)

    @field_validator("contexts")
    @classmethod
    def same_characters(cls, contexts: list[int]) -> list[int]:
        for context in contexts:
            if TOKENS % context:
                raise ValueError(f"{context} does not divide {TOKENS}, the characters of a step")
        return contexts

    @field_validator("recall_steps")
    @classmethod
    def fifths(cls, steps: int) -> int:
        if steps % 5:
            raise ValueError("wants a multiple of 5: accuracy is taken five times")
        return steps


def specs_of(params: ShakespeareParams) -> list[ShakespeareSpec]:
    """All runs, the paired seeds first and seed by seed, so that what is cut short is still paired. Raises SeqlibError when
    `corpus` is auto and none can be had."""
    shared = {"corpus": choose() if params.corpus == "auto" else params.corpus, "context": params.context,
              "batch": params.batch, "epochs": params.epochs, "epoch_steps": params.epoch_steps, "lr": params.lr}

    def make(arm, seed, **other):
        return ShakespeareSpec(arm=arm, seed=seed, **{**shared, **other})

    def at(context):  # as many characters a step as at the published setting
        return {"context": context, "batch": TOKENS // context}

    specs = [make(arm, s) for s in range(params.seeds) for arm in params.arms]
    specs += [make("additive-unmasked", s, epochs=1) for s in range(params.leak_seeds)]
    specs += [make(arm, s, **at(context), epochs=params.sweep_epochs)
              for s in range(params.sweep_seeds) for context in params.contexts for arm in params.sweep_arms]
    specs += [make(arm, s) for s in range(params.few_seeds) for arm in params.few_arms]
    specs += [make(arm, s, **at(context), epochs=1, epoch_steps=TIMED)
              for s in range(params.timing_seeds) for context in TIMED_CONTEXTS for arm in ("lstm", "additive")]
    specs += [make(arm, s, corpus="mqar", context=T, width=C, batch=recall.BATCH, lr=recall.RATE, epochs=5,
                   epoch_steps=params.recall_steps // 5)
              for s in range(params.recall_seeds) for T in params.recall_lengths for C in params.recall_widths
              for arm in params.recall_arms]
    return list({spec.key: spec for spec in specs}.values())


def parameter_counts(arm: str, V: int = 65, context: int = 128) -> dict[str, int]:
    """Trainable and total parameters at the published setting."""
    return count_parameters(lambda: build(arm, V, context))
