"""The GPT-2 study: LoRA against full fine-tuning of a causal language model."""

from functools import partial

from seqlib import data as sources
from seqlib import plays
from seqlib.errors import UsageError
from seqlib.record import Record
from seqlib.studies.gpt2.specs import ARMS, MODULES, TuneParams, TuneSpec, specs_of
from seqlib.study import Study


def data(specs: list[TuneSpec]) -> list[str]:
    """Data sets of some runs; bases and books of the user's are located by the runs themselves."""
    named = {spec.base for spec in specs} | ({plays.ALL} if any(s.text == "shakespeare" for s in specs) else set())
    return sorted((named | {sources.DESCRIPTIONS}) & set(sources.DATA))


def tune(specs: list[TuneSpec]) -> list[Record]:
    from seqlib.studies.gpt2 import check, run  # peft and transformers are slow to import

    for spec in specs:
        check.inputs(spec)
    return [run.run(spec) for spec in specs]


def planned(params: TuneParams) -> list[TuneSpec]:
    """Raises UsageError where the parameters ask for nothing."""
    specs = specs_of(params)
    if not specs:
        raise UsageError("the seeds and ranks ask for no run at all; raise seeds, or name a rank")
    return specs


def count(arm: str) -> dict[str, int]:
    from seqlib.studies.gpt2.arms import parameter_counts

    return parameter_counts(arm)


STUDY = Study("gpt2", TuneSpec, TuneParams, planned, lambda specs: [[spec] for spec in specs], tune,
              lambda spec: MODULES, data, {arm: partial(count, arm) for arm in ARMS})
