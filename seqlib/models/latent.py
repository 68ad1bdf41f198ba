"""Attention of the architecture search: latent, and plain with rotary positions.

Latent attention is that of DeepSeek-V2 (arXiv 2405.04434, section 2.1). Keys and values come from
a latent of `kv_rank` channels (RMSNorm on it), queries from one of `q_rank`; a rank of None takes
them straight from the input. A head's key has `nope` channels without a position, and `rope` rotary
ones that all heads share. Biases, where asked for, are where Hugging Face's `DeepseekV3Attention`
has them: on the projections into latents and on the output.

Rotary positions (RoFormer, arXiv 2104.09864, section 3.2.2) turn channel d with d + width / 2, and
are divided by `factor` (linear interpolation, Chen et al., arXiv 2306.15595, section 2.3).
Shapes: B batch, T time, S time with the cache, D channels of the model, H heads.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.models.transformer import causal, rotate


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what it keeps is trained with later
def rotation(T: int, width: int, start: int, factor: float, dtype: torch.dtype,
             device: torch.device, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin (T, width) of positions start .. start + T - 1 over `factor`, from float64."""
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    position = torch.arange(start, start + T, dtype=torch.float64) / factor
    angle = torch.outer(position, frequency).repeat(1, 2)
    return angle.cos().to(dtype).to(device), angle.sin().to(dtype).to(device)


def turned(x: Tensor, start: int, factor: float) -> Tensor:
    """x (..., T, width) turned by its positions start .. start + T - 1."""
    T, width = x.shape[-2:]
    return rotate(x, *rotation(T, width, start, factor=factor, dtype=x.dtype, device=x.device))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention of q and k (B, H, T, d) and v (B, H, T, e) -> (B, H, T, e). PyTorch's fused
    kernel wants d = e: zeros fill up the narrower, which changes no score."""
    d, e = q.shape[-1], v.shape[-1]
    if d < e:
        q, k = F.pad(q, (0, e - d)), F.pad(k, (0, e - d))
    elif e < d:
        v = F.pad(v, (0, d - e))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[..., :e]


class LatentAttention(nn.Module):
    """A head's queries and keys have `nope` + `rope` channels, its values `v`. Raises ValueError on
    an odd `rope`."""

    def __init__(self, D: int, H: int, q_rank: int | None, kv_rank: int | None, nope: int,
                 rope: int, v: int, bias: bool = False, factor: float = 1.0):
        super().__init__()
        if rope % 2:
            raise ValueError(f"rotary width {rope} is odd; channels turn in pairs, use an even one")
        self.H, self.nope, self.rope, self.v = H, nope, rope, v
        self.kv_rank, self.factor = kv_rank, factor
        if q_rank is not None:
            self.q_down = nn.Linear(D, q_rank, bias=bias)
            self.q_norm = nn.RMSNorm(q_rank, eps=1e-6)
        self.q_up = nn.Linear(D if q_rank is None else q_rank, H * (nope + rope), bias=False)
        self.kv_down = nn.Linear(D, (kv_rank or 0) + rope, bias=bias)  # latent and rotary key
        if kv_rank is not None:
            self.kv_norm = nn.RMSNorm(kv_rank, eps=1e-6)
        self.kv_up = nn.Linear(D if kv_rank is None else kv_rank, H * (nope + v), bias=False)
        self.out = nn.Linear(H * v, D, bias=bias)
        self.scale = (nope + rope) ** -0.5

    def queries(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> queries (B, H, T, nope) and turned ones (B, H, T, rope)."""
        if hasattr(self, "q_down"):
            x = self.q_norm(self.q_down(x))
        q = self.q_up(x).unflatten(-1, (self.H, -1)).transpose(1, 2)
        plain, rotary = q.split((self.nope, self.rope), -1)
        return plain, turned(rotary, start, self.factor)

    def latents(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> what keys and values are made of, (B, T, kv_rank) or without a rank x
        itself, and the turned rotary key (B, T, rope)."""
        if self.kv_rank is None:
            return x, turned(self.kv_down(x), start, self.factor)
        latent, key = self.kv_down(x).split((self.kv_rank, self.rope), -1)
        return self.kv_norm(latent), turned(key, start, self.factor)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        q = torch.cat(self.queries(x), -1)
        latent, key = self.latents(x)
        kv = self.kv_up(latent).unflatten(-1, (self.H, -1)).transpose(1, 2)
        k, v = kv.split((self.nope, self.v), -1)
        k = torch.cat((k, key.unsqueeze(1).expand(-1, self.H, -1, -1)), -1)
        return self.out(attend(q, k, v, self.scale).transpose(1, 2).flatten(2))

    def decode(self, x: Tensor, past: tuple | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Further tokens x (B, T, D) -> (B, T, D) and the cache, `latents` of all S tokens so far.
        Keys and values are never made: their projections are absorbed into the query and the output
        (DeepSeek-V2, section 2.1.2)."""
        start = 0 if past is None else past[0].shape[1]
        plain, rotary = self.queries(x, start)
        latent, key = self.latents(x, start)
        if past is not None:
            latent, key = torch.cat((past[0], latent), 1), torch.cat((past[1], key), 1)
        up = self.kv_up.weight.unflatten(0, (self.H, -1))  # (H, nope + v, kv_rank)
        up_k, up_v = up.split((self.nope, self.v), 1)
        scores = (plain @ up_k) @ latent.unsqueeze(1).mT + rotary @ key.unsqueeze(1).mT
        y = (causal(scores * self.scale) @ latent.unsqueeze(1)) @ up_v.mT
        return self.out(y.transpose(1, 2).flatten(2)), (latent, key)

    @property
    def cached_per_token(self) -> int:
        """Numbers that decoding keeps a token: the rotary key, and the latent or the input."""
        return self.rope + self.kv_up.in_features

    @property
    def pair_flop(self) -> int:
        """Flop of one query with one key, forward: scores and weighted values of all heads."""
        return 2 * self.H * (self.nope + self.rope + self.v)


class RotaryAttention(nn.Module):
    """Multi-head attention, all D / H channels of a head rotary, no biases. Raises ValueError where
    H heads of an even width do not make D channels."""

    def __init__(self, D: int, H: int):
        super().__init__()
        if D % H or D // H % 2:
            raise ValueError(f"{D} channels do not make {H} heads of an even width")
        self.H = H
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.scale = (D // H) ** -0.5

    def heads(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> turned queries, turned keys and values, each (B, H, T, D / H)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.H, -1)).permute(2, 0, 3, 1, 4)
        return turned(q, start, 1.0), turned(k, start, 1.0), v

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.out(attend(*self.heads(x), self.scale).transpose(1, 2).flatten(2))

    def decode(self, x: Tensor, past: tuple | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Further tokens x (B, T, D) -> (B, T, D) and the cache: keys, values (B, H, S, D / H)."""
        q, k, v = self.heads(x, 0 if past is None else past[0].shape[2])
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        y = causal(q @ k.mT * self.scale) @ v
        return self.out(y.transpose(1, 2).flatten(2)), (k, v)

    @property
    def cached_per_token(self) -> int:
        """Numbers that decoding keeps a token: key and value."""
        return 2 * self.out.in_features

    @property
    def pair_flop(self) -> int:
        """Flop of one query with one key, forward."""
        return 4 * self.out.in_features
