"""In one pass through memory (numba), what PyTorch does in several: dropout, whose mask is never
stored (it is a hash of a seed and the element's place), RMSNorm (Zhang and Sennrich, arXiv
1910.07467, equation 4), and a frozen linear layer with its low-rank adapter (LoRA, Hu et al., arXiv
2106.09685, equation 3).

For processors, in float32 or float64: see `serves`. Matrix products stay with torch. A pass over
arrays that fit a processor's cache runs on the calling thread alone, which takes less time than
torch's passes on two. Shapes: N rows, C channels, I inputs and O outputs of a layer, r rank.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_jit = numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels here can take these tensors: on a processor, float32 or float64."""
    types = (torch.float32, torch.float64)
    return all(t.device.type == "cpu" and t.dtype in types for t in tensors)


@_jit
def _hash(place, low, high):
    """32 bits for a place under a seed in two halves: MurmurHash3's finalizer, `high` mixed in."""
    h = np.uint32(np.uint32(place) * np.uint32(0x9E3779B1) + low)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(np.uint32(h * np.uint32(0x85EBCA6B)) ^ high)
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@_jit
def _drop(x, y, low, high, bar, scale):
    """y = x times the mask, which keeps an element where its hash is below `bar`."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = x[i] * scale if _hash(i, low, high) < bar else zero


@_jit
def _add_kept(x, y, low, high, bar, scale):
    """y += x times the mask."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] += x[i] * scale if _hash(i, low, high) < bar else zero


@_jit
def _rms_forward(x, w, eps, y, inverse):
    """Fill y (N, C) and `inverse` (N,), the factor of each row."""
    N, C = x.shape
    for n in range(N):
        total = x.dtype.type(0)
        for c in range(C):
            total += x[n, c] * x[n, c]
        inverse[n] = x.dtype.type(1) / np.sqrt(total / x.dtype.type(C) + eps)
        for c in range(C):
            y[n, c] = x[n, c] * inverse[n] * w[c]


@_jit
def _rms_backward(x, w, inverse, dy, dx, dw):
    """Fill dx (N, C); add to dw, which is (C,) or, where it is not wanted, empty."""
    N, C = x.shape
    for n in range(N):
        total = x.dtype.type(0)
        r = inverse[n]
        for c in range(C):
            total += dy[n, c] * w[c] * x[n, c]
        along = total * r * r * r / x.dtype.type(C)
        for c in range(C):
            dx[n, c] = dy[n, c] * w[c] * r - x[n, c] * along
        for c in range(dw.size):
            dw[c] += dy[n, c] * x[n, c] * r


class Mask:
    """A dropout, which keeps an element with probability 1 - rate and divides it by that; the seed
    is drawn from torch's global generator."""

    def __init__(self, rate: float, dtype: torch.dtype):
        low, high = torch.randint(2**32, (2,), dtype=torch.int64).tolist()
        bar = min(round((1 - rate) * 2**32), 2**32 - 1)
        scale = torch.empty(0, dtype=dtype).numpy().dtype.type(1 / (1 - rate))
        self.how = np.uint32(low), np.uint32(high), np.uint32(bar), scale

    def of(self, x: Tensor) -> Tensor:
        """x times the mask."""
        x = x.detach().contiguous()
        y = torch.empty_like(x)
        _drop(x.view(-1).numpy(), y.view(-1).numpy(), *self.how)
        return y

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add x times the mask to a contiguous tensor of its shape, in place."""
        _add_kept(x.view(-1).numpy(), to.view(-1).numpy(), *self.how)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rate):
        ctx.mask = Mask(rate, x.dtype)
        return ctx.mask.of(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        return ctx.mask.of(dy), None


def dropout(x: Tensor, rate: float) -> Tensor:
    """x of any shape with elements set to 0 at a rate below 1, the others divided by 1 - rate."""
    return _Dropout.apply(x, rate)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, eps):
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        y, inverse = torch.empty_like(rows), rows.new_empty(len(rows))
        eps = rows.numpy().dtype.type(eps)
        _rms_forward(rows.numpy(), w.detach().numpy(), eps, y.numpy(), inverse.numpy())
        ctx.save_for_backward(rows, w, inverse)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, w, inverse = ctx.saved_tensors
        dx = torch.empty_like(rows)
        dw = torch.zeros_like(w) if ctx.needs_input_grad[1] else w.new_empty(0)
        upstream = dy.contiguous().view_as(rows)
        _rms_backward(*(t.detach().numpy() for t in (rows, w, inverse, upstream, dx, dw)))
        return dx.view_as(dy), dw if ctx.needs_input_grad[1] else None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension: x (..., C), weight (C,)."""
    return _RMSNorm.apply(x, weight, eps)


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, a, b, scale, rate):
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        ctx.mask = Mask(rate, x.dtype) if rate else None
        ctx.scale, ctx.shape = scale, x.shape
        inner = torch.mm(ctx.mask.of(rows) if rate else rows, a.T)
        ctx.save_for_backward(rows, weight, a, b, inner)
        y = torch.mm(rows, weight.T).addmm_(inner, b.T, alpha=scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, weight, a, b, inner = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        db, dinner = torch.mm(dy.T, inner).mul_(ctx.scale), torch.mm(dy, b).mul_(ctx.scale)
        da = torch.mm(dinner.T, ctx.mask.of(rows) if ctx.mask else rows)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dy, weight)
            if ctx.mask:
                ctx.mask.add(torch.mm(dinner, a), to=dx)
            else:
                dx.addmm_(dinner, a)
            dx = dx.view(ctx.shape)
        return dx, None, da, db, None, None


def adapted_linear(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float,
                   rate: float = 0.0) -> Tensor:
    """x W^T + scale drop(x) A^T B^T (..., O), with x (..., I), weight (O, I), a (r, I), b (O, r);
    `rate` is the dropout's. The weight is frozen: x, a and b get gradients."""
    return _AdaptedLinear.apply(x, weight, a, b, scale, rate)
