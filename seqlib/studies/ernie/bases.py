"""Base models: ERNIE 3.0 medium, the bases that are pretrained here, and the same with random weights.

Weights are safetensors under Hugging Face's names; `names.py` has Paddle's.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from seqlib import data, headlines
from seqlib.errors import SeqlibError, first_line
from seqlib.models.forecast import sinusoid_table
from seqlib.studies.ernie import sentences
from seqlib.studies.ernie.specs import RANDOM, SMALL, TINY, WIDTH, ErnieSpec

SHAPES = {headlines.ERNIE: (6, 12), RANDOM: (6, 12), headlines.MINI: (4, 4), SMALL: (3, 4), TINY: (2, 2)}  # layers, heads
ERNIE_VOCABULARY, ERNIE_POSITIONS = 40_000, 2048
POSITIONS = 128
SPREAD = 0.02  # standard deviation of ERNIE's initial weights


@dataclass(frozen=True)
class Base:
    """`weights` are empty for a base with random ones, `vocab` has the token of every number; `sha256` is that of the weights'
    file."""

    name: str
    weights: dict[str, np.ndarray]
    vocab: list[str]
    sha256: str


def spread(name: str) -> float:
    """Standard deviation of initial weights: ERNIE's at its width, more where a base is narrower, so that what a layer puts out
    keeps its size."""
    return SPREAD * math.sqrt(WIDTH[headlines.ERNIE] / WIDTH[name])


def first_positions(name: str) -> np.ndarray:
    """Initial embeddings of the positions (T, C) of a base that is pretrained here: sinusoids (Vaswani et al., arXiv
    1706.03762, section 3.5) as large as the other weights, from which attention to neighbours is learned in fewer steps."""
    return math.sqrt(2) * spread(name) * sinusoid_table(POSITIONS, WIDTH[name]).numpy()


def config(name: str, tokens: int = ERNIE_VOCABULARY, classes: int = 15) -> dict:
    """Architecture of a base by the names that Paddle's and Hugging Face's configurations share."""
    (layers, heads), width = SHAPES[name], WIDTH[name]
    positions = ERNIE_POSITIONS if name in (headlines.ERNIE, RANDOM) else POSITIONS
    return {"vocab_size": tokens, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "max_position_embeddings": positions,
            "type_vocab_size": 4, "use_task_id": True, "task_type_vocab_size": 16, "initializer_range": spread(name),
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
            "num_labels": classes}


def folder_of(spec: ErnieSpec) -> Path | None:
    """Where the base of a run lies, None for random weights; one that is pretrained here is made first, where it is not in the
    cache. Raises SeqlibError where there is none."""
    if spec.base == headlines.ERNIE:
        return Path(data.locate(spec.base).path).parent
    if spec.base == RANDOM or not spec.base_steps:
        return None
    from seqlib.studies.ernie import pretrain  # torch's model, which a run in Paddle needs for nothing else

    return pretrain.made(spec)


def load_base(spec: ErnieSpec, folder: Path | None) -> Base:
    """The base that a run starts from, out of its folder. Raises SeqlibError where it is damaged."""
    if folder is None:
        vocab = sentences.vocabulary(sentences.to_pretrain(spec.text))
        more = ERNIE_VOCABULARY - len(vocab) if spec.base == RANDOM else 0  # the published architecture has so many
        return Base(spec.base, {}, [*vocab, *(f"[unused{i}]" for i in range(more))], "")
    try:
        vocab = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        content = (folder / "model.safetensors").read_bytes()
        return Base(spec.base, load(content), vocab, hashlib.sha256(content).hexdigest())
    except (OSError, SafetensorError) as error:
        raise SeqlibError(f"base {spec.base}: {folder} is damaged ({first_line(error)}); delete it, and it is made anew"
                          ) from error
