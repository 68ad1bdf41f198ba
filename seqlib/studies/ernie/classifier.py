"""The classifier in PaddleNLP, and what each arm trains of it."""

import functools
import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from seqlib import headlines
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.studies.ernie import bases
from seqlib.studies.ernie.arms import ARMS, PRETRAINING, Arm
from seqlib.studies.ernie.framework import nlp, paddle
from seqlib.studies.ernie.specs import ALL, ATTENTION, LAYERS, MADE, RANK, SHAPES, ErnieSpec

POSITIONS = "ernie.embeddings.position_embeddings.weight"
WEIGHTS = "peft_model.safetensors"  # by these names PaddleNLP finds an adapter
INDEX = f"{WEIGHTS}.index.json"
WHOLE = "model.safetensors"  # and by this one a model


def classifier(base: bases.Base, classes: int, seed: int):
    """PaddleNLP's ErnieForSequenceClassification with a base's weights; what the base lacks (all of
    it, where its weights are random) is drawn from `seed`, the same for all arms. Raises UsageError
    where the weights are of another shape."""
    library = nlp("transformers")
    paddle().seed(seed)
    shape = bases.config(base.name, len(base.vocab), classes)
    model = library.ErnieForSequenceClassification(library.ErnieConfig(**shape))
    state, given = model.state_dict(), bases.to_paddle(base.weights)
    wrong = [name for name, value in given.items()
             if name not in state or tuple(state[name].shape) != value.shape]
    wrong += [name for name in state
              if base.weights and name not in given and not name.startswith("classifier.")]
    if wrong:
        raise UsageError(f"base {base.name} does not fit its architecture: {wrong[0]} is "
                         "absent, too many or of another shape")
    random, spread = np.random.default_rng([seed, 4]), np.float32(bases.spread(base.name))
    for name, value in state.items():
        if name in given:
            value.set_value(given[name].astype(np.float32))
        elif name == POSITIONS and base.name in MADE:
            value.set_value(bases.first_positions(base.name).astype(np.float32))
        elif value.ndim == 2:
            value.set_value(random.standard_normal(value.shape, np.float32) * spread)
    return model


def trains(arm: Arm, name: str) -> bool:
    """Whether an arm trains a weight of the base or the classifier, by Paddle's name."""
    return re.fullmatch(arm.trains, name) is not None


def prepare(model, spec: ErnieSpec):
    """The model with what the run's arm trains, and all else frozen."""
    arm = ARMS[spec.arm]
    if not arm.adapter:
        for name, p in model.named_parameters():
            p.stop_gradient = not trains(arm, name)
        return model
    layers = {ATTENTION: LAYERS[:4], ALL: LAYERS}.get(spec.targets, (spec.targets,))
    library = nlp("peft")
    config = library.LoRAConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=[rf".*encoder.*\.{layer}" for layer in layers],
        trainable_modules=[arm.trains],
    )
    return library.LoRAModel(model, config)


def trained_weights(model) -> dict[str, np.ndarray]:
    """What an arm has trained, by Paddle's names."""
    state = getattr(model, "model", model).state_dict()
    return {name: value.numpy() for name, value in state.items() if not value.stop_gradient}


def save(model, folder: Path) -> int:
    """Write what was trained as safetensors, with the configuration of a LoRA adapter or of a whole
    model, from which `from_pretrained` of PaddleNLP's `LoRAModel` or of the model's class loads it
    (its `save_pretrained` would write a pickle). Returns the bytes of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = trained_weights(model)
    file = folder / (WHOLE if weights.keys() == model.state_dict().keys() else WEIGHTS)
    save_file(weights, file, {"format": "np"})
    if file.name == WHOLE:
        model.config.save_pretrained(str(folder))
    if hasattr(model, "lora_config"):
        model.lora_config.save_pretrained(str(folder))
        size = sum(value.nbytes for value in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(weights, WEIGHTS)}
        (folder / INDEX).write_text(json.dumps(index))
    return file.stat().st_size


def load_trained(model, spec: ErnieSpec, folder: Path):
    """A fresh classifier with what `save` wrote. Raises UsageError where there is none."""
    adapter = ARMS[spec.arm].adapter
    file = WHOLE if (folder / WHOLE).exists() else WEIGHTS
    for wanted in (file, *(("lora_config.json", INDEX) if adapter else ())):
        if not (folder / wanted).exists():
            raise UsageError(f"no weights of {spec.arm} in {folder}: it has no {wanted}; train it "
                             "under the fair protocol with seed 0")
    state = {} if adapter else model.state_dict()
    try:
        if adapter:
            return nlp("peft").LoRAModel.from_pretrained(model, str(folder))
        for name, value in load_file(folder / file).items():
            state[name].set_value(value)
    except (SafetensorError, OSError, ValueError) as error:
        raise SeqlibError(f"the weights in {folder} cannot be read ({first_line(error)}); delete "
                          "that folder and its run in SEQLIB_RUNS, and train again") from error
    return model


def count(model) -> dict[str, int]:
    """Trainable and total parameters of a model in Paddle."""
    sizes = [(int(np.prod(p.shape)), not p.stop_gradient) for p in model.parameters()]
    trainable = sum(n for n, trained in sizes if trained)
    return {"trainable": trainable, "total": sum(n for n, _ in sizes)}


@functools.cache
def counts(arm: str, base: str = headlines.ERNIE) -> dict[str, int]:
    """Trainable and total parameters of an arm, an adapter being the published one, on a base with
    ERNIE's vocabulary and 15 classes. Counted on Hugging Face's class without weights, whose layers
    are Paddle's, so that no Paddle is needed."""
    import torch
    from transformers import ErnieConfig, ErnieForPreTraining, ErnieForSequenceClassification

    kind = ErnieForPreTraining if arm == PRETRAINING else ErnieForSequenceClassification
    with torch.device("meta"):
        model = kind(ErnieConfig(**bases.config(base)))
    sizes = {bases.paddle_name(name): p.numel() for name, p in model.named_parameters()}
    layers, _, width = SHAPES[base]
    adapter = layers * 4 * 2 * RANK * width if ARMS[arm].adapter else 0  # A and B of 4 projections
    trained = sum(n for name, n in sizes.items() if trains(ARMS[arm], name))
    return {"trainable": trained + adapter, "total": sum(sizes.values()) + adapter}
