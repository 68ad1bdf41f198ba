"""The arms: full fine-tuning, LoRA and its relatives by peft's own configurations, and the base left alone.

Sources: LoRA, Hu et al. (arXiv 2106.09685, section 4.1); rsLoRA, Kalajdzievski (2312.03732); DoRA, Liu et al. (2402.09353).
"""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from seqlib.errors import UsageError
from seqlib.studies.gpt2 import bases
from seqlib.studies.gpt2.specs import ALPHA, LORA, RANK


def prepare(model: PreTrainedModel, arm: str, r: int = 0, alpha: float = 0.0, dropout: float = 0.0,
            targets: tuple[str, ...] = ()) -> nn.Module:
    """The model with what this arm trains, and all else frozen. Adapters start from torch's global generator.

    Raises UsageError when no layer bears a target's name, or peft knows no adapter for it."""
    if arm not in LORA:
        return model.requires_grad_(arm == "full")
    layers = {name.rpartition(".")[2] for name, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim == 2}
    absent = [name for name in targets if not any(f".{path}".endswith(f".{name}") for path, _ in model.named_modules())]
    if absent:
        raise UsageError(f"target {absent[0]!r} matches no layer of the base; it has {', '.join(sorted(layers))}")
    names = "all-linear" if arm == "lora-all" else list(targets) or bases.ATTENTION.get(model.config.model_type)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, bias="none", task_type="CAUSAL_LM",
                        use_rslora=arm == "rslora", use_dora=arm == "dora",
                        fan_in_fan_out=model.config.model_type == "gpt2" and arm != "lora-all")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")  # peft sets it where GPT-2's layers want it
            return get_peft_model(model, config)
    except ValueError as error:  # where none were named, peft has those of many architectures
        raise UsageError(f"no adapter can be made for {names or 'this base'} ({str(error).splitlines()[0]}); name targets "
                         f"among {', '.join(sorted(layers))}") from error


def count(model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters; shared ones once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def parameter_counts(arm: str) -> dict[str, int]:
    """Of an arm on GPT-2, from its configuration."""
    with torch.device("meta"):
        return count(prepare(bases.outline(), arm, RANK, ALPHA))
