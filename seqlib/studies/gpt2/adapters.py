"""What an arm makes of a base: adapters by peft's configurations, and what is frozen."""

import warnings
from collections import Counter

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from seqlib.errors import UsageError, first_line
from seqlib.studies.gpt2 import arms, bases
from seqlib.studies.gpt2.specs import ALPHA, RANK

ATTENTION = {  # projections into attention, by architecture
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "k_proj", "v_proj"],
}


def prepare(model: PreTrainedModel, arm: str, *, r: int = 0, alpha: float = 0.0,
            dropout: float = 0.0, targets: tuple[str, ...] = ()) -> nn.Module:
    """The model with what an arm trains, and all else frozen.

    r, alpha, dropout: of an adapter, W x + alpha / r B A dropout(x) with A (r, C) and B (C', r);
    matrices A start from torch's global generator, B at zero. targets: names of the layers to
    adapt, without any the projections into attention.
    Raises UsageError on an unknown arm, when no layer bears a target's name, when a target's weight
    serves in two places, or where peft knows no adapter for it.
    """
    chosen = arms.find(arm)
    if chosen.adapter is None:
        return model.requires_grad_(chosen.whole)
    known = ", ".join(layers(model))
    for target in targets:
        check_target(model, target, known)
    names = list(targets) or ATTENTION.get(model.config.model_type)
    given = {"r": r, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": names}
    config = LoraConfig(**given | chosen.adapter, bias="none", task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings():  # peft sees for itself how GPT-2's layers lie
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
            return get_peft_model(model, config)
    except ValueError as error:  # where no target was named, peft has those of many architectures
        raise UsageError(f"no adapter can be made for {names or 'this base'} "
                         f"({first_line(error)}); name targets among {known}") from error


def layers(model: nn.Module) -> list[str]:
    """Last names of the layers that have a matrix of weights."""
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules()
                   if getattr(getattr(layer, "weight", None), "ndim", 0) == 2})


def check_target(model: nn.Module, target: str, known: str) -> None:
    """Raises UsageError where no layer bears a target's name, or where such a layer's weight serves
    elsewhere too: a head that is the embedding could not be merged without changing both."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    chosen = [layer for path, layer in model.named_modules() if f".{path}".endswith(f".{target}")]
    if not chosen:
        raise UsageError(f"target {target!r} matches no layer of the base; it has {known}")
    if any(uses[id(p)] > 1 for layer in chosen for p in layer.parameters(recurse=False)):
        raise UsageError(f"target {target!r}: its weight is the embedding and the head of the base "
                         "in one (tied), so an adapter on it cannot be merged; name other layers")


def count(model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters; shared ones once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def counts(arm: str) -> dict[str, int]:
    """Of an arm on GPT-2 at the published rank."""
    with torch.device("meta"):
        return count(prepare(bases.outline(), arm, r=RANK, alpha=ALPHA))
