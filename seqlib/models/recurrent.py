"""Recurrent character models: Embedding -> LSTM or GRU -> head, optionally with causal additive attention over the layer's
own states (Bahdanau et al., arXiv 1409.0473, section 3.1, turned from a decoder's view of an encoder to a model's view
of its own past): for query h[i] and keys h[j], j <= i, score v . tanh(W h[i] + U h[j]), head on [state, context].

Shapes: B batch, T time, C channels, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from seqlib.models.additive import additive_scores


def causal_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention weights (B, T, T) over j <= i."""
    return additive_scores(q, k, v).softmax(-1)


def unmasked_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention weights (B, T, T) over all j: the score is symmetric in (q[i], k[j]), so the upper half is the causal
    score with the two exchanged."""
    lower, upper = additive_scores(q, k, v), additive_scores(k, q, v).mT
    future = torch.ones(lower.shape[1:], dtype=torch.bool, device=q.device).triu(1)
    return torch.where(future, upper, lower).softmax(-1)


class RecurrentLM(nn.Module):
    """`cell` is `nn.LSTM` or `nn.GRU`; `attention` is None, "causal" or "unmasked" (which sees the future of its window:
    the leak that a causal mask prevents)."""

    def __init__(self, V: int, cell: type[nn.RNNBase] = nn.LSTM, embedding: int = 128, C: int = 256,
                 attention: str | None = None):
        super().__init__()
        self.attention, self.V, self.C = attention, V, C
        self.embed = nn.Embedding(V, embedding)
        self.cell = cell(embedding, C, batch_first=True)
        if attention:
            self.query, self.key = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)
            self.score = nn.Parameter(torch.empty(C).uniform_(-1 / math.sqrt(C), 1 / math.sqrt(C)))
        self.head = nn.Linear(2 * C if attention else C, V)

    def forward(self, x: Tensor, keep: dict | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V). Attention weights go to keep["weights"] (B, 1, T, T) if asked for."""
        h = self.cell(self.embed(x))[0]  # (B, T, C)
        if self.attention:
            weigh = causal_weights if self.attention == "causal" else unmasked_weights
            weights = weigh(self.query(h), self.key(h), self.score)
            if keep is not None:
                keep["weights"] = weights.unsqueeze(1)
            h = torch.cat((h, weights @ h), -1)
        return self.head(h)

    def decode(self, x: Tensor, cache: dict | None = None) -> tuple[Tensor, dict]:
        """Logits (B, T, V) of further tokens x (B, T), and the cache for the next call: the cell's state and, for
        attention, all states so far with their keys. Equals `forward` of a causal model on the whole sequence."""
        h, state = self.cell(self.embed(x), cache and cache["state"])
        if not self.attention:
            return self.head(h), {"state": state}
        states = torch.cat((cache["states"], h), 1) if cache else h  # (B, S, C)
        keys = torch.cat((cache["keys"], self.key(h)), 1) if cache else self.key(h)
        if cache:
            S, T = states.shape[1], x.shape[1]
            scores = torch.tanh(self.query(h).unsqueeze(2) + keys.unsqueeze(1)) @ self.score  # (B, T, S)
            later = torch.ones(T, S, dtype=torch.bool, device=x.device).triu(S - T + 1)
            weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        else:
            weights = causal_weights(self.query(h), keys, self.score)
        cache = {"state": state, "states": states, "keys": keys, "weights": weights.unsqueeze(1)}
        return self.head(torch.cat((h, weights @ states), -1)), cache

    def flop_per_token(self, T: int) -> float:
        """Arithmetic of a training step a token: forward and twice that backward, 2 flop a multiply-add. Scores count 4
        flop a channel and pair (add, tanh as one, multiply-add), over the causal half."""
        weights = sum(p.numel() for p in self.parameters() if p.dim() == 2) - self.embed.weight.numel()
        pairs = (T if self.attention == "unmasked" else (T + 1) / 2) if self.attention else 0
        return 3 * (2 * weights + pairs * self.C * (4 + 2))
