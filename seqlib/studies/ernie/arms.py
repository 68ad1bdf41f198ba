"""The arms: full fine-tuning, LoRA by PaddleNLP with the classifier trained or (as published) left as it was drawn, the
classifier alone, and BitFit.

Sources: LoRA, Hu et al. (arXiv 2106.09685, section 4.1); BitFit, Ben Zaken et al. (2106.10199).
"""

import functools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from seqlib import headlines
from seqlib.errors import UsageError
from seqlib.studies.ernie import bases, names
from seqlib.studies.ernie.framework import nlp, paddle
from seqlib.studies.ernie.specs import ALL, ALPHA, ATTENTION, DROPOUT, LAYERS, LORA, MADE, RANK
from seqlib.study import count_parameters

POSITIONS = "ernie.embeddings.position_embeddings.weight"
INDEX, WEIGHTS = "peft_model.safetensors.index.json", "peft_model.safetensors"  # by these names PaddleNLP finds an adapter


def classifier(base: bases.Base, classes: int, seed: int):
    """PaddleNLP's ErnieForSequenceClassification with a base's weights; what the base does not have (all of it, where its
    weights are random) is drawn from `seed`, the same for all arms."""
    library = nlp("transformers")
    paddle().seed(seed)
    model = library.ErnieForSequenceClassification(
        library.ErnieConfig(**bases.config(base.name, len(base.vocab), classes)))
    state, given = model.state_dict(), names.to_paddle(base.weights)
    random, spread = np.random.default_rng([seed, 4]), np.float32(bases.spread(base.name))
    drawn = [name for name in state if name not in given]
    wrong = [name for name, value in given.items() if name not in state or tuple(state[name].shape) != value.shape]
    wrong += [name for name in drawn if base.weights and not name.startswith("classifier.")]
    if wrong:
        raise UsageError(f"base {base.name} does not fit its architecture: {wrong[0]} is absent, too many or of another shape")
    for name, value in state.items():
        if name in given:
            value.set_value(given[name].astype(np.float32))
        elif name == POSITIONS and base.name in MADE:
            value.set_value(bases.first_positions(base.name).astype(np.float32))
        elif value.ndim == 2:
            value.set_value(random.standard_normal(value.shape, np.float32) * spread)
    return model


def targets(which: str) -> list[str]:
    """Patterns of the layers that LoRA adapts: those of attention, all linear ones, or those of one name."""
    layers = {ATTENTION: LAYERS[:4], ALL: LAYERS}.get(which, (which,))
    return [rf".*encoder.*\.{layer}" for layer in layers]


def prepare(model, arm: str, r: int = 0, alpha: float = 0.0, dropout: float = 0.0, patterns: list[str] | None = None):
    """The model with what this arm trains, and all else frozen."""
    if arm in LORA:
        library = nlp("peft")
        heads = [] if arm == "lora-frozen-head" else ["classifier.*"]
        config = library.LoRAConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=patterns or targets(ATTENTION),
                                    trainable_modules=heads)
        return library.LoRAModel(model, config)
    for name, p in model.named_parameters():
        trained = {"full": True, "head-only": name.startswith("classifier."),
                   "bitfit": name.endswith("bias") or name.startswith("classifier.")}[arm]
        p.stop_gradient = not trained
    return model


def trained_weights(model) -> dict[str, np.ndarray]:
    """What an arm has trained, by Paddle's names."""
    inner = getattr(model, "model", model)
    return {name: value.numpy() for name, value in inner.state_dict().items() if not value.stop_gradient}


def save(model, folder: Path) -> int:
    """Write what was trained as safetensors, with a LoRA adapter's configuration, so that PaddleNLP's own
    `LoRAModel.from_pretrained` loads it; its own `save_pretrained` would write a pickle. Returns the bytes of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = trained_weights(model)
    save_file(weights, folder / WEIGHTS, {"format": "np"})
    if hasattr(model, "lora_config"):
        model.lora_config.save_pretrained(str(folder))
        size = sum(value.nbytes for value in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(weights, WEIGHTS)}
        (folder / INDEX).write_text(json.dumps(index))
    return (folder / WEIGHTS).stat().st_size


def load_adapter(model, folder: Path):
    """A classifier with a saved LoRA adapter. Raises UsageError where there is none."""
    for wanted in ("lora_config.json", INDEX, WEIGHTS):
        if not (folder / wanted).exists():
            raise UsageError(f"no adapter in {folder}: it has no {wanted}; name a folder that an arm with LoRA was saved to")
    return nlp("peft").LoRAModel.from_pretrained(model, str(folder))


def count(model) -> dict[str, int]:
    """Trainable and total parameters of a model in Paddle."""
    sizes = [(int(np.prod(p.shape)), not p.stop_gradient) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


@functools.cache
def parameter_counts(arm: str, base: str = headlines.ERNIE) -> dict[str, int]:
    """Of an arm on ERNIE 3.0 medium (or another base with as many tokens) with 15 classes, from its configuration: Hugging
    Face's classes without weights, whose layers are those of Paddle, so that no Paddle is needed to count."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import ErnieConfig, ErnieForSequenceClassification

    def build():
        with torch.device("meta"):
            model = ErnieForSequenceClassification(ErnieConfig(**bases.config(base)))
            if arm in LORA:
                layers = ["query", "key", "value", "attention.output.dense"]
                model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=layers))
            for name, p in model.named_parameters():
                head = ".classifier." in f".{name}"
                p.requires_grad_({"full": True, "bitfit": name.endswith("bias") or head, "head-only": head,
                                  "lora": "lora_" in name or head, "lora-frozen-head": "lora_" in name}[arm])
        return model

    return count_parameters(build)

