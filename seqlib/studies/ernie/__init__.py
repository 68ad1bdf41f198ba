"""ERNIE: LoRA against full fine-tuning of a Chinese text classifier, in PaddlePaddle and PaddleNLP.

Loading this package imports neither Paddle nor torch: its functions do, once a run begins.
"""

from seqlib import headlines
from seqlib.studies.ernie.arms import ARMS, PRETRAINING
from seqlib.studies.ernie.specs import MADE, TINY, ErnieSpec, label, pretraining
from seqlib.study import Run, get, study


def data(specs: list[ErnieSpec]) -> list[str]:
    """Data sets of some runs."""
    texts = {spec.text for spec in specs}
    published = {spec.base for spec in specs if spec.base == headlines.ERNIE}
    with_own_vocabulary = {spec.text for spec in specs if spec.base != headlines.ERNIE}
    more = {headlines.TEXT} if with_own_vocabulary - {headlines.REVIEWS} else set()
    return sorted(texts | more | published)


def count(arm: str) -> dict[str, int]:
    """Trainable and total parameters of an arm on ERNIE 3.0 medium."""
    from seqlib.studies.ernie.classifier import counts

    return counts(arm)


def prepare(spec: ErnieSpec) -> None:
    """Pretrain the base of a run where the cache lacks it, in this process, whose memory no run
    reports. Raises SeqlibError where Paddle is not installed."""
    from seqlib.studies.ernie import bases, framework

    if spec.arm == PRETRAINING:
        return
    framework.need()  # before a base is pretrained
    if spec.device != "cpu":
        framework.place(spec.device)
    if spec.base in MADE and spec.base_steps and not bases.is_made(spec):
        get("ernie").train([pretraining(spec)])


def alone(spec: ErnieSpec) -> int:
    """Threads of a run's process, which its peak memory is measured in; 0 (in this process) for
    pretraining and for the tiny base of the tests."""
    from seqlib.studies.ernie import framework

    return 0 if spec.arm == PRETRAINING or spec.base == TINY else framework.threads()


@study(ErnieSpec, arms=ARMS, data=data, count=count, label=label, prepare=prepare, alone=alone,
       in_torch=False)
def run(spec: ErnieSpec, run: Run) -> tuple[dict, dict]:
    """Metrics and curves of one run: of a fine-tuning, or of the pretraining of a base."""
    if spec.arm == PRETRAINING:
        from seqlib.studies.ernie import pretrain

        return pretrain.pretrain(spec, run)
    from seqlib.studies.ernie import tune

    return tune.fine_tune(spec, run)
