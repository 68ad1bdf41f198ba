"""The airline forecasters as published: a window of T months in, the next month out.

- `RecurrentForecaster`: layers of `nn.LSTM` or `nn.GRU` with dropout between them.
- `AttentionForecaster`: input projection, one pre-norm block (causal attention, GELU feed-forward).
  Positions are rotary (RoFormer, arXiv 2104.09864, section 3.2.2, interleaved pairs), sinusoidal
  (Vaswani et al., arXiv 1706.03762, section 3.5) or a learned table. As published, the rotary arm
  has no dropout on its attention weights or on the attention output, and the two others have both;
  `attention_dropout` undoes that difference.

Both have a linear head on the last step. `seqlib.models.stacked` computes the same for K seeds at
once. Shapes: B batch, T months, C channels, H heads, D head width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.models import check_choice


class RecurrentForecaster(nn.Module):
    """`layers` of `cell` ("lstm" or "gru") with dropout between layers; (B, T) -> (B,)."""

    def __init__(self, cell: str = "lstm", hidden: int = 64, dropout: float = 0.2, layers: int = 2):
        super().__init__()
        check_choice("cell", cell, ("lstm", "gru"))
        self.kind, self.dropout = cell, dropout
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.rnn = layer(1, hidden, layers, dropout=dropout, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def states(self, x: Tensor) -> Tensor:
        """Windows (B, T) -> states of the last layer (B, T, C)."""
        return self.rnn(x.unsqueeze(-1))[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[:, -1]).squeeze(-1)


def rotary_angles(length: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin (T, D/2), float64: position t turns pair i by t * 10000^(-2i/D) radians."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., T, D), its pairs (x0, x1), (x2, x3), ... turned by the angles of its positions."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = (y.to(x.dtype).to(x.device) for y in (cos, sin))  # mps has no float64
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def sinusoid_table(length: int, width: int) -> Tensor:
    """Positions (T, C), float32: sines in the even channels, cosines in the odd ones."""
    cos, sin = rotary_angles(length, width)
    return torch.stack((sin, cos), -1).flatten(-2).float()


class RotaryAttention(nn.Module):
    """Causal multi-head attention with rotary queries and keys; all projections have biases."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> output (B, T, C) and attention weights (B, H, T, T) before dropout."""
        B, T, C = x.shape
        D = C // self.heads
        qkv = self.in_proj(x).view(B, T, 3, self.heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        cos, sin = rotary_angles(T, D)
        scores = rotate_pairs(q, cos, sin) @ rotate_pairs(k, cos, sin).mT / math.sqrt(D)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)  # (B, H, T, T)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(B, T, C)), weights


class AttentionForecaster(nn.Module):
    """One pre-norm block, with `position` "rope", "sinusoidal" or "learned"; (B, T) -> (B,).

    `dropout` acts in the feed-forward, `attention_dropout` on the attention weights and again on
    the attention output. `bias` (T,) is added to the scores of the last query: interventions force
    or forbid attention to single months with it, in `seqlib.models.stacked` alone."""

    def __init__(self, position: str, width: int = 64, heads: int = 4, hidden: int = 128,
                 window: int = 12, dropout: float = 0.1, attention_dropout: float = 0.1,
                 bias: Tensor | None = None):
        super().__init__()
        check_choice("position", position, ("rope", "sinusoidal", "learned"))
        self.position, self.heads = position, heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.project = nn.Linear(1, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if position == "rope":
            self.attention = RotaryAttention(width, heads, attention_dropout)
        else:
            self.attention = nn.MultiheadAttention(width, heads, attention_dropout,
                                                   batch_first=True)
        if position == "learned":
            self.table = nn.Parameter(0.02 * torch.randn(window, width))
        else:
            table = sinusoid_table(window, width) if position == "sinusoidal" else None
            self.register_buffer("table", table, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 1)

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention output (B, T, C) and weights (B, H, T, T) of normalised input x (B, T, C)."""
        if self.position == "rope":
            return self.attention(x)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.attention(x, x, x, attn_mask=future, average_attn_weights=False)

    def states(self, x: Tensor) -> Tensor:
        """Windows (B, T) -> outputs of the block (B, T, C). Raises ValueError with a `bias`."""
        if self.bias is not None:
            raise ValueError("a biased forecaster has only a stacked forward pass")
        x = self.project(x.unsqueeze(-1))  # (B, T, C)
        if self.table is not None:
            x = x + self.table
        x = x + F.dropout(self.attend(self.norm1(x))[0], self.attention_dropout, self.training)
        hidden = F.dropout(F.gelu(self.up(self.norm2(x))), self.dropout, self.training)
        return x + F.dropout(self.down(hidden), self.dropout, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[:, -1]).squeeze(-1)
