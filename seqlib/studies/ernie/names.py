"""Weights of ERNIE under Hugging Face's names and under Paddle's; Paddle keeps a linear layer's matrix the other way round."""

import re

import numpy as np

_PARTS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"),  # of older checkpoints
          ("embeddings.LayerNorm", "embeddings.layer_norm"), ("encoder.layer.", "encoder.layers."),
          ("attention.self.query", "self_attn.q_proj"), ("attention.self.key", "self_attn.k_proj"),
          ("attention.self.value", "self_attn.v_proj"), ("attention.output.dense", "self_attn.out_proj"),
          ("attention.output.LayerNorm", "norm1"), ("intermediate.dense", "linear1"), ("output.dense", "linear2"),
          ("output.LayerNorm", "norm2"))
_TABLE = re.compile(r"embeddings\.weight$")


def to_paddle(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's and the classifier's weights by Paddle's names; heads of the pretraining and positions
    are left out."""
    out = {}
    for name, value in weights.items():
        if not name.startswith(("ernie.", "classifier.")) or name.endswith("position_ids"):
            continue
        for theirs, ours in _PARTS:
            name = name.replace(theirs, ours)
        matrix = value.ndim == 2 and not _TABLE.search(name)
        out[name] = np.ascontiguousarray(value.T) if matrix else value
    return out
