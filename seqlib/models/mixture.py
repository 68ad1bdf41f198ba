"""The language model of the architecture search: pre-norm blocks of attention and a mixture of experts, RMSNorm, and an
embedding that is multiplied by sqrt(D) and shared with the output. Its loss never holds the logits of all tokens.

Dropout stands behind the embedding, on both branches of a block and inside the experts; where else the published run had it is
not known.

Shapes: B batch, T time, N tokens, D channels, V vocabulary.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.models.experts import Experts, as_numbers, drawn
from seqlib.models.loss import blockwise_cross_entropy


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    return x * (as_numbers(drawn(x, 1 - rate), x) * (1 / (1 - rate))) if training and rate else x


class Block(nn.Module):
    def __init__(self, D: int, attention: nn.Module, experts: Experts, rate: float):
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(D, eps=1e-6), attention
        self.norm2, self.experts, self.rate = nn.RMSNorm(D, eps=1e-6), experts, rate

    def forward(self, x: Tensor, past=None, decoding: bool = False) -> tuple[Tensor, Tensor, tuple | None]:
        """x (B, T, D) -> x, load-balancing loss, cache (None while training)."""
        y, cache = self.attention.decode(self.norm1(x), past) if decoding else (self.attention(self.norm1(x)), None)
        x = x + dropout(y, self.rate, self.training)
        y, balance = self.experts(self.norm2(x))
        return x + dropout(y, self.rate, self.training), balance, cache


class MixtureLM(nn.Module):
    """`attention()` makes the attention of a block, `widths` gives the expert width of every block; `rate` is the dropout.
    The weights to train from are those of `initialise`."""

    def __init__(self, V: int, D: int, attention: Callable[[], nn.Module], widths: Sequence[int], E: int = 8, k: int = 2,
                 rate: float = 0.1):
        super().__init__()
        self.D, self.rate = D, rate
        self.embed = nn.Embedding(V, D)
        self.blocks = nn.ModuleList(Block(D, attention(), Experts(D, F_, E, k, dropout=rate), rate) for F_ in widths)
        self.norm = nn.RMSNorm(D, eps=1e-6)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Weights N(0, 0.02^2), biases zero, norms one. Each weight has random numbers of its own, from the seed and its name:
        two models with a seed share all weights that have the same name and shape, whatever else they have."""
        for name, p in self.named_parameters():
            if p.dim() > 1:
                own = int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])  # 32 bits are used
                p.normal_(0, 0.02, generator=torch.Generator(p.device).manual_seed(own))
            else:
                p.fill_(0 if name.endswith("bias") else 1)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) -> last states (B, T, D) and the mean load-balancing loss of the blocks times their number."""
        h, balance = dropout(self.embed(x) * self.D**0.5, self.rate, self.training), 0.0
        for block in self.blocks:
            h, own, _ = block(h)
            balance = balance + own
        return self.norm(h), balance

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, int, Tensor]:
        """Sum of the cross-entropies of targets y (B, T) in nats, their number, and the load-balancing loss of all blocks."""
        states, balance = self.states(x)
        return blockwise_cross_entropy(states.flatten(0, 1), self.embed.weight, y.flatten()), y.numel(), balance

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V)."""
        return F.linear(self.states(x)[0], self.embed.weight)

    def decode(self, x: Tensor, cache: list | None = None) -> tuple[Tensor, list]:
        """Logits (B, T, V) of further tokens x (B, T), and the cache for the next call. Wants eval mode: no dropout here."""
        h, now = self.embed(x) * self.D**0.5, []
        for i, block in enumerate(self.blocks):
            h, _, own = block(h, cache[i] if cache else None, decoding=True)
            now.append(own)
        return F.linear(self.norm(h), self.embed.weight), now

    @property
    def cached_per_token(self) -> int:
        """Numbers that decoding keeps a token, all blocks."""
        return sum(block.attention.cached_per_token for block in self.blocks)

    def flop_per_token(self, T: int) -> float:
        """Arithmetic of a training step a token, for the k experts that it meets (Kaplan et al., arXiv 2001.08361, section
        2.1): forward and twice that backward, 2 flop a multiply-add, attention over the causal half."""
        weights = self.embed.weight.numel() + sum(
            block.experts.active_parameters + sum(p.numel() for p in block.attention.parameters() if p.dim() == 2)
            for block in self.blocks)
        return 3 * (2 * weights + sum(block.attention.pair_flop for block in self.blocks) * (T + 1) / 2)
