"""The language model of the architecture search: blocks of attention and a mixture of experts.

Pre-norm with RMSNorm; the embedding is multiplied by sqrt(D) and shared with the output; the loss
never holds the logits of all tokens. Dropout is behind the embedding, on both branches of a block
and inside the experts; where else the published run had it is not known.
Shapes: B batch, T time, D channels, F_ width of an expert, E experts, V vocabulary.
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
    """x of any shape; in training with elements zero at `rate`, the others divided by 1 - rate."""
    if not (training and rate):
        return x
    return x * (as_numbers(drawn(x, 1 - rate), x) * (1 / (1 - rate)))


class Block(nn.Module):
    def __init__(self, D: int, attention: nn.Module, experts: Experts, rate: float):
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(D, eps=1e-6), attention
        self.norm2, self.experts = nn.RMSNorm(D, eps=1e-6), experts
        self.rate = rate

    def forward(self, x: Tensor, past=None, decoding: bool = False) -> tuple:
        """x (B, T, D) -> x, load-balancing loss, and the cache (None without `decoding`)."""
        if decoding:
            y, cache = self.attention.decode(self.norm1(x), past)
        else:
            y, cache = self.attention(self.norm1(x)), None
        x = x + dropout(y, self.rate, self.training)
        y, balance = self.experts(self.norm2(x))
        return x + dropout(y, self.rate, self.training), balance, cache


class MixtureLM(nn.Module):
    """`attention()` makes the attention of a block, `widths` has the expert width of each block, k
    of E experts serve a token, `rate` is the dropout. Train from the weights of `initialise`."""

    def __init__(self, V: int, D: int, attention: Callable[[], nn.Module], widths: Sequence[int],
                 E: int = 8, k: int = 2, rate: float = 0.1):
        super().__init__()
        self.D, self.rate = D, rate
        self.embed = nn.Embedding(V, D)
        self.blocks = nn.ModuleList(
            Block(D, attention(), experts=Experts(D, F_, E, k=k, dropout=rate), rate=rate)
            for F_ in widths)
        self.norm = nn.RMSNorm(D, eps=1e-6)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Weights N(0, 0.02^2), biases zero, norms one. A weight's numbers depend on the seed and
        its name alone: models with one seed share all weights of the same name and shape."""
        for name, p in self.named_parameters():
            if p.dim() > 1:
                sequence = np.random.SeedSequence((seed, zlib.crc32(name.encode())))
                generator = torch.Generator(p.device)
                generator.manual_seed(int(sequence.generate_state(1)[0]))
                p.normal_(0, 0.02, generator=generator)
            else:
                p.fill_(0 if name.endswith("bias") else 1)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) -> last states (B, T, D) and the sum of the blocks' balancing losses."""
        h = dropout(self.embed(x) * self.D**0.5, self.rate, self.training)
        balance = 0.0
        for block in self.blocks:
            h, block_balance, _ = block(h)
            balance = balance + block_balance
        return self.norm(h), balance

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, int, Tensor]:
        """Tokens x and targets y (B, T) -> sum of the cross-entropies in nats, their number, and
        the sum of the load-balancing losses of all blocks."""
        states, balance = self.states(x)
        total = blockwise_cross_entropy(states.flatten(0, 1), self.embed.weight, y.flatten())
        return total, y.numel(), balance

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V)."""
        return F.linear(self.states(x)[0], self.embed.weight)

    def decode(self, x: Tensor, cache: list | None = None) -> tuple[Tensor, list]:
        """Logits (B, T, V) of further tokens x (B, T), and the cache for the next call, a list with
        that of each block's attention. Wants eval mode."""
        h = self.embed(x) * self.D**0.5
        caches = []
        for i, block in enumerate(self.blocks):
            h, _, block_cache = block(h, cache[i] if cache else None, decoding=True)
            caches.append(block_cache)
        return F.linear(self.norm(h), self.embed.weight), caches

    @property
    def cached_per_token(self) -> int:
        """Numbers that decoding keeps a token, all blocks."""
        return sum(block.attention.cached_per_token for block in self.blocks)

    def flop_per_token(self, T: int) -> float:
        """Flop of a training step a token, with the k experts that it meets: forward and twice that
        backward, 2 a multiply-add, attention over the causal half (Kaplan et al., arXiv 2001.08361,
        section 2.1)."""
        weights = self.embed.weight.numel()
        for block in self.blocks:
            weights += block.experts.active_parameters
            weights += sum(p.numel() for p in block.attention.parameters() if p.dim() == 2)
        pair_flop = sum(block.attention.pair_flop for block in self.blocks)
        return 3 * (2 * weights + pair_flop * (T + 1) / 2)
