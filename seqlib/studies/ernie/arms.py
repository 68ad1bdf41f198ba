"""The arms: what each trains of a pretrained encoder with a classifier on top.

Sources: LoRA, Hu et al. (arXiv 2106.09685, section 4.1); BitFit, Ben Zaken et al. (2106.10199).
"""

from dataclasses import dataclass

PRETRAINING = "pretraining"  # the arm of the run that makes a base


@dataclass(frozen=True)
class Arm:
    """What an arm trains.

    trains: pattern of the weights of base and classifier that are trained, by Paddle's names; all
    others are frozen. adapter: whether LoRA's matrices are added and trained.
    """

    trains: str
    adapter: bool = False


HEAD = "classifier.*"
ARMS = {
    "full": Arm(".*"),
    "lora": Arm(HEAD, adapter=True),
    "lora-frozen-head": Arm("", adapter=True),  # as the published program has it
    "head-only": Arm(HEAD),
    "bitfit": Arm(".*bias|classifier.*"),
    PRETRAINING: Arm(".*"),
}
