"""The ERNIE study: LoRA against full fine-tuning of a Chinese text classifier, with PaddlePaddle and PaddleNLP."""

from functools import partial

from seqlib import headlines
from seqlib.record import Record
from seqlib.studies.ernie.specs import ARMS, MAKERS, MODULES, PRETRAINING, ErnieParams, ErnieSpec, specs_of
from seqlib.study import Study


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


STUDY = Study("ernie", ErnieSpec, ErnieParams, specs_of, lambda specs: [[spec] for spec in specs], tune,
              lambda spec: MAKERS if spec["arm"] == PRETRAINING else MODULES, data, {arm: partial(count, arm) for arm in ARMS})
