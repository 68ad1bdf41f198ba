"""The GPT-2 study: LoRA against full fine-tuning of a causal language model.

Loading this package imports neither torch nor peft and transformers: its functions do, once a run
begins.
"""

from seqlib import data as sources
from seqlib import plays
from seqlib.studies.gpt2.arms import ARMS
from seqlib.studies.gpt2.specs import SHAKESPEARE, TINY, TuneSpec, label
from seqlib.study import Run, study


def data(specs: list[TuneSpec]) -> list[str]:
    """Data sets of some runs; the runs themselves find bases and books of the user's."""
    named = {spec.base for spec in specs} | {sources.DESCRIPTIONS} if specs else set()
    texts = {plays.ALL} if any(spec.text == SHAKESPEARE for spec in specs) else set()
    return sorted((named | texts) & set(sources.DATA))


def count(arm: str) -> dict[str, int]:
    """Trainable and total parameters of an arm on GPT-2, from its configuration."""
    from seqlib.studies.gpt2.adapters import counts

    return counts(arm)


def prepare(spec: TuneSpec) -> None:
    """Raises SeqlibError or UsageError where a run's base or book is not the planned one or is
    unsound."""
    from seqlib.studies.gpt2.bases import check

    check(spec)


def alone(spec: TuneSpec) -> int:
    """Threads of a run's process, which its peak memory is measured in; 0 (in this process) for the
    tiny base of the tests."""
    import torch

    return 0 if spec.base == TINY else torch.get_num_threads()


@study(TuneSpec, arms=ARMS, data=data, count=count, label=label, prepare=prepare, alone=alone)
def run(spec: TuneSpec, run: Run) -> tuple[dict, dict]:
    """Metrics and curves of one run."""
    from seqlib.studies.gpt2 import tune

    return tune.fine_tune(spec, run)
