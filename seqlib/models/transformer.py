"""Decoder-only transformer: pre-norm blocks of causal multi-head attention and a GELU feed-forward.

Sources: Vaswani et al., arXiv 1706.03762, section 3; pre-norm and final norm as in GPT-2 (Radford
et al. 2019, section 2.3). Positions are learned or rotary (RoFormer, arXiv 2104.09864, section
3.2.2). No dropout, no biases, no weight tying.
Shapes: B batch, T time, S time with the cache, C channels, H heads, D head width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.models import check_choice


def rotation(T: int, D: int, start: int = 0, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin (T, D), float64, of positions start .. start + T - 1; d turns with d + D / 2."""
    frequency = base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    position = torch.arange(start, start + T, dtype=torch.float64)
    angle = torch.outer(position, frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., T, D) turned by its positions, with cos and sin (T, D) of `rotation`."""
    first, second = x.chunk(2, -1)
    cos, sin = (y.to(x.dtype).to(x.device) for y in (cos, sin))  # mps has no float64
    return x * cos + torch.cat((-second, first), -1) * sin


def causal(scores: Tensor) -> Tensor:
    """Attention weights of scores (..., T, S), where the last query is at the last key."""
    T, S = scores.shape[-2:]
    future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Weights (B, H, T, S) of q and k, which `scaled_dot_product_attention` does not return."""
    return causal(q @ k.mT / q.shape[-1] ** 0.5)


class Block(nn.Module):
    def __init__(self, C: int, H: int, F_: int):
        super().__init__()
        self.H = H
        self.norm1, self.norm2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, F_, bias=False), nn.Linear(F_, C, bias=False)

    def forward(self, x: Tensor, turn, past=None, keep: list | None = None) -> tuple[Tensor, tuple]:
        """x (B, T, C) -> x, and keys and values (B, H, S, D) of all S tokens so far. `turn` is a
        `rotation` or None, `past` earlier keys and values; `keep` gets the attention weights."""
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).split(C, -1)
        q, k, v = (y.view(B, T, self.H, C // self.H).transpose(1, 2) for y in qkv)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        mask = None
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
            S = k.shape[2]
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        if keep is not None:
            keep.append(attention_weights(q, k))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=past is None)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


class TransformerLM(nn.Module):
    """L blocks with feed-forward width F_ and "learned" or "rotary" `positions`.

    Weights start N(0, 1 / inputs), those that write to the residual stream smaller by sqrt(2 L)
    (GPT-2, section 2.3); tables and head start N(0, 0.02^2). GPT-2's 0.02 for all suits hundreds of
    channels: at 128 it starts far too small."""

    def __init__(self, V: int, context: int, C: int, L: int, H: int, F_: int,
                 positions: str = "learned"):
        super().__init__()
        check_choice("positions", positions, ("learned", "rotary"))
        self.V, self.context, self.C, self.H = V, context, C, H
        self.embed = nn.Embedding(V, C)
        self.position = nn.Embedding(context, C) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(C, H, F_) for _ in range(L))
        self.norm, self.head = nn.LayerNorm(C, bias=False), nn.Linear(C, V, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=(2 * L * layer.in_features) ** -0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, x: Tensor, keep: dict | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V); all attention weights (B, L * H, T, T) go to
        keep["weights"]. Raises ValueError beyond `context` tokens."""
        kept = None if keep is None else []
        logits, _ = self._run(x, None, kept)
        if keep is not None:
            keep["weights"] = torch.cat(kept, 1)
        return logits

    def decode(self, x: Tensor, cache: dict | None = None) -> tuple[Tensor, dict]:
        """Logits (B, T, V) of further tokens x (B, T), and the cache for the next call: keys and
        values of all blocks, and the last weights. Raises ValueError beyond `context` tokens."""
        kept: list[Tensor] = []
        logits, past = self._run(x, cache and cache["past"], kept)
        return logits, {"past": past, "weights": torch.cat(kept, 1)}

    def _run(self, x, past, keep):
        T = x.shape[1]
        start = past[0][0].shape[2] if past else 0
        if start + T > self.context:
            raise ValueError(f"{start + T} tokens exceed the context of {self.context}")
        h, turn = self.embed(x), None
        if self.position is not None:
            h = h + self.position.weight[start : start + T]
        else:
            turn = rotation(T, self.C // self.H, start)
        caches = []
        for i, block in enumerate(self.blocks):
            h, kv = block(h, turn, past=past[i] if past else None, keep=keep)
            caches.append(kv)
        return self.head(self.norm(h)), caches

    def flop_per_token(self, T: int) -> float:
        """Flop of a training step a token: forward and twice that backward, 2 a multiply-add,
        attention over the causal half (Kaplan et al., arXiv 2001.08361, section 2.1)."""
        tables = [table for table in (self.embed, self.position) if table is not None]
        weights = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        weights -= sum(table.weight.numel() for table in tables)
        return 3 * (2 * weights + len(self.blocks) * 2 * 2 * self.C * (T + 1) / 2)
