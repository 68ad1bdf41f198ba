"""Recurrent character models: embedding, LSTM or GRU, optional causal additive attention, head.

The attention goes over the layer's earlier states (Bahdanau et al., arXiv 1409.0473, section 3.1,
where a decoder looks at an encoder): query h[i] and key h[j], j <= i, have the score
v . tanh(W h[i] + U h[j]), and the head reads [state, context].
Shapes: B batch, T time, S time with the cache, C channels, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from seqlib.models import check_choice
from seqlib.models.additive import additive_scores
from seqlib.models.transformer import causal


def causal_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention weights (B, T, T) over j <= i, for q and k (B, T, C) and v (C,)."""
    return additive_scores(q, k, v).softmax(-1)


def unmasked_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention weights (B, T, T) over all j. The score is symmetric in q[i] and k[j], so scores of
    the future are causal ones with q and k exchanged."""
    lower, upper = additive_scores(q, k, v), additive_scores(k, q, v).mT
    future = torch.ones(lower.shape[1:], dtype=torch.bool, device=q.device).triu(1)
    return torch.where(future, upper, lower).softmax(-1)


class RecurrentLM(nn.Module):
    """`cell` is `nn.LSTM` or `nn.GRU`; `attention` is None, "causal" or "unmasked", which sees the
    future of its window: the leak that a causal mask prevents."""

    def __init__(self, V: int, cell: type[nn.RNNBase] = nn.LSTM, embedding: int = 128,
                 C: int = 256, attention: str | None = None):
        super().__init__()
        check_choice("attention", attention, (None, "causal", "unmasked"))
        self.V, self.C, self.attention = V, C, attention
        self.embed = nn.Embedding(V, embedding)
        self.cell = cell(embedding, C, batch_first=True)
        if attention:
            self.query, self.key = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)
            bound = 1 / math.sqrt(C)
            self.score = nn.Parameter(torch.empty(C).uniform_(-bound, bound))
        self.head = nn.Linear(2 * C if attention else C, V)

    def forward(self, x: Tensor, keep: dict | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V); attention weights (B, 1, T, T) to keep["weights"]."""
        h = self.cell(self.embed(x))[0]  # (B, T, C)
        if self.attention:
            weigh = causal_weights if self.attention == "causal" else unmasked_weights
            weights = weigh(self.query(h), self.key(h), self.score)  # (B, T, T)
            if keep is not None:
                keep["weights"] = weights.unsqueeze(1)
            h = torch.cat((h, weights @ h), -1)
        return self.head(h)

    def decode(self, x: Tensor, cache: dict | None = None) -> tuple[Tensor, dict]:
        """Logits (B, T, V) of further tokens x (B, T), equal to those of a causal model's `forward`
        on the whole sequence, and the cache for the next call: the cell's state and, with
        attention, all S states so far with their keys, and the last weights."""
        h, state = self.cell(self.embed(x), cache and cache["state"])
        if not self.attention:
            return self.head(h), {"state": state}
        states = torch.cat((cache["states"], h), 1) if cache else h  # (B, S, C)
        keys = torch.cat((cache["keys"], self.key(h)), 1) if cache else self.key(h)
        if cache:
            scores = torch.tanh(self.query(h).unsqueeze(2) + keys.unsqueeze(1)) @ self.score
            weights = causal(scores)  # (B, T, S)
        else:
            weights = causal_weights(self.query(h), keys, self.score)
        cache = {"state": state, "states": states, "keys": keys, "weights": weights.unsqueeze(1)}
        return self.head(torch.cat((h, weights @ states), -1)), cache

    def flop_per_token(self, T: int) -> float:
        """Flop of a training step a token: forward and twice that backward, 2 a multiply-add. Of a
        pair and channel, the score counts 4 (add, tanh as one, multiply-add), the context 2; causal
        attention has half the pairs."""
        weights = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        weights -= self.embed.weight.numel()
        pairs = {None: 0, "causal": (T + 1) / 2, "unmasked": T}[self.attention]
        return 3 * (2 * weights + pairs * self.C * (4 + 2))
