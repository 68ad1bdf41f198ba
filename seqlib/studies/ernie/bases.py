"""Base models: ERNIE 3.0 medium, bases that are pretrained here, and the same with random weights.

Weights are safetensors under Hugging Face's names; `to_paddle` gives Paddle's.
"""

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from seqlib import code, data, headlines
from seqlib.errors import SeqlibError, first_line
from seqlib.models.forecast import sinusoid_table
from seqlib.record import digest
from seqlib.studies.ernie import sentences
from seqlib.studies.ernie.specs import RANDOM, SHAPES, ErnieSpec, pretraining

ERNIE_VOCABULARY, ERNIE_POSITIONS, POSITIONS = 40_000, 2048, 128
SPREAD = 0.02  # standard deviation of ERNIE's initial weights
FILES = ("model.safetensors", "vocab.txt", "made.json")  # of a base that is pretrained here

# Hugging Face's names of an encoder's parts, and Paddle's, to be exchanged in this order.
PARTS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"),  # older
         ("embeddings.LayerNorm", "embeddings.layer_norm"), ("encoder.layer.", "encoder.layers."),
         ("attention.self.query", "self_attn.q_proj"), ("attention.self.key", "self_attn.k_proj"),
         ("attention.self.value", "self_attn.v_proj"),
         ("attention.output.dense", "self_attn.out_proj"), ("attention.output.LayerNorm", "norm1"),
         ("intermediate.dense", "linear1"), ("output.dense", "linear2"),
         ("output.LayerNorm", "norm2"))


@dataclass(frozen=True)
class Base:
    """`weights` are empty for a base with random ones, `vocab` has the token of every number;
    `sha256` is that of the weights' file."""

    name: str
    weights: dict[str, np.ndarray]
    vocab: list[str]
    sha256: str


def spread(name: str) -> float:
    """Standard deviation of initial weights: ERNIE's at its width, more where a base is narrower,
    so that what a layer puts out keeps its size."""
    return SPREAD * math.sqrt(SHAPES[headlines.ERNIE][2] / SHAPES[name][2])


def first_positions(name: str) -> np.ndarray:
    """Initial embeddings of the positions (T, C) of a base that is pretrained here: sinusoids
    (Vaswani et al., arXiv 1706.03762, section 3.5) as large as the other weights, from which
    attention to neighbours is learned in fewer steps."""
    return math.sqrt(2) * spread(name) * sinusoid_table(POSITIONS, SHAPES[name][2]).numpy()


def config(name: str, tokens: int = ERNIE_VOCABULARY, classes: int = 15) -> dict:
    """Architecture of a base by the names that Paddle's and Hugging Face's configurations share."""
    layers, heads, width = SHAPES[name]
    positions = ERNIE_POSITIONS if name in (headlines.ERNIE, RANDOM) else POSITIONS
    return {"vocab_size": tokens, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": 4 * width,
            "max_position_embeddings": positions, "type_vocab_size": 4, "use_task_id": True,
            "task_type_vocab_size": 16, "initializer_range": spread(name), "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
            "num_labels": classes}


def paddle_name(name: str) -> str:
    """Paddle's name of a weight, given Hugging Face's."""
    for theirs, ours in PARTS:
        name = name.replace(theirs, ours)
    return name


def to_paddle(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of encoder and classifier by Paddle's names, without the heads of the pretraining.
    Paddle keeps a linear layer's matrix (in, out), Hugging Face (out, in)."""
    out = {}
    for name, value in weights.items():
        if name.startswith(("ernie.", "classifier.")) and not name.endswith("position_ids"):
            matrix = value.ndim == 2 and not re.search(r"embeddings\.weight$", name)
            out[paddle_name(name)] = np.ascontiguousarray(value.T) if matrix else value
    return out


def texts_sha256(spec: ErnieSpec) -> str:
    """Of all that a base is pretrained on."""
    more = "" if spec.text == headlines.REVIEWS else data.locate(headlines.TEXT).sha256
    return digest([sentences.load(spec.text).sha256, more])


@functools.cache
def maker() -> str:
    """Fingerprint of the code that pretrains a base, and of no other."""
    reached = code.Reach([("seqlib.studies.ernie.pretrain", "pretrain")])
    return digest(sorted(reached.texts.values()))


def folder(spec: ErnieSpec) -> Path | None:
    """Where the base of a run lies, None for random weights; that of one that is pretrained here is
    bound to the settings, the architecture, the texts and the code that makes it. Raises
    SeqlibError where ERNIE's weights cannot be had."""
    if spec.base == headlines.ERNIE:
        return Path(data.locate(spec.base).path).parent
    if spec.base == RANDOM or not spec.base_steps:
        return None
    bound = [pretraining(spec).key, config(spec.base), texts_sha256(spec), maker()]
    return data.cache() / "ernie" / digest(bound)[:24]


def is_made(spec: ErnieSpec) -> bool:
    """Whether a base that is pretrained here lies in the cache."""
    kept = folder(spec)
    return all((kept / name).exists() for name in FILES)


def load_base(spec: ErnieSpec) -> Base:
    """The base that a run starts from. Raises SeqlibError where it is damaged."""
    kept = folder(spec)
    if kept is None:
        vocab = sentences.vocabulary(sentences.to_pretrain(spec.text))
        more = ERNIE_VOCABULARY - len(vocab) if spec.base == RANDOM else 0  # as many as published
        return Base(spec.base, {}, [*vocab, *(f"[unused{i}]" for i in range(more))], "")
    try:
        vocab = (kept / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        content = (kept / "model.safetensors").read_bytes()
        return Base(spec.base, load(content), vocab, hashlib.sha256(content).hexdigest())
    except FileNotFoundError as error:
        raise SeqlibError(f"base {spec.base} is not in {kept}; if its code was changed meanwhile, "
                          "restart and run again") from error
    except (OSError, SafetensorError) as error:
        raise damaged(spec, kept, first_line(error)) from error


def damaged(spec: ErnieSpec, kept: Path, why: str) -> SeqlibError:
    """The error for a base that cannot be used."""
    return SeqlibError(f"base {spec.base}: {kept} is damaged ({why}); delete it, and it is made "
                       "anew")
