"""The arms: what each trains of a pretrained language model, as data.

Sources: LoRA, Hu et al. (arXiv 2106.09685, section 4.1); rsLoRA, Kalajdzievski (2312.03732); DoRA,
Liu et al. (2402.09353).
"""

from dataclasses import dataclass
from typing import Any

from seqlib.errors import nearest


@dataclass(frozen=True)
class Arm:
    """What an arm trains.

    whole: whether every weight of the base is trained. adapter: whether an adapter is added and
    trained, by what peft's `LoraConfig` is given besides rank, alpha, dropout and the layers that a
    run may name; None for no adapter.
    """

    whole: bool = False
    adapter: dict[str, Any] | None = None

    @property
    def trains(self) -> bool:
        return self.whole or self.adapter is not None

    @property
    def chooses_layers(self) -> bool:
        """Whether the arm itself says which layers it adapts, so that a run cannot."""
        return "target_modules" in (self.adapter or {})


ARMS = {
    "full": Arm(whole=True),
    "lora": Arm(adapter={}),
    "lora-all": Arm(adapter={"target_modules": "all-linear"}),
    "rslora": Arm(adapter={"use_rslora": True}),
    "dora": Arm(adapter={"use_dora": True}),
    "frozen": Arm(),
}


def find(name: str) -> Arm:
    """An arm by name. Raises UsageError on an unknown one."""
    if name not in ARMS:
        raise nearest("arm of gpt2", name, ARMS)
    return ARMS[name]
