"""The ERNIE study: LoRA against full fine-tuning of a Chinese text classifier, with PaddlePaddle and PaddleNLP."""

from seqlib import headlines
from seqlib.record import Record
from seqlib.studies.ernie.specs import ARMS, PRETRAINING, ErnieSpec, label
from seqlib.study import study


def data(specs: list[ErnieSpec]) -> list[str]:
    """Data sets of some runs."""
    texts = {spec.text for spec in specs}
    own = {spec.text for spec in specs if spec.base != headlines.ERNIE}  # whose vocabulary comes of the text
    more = {headlines.TEXT} if own - {headlines.REVIEWS} else set()
    return sorted(texts | more | {spec.base for spec in specs if spec.base == headlines.ERNIE})


def tune(specs: list[ErnieSpec]) -> list[Record]:
    from seqlib.studies.ernie import framework, run  # slow imports

    framework.need()  # before a base is pretrained
    return [run.run(spec) for spec in specs]


def count(arm: str) -> dict[str, int]:
    from seqlib.studies.ernie.arms import parameter_counts

    return parameter_counts(arm)


study(ErnieSpec, arms=dict.fromkeys((*ARMS, PRETRAINING)), data=data, count=count, label=label)(tune)
