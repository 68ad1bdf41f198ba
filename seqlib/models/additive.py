"""Causal additive attention scores: score[i, j] = v . tanh(q[i] + k[j]) for keys j <= i.

Source: Bahdanau et al., arXiv 1409.0473, appendix A.1.2; both projections are applied before.

The plain formula keeps an array of (B, T, T, C). Here nothing larger than (B, T, T) exists: on a
CPU a compiled kernel visits each pair (i, j) once forward and once backward, where it computes tanh
again. It takes exponentials once a position and not once a pair, by

    tanh(a + b) = 1 - 2 / (1 + exp(2a) exp(2b)).

Single precision allows that while |2a| and |2b| stay below 20, with room for one division to serve
two pairs. A batch element beyond that range goes through a slower kernel with one tanh a pair,
right for any finite input. Other devices (CUDA) run a blockwise version in PyTorch.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SAFE = 10.0  # largest |q| and |k| of the fast kernel: exp(40) squared is finite in float32

# Constants are cast to the arrays' type: an integer beside a float32 makes numba compute in double.
# Keys go four at a time, j to j3: those after the query are computed and not used, those beyond the
# end repeat the last one.
_fast = {"nsz", "arcp", "contract", "reassoc"}  # but infinite and NaN stay what they are
_jit = numba.njit(cache=True, fastmath=_fast, nogil=True, error_model="numpy")


@_jit
def _forward(a, b, v, out):
    """Fill out (T, T) of one batch element; a = exp(2q) and b = exp(2k) are (T, C), v is (C,)."""
    T, C = a.shape
    total = v.sum()
    zero, one, two = v.dtype.type(0), v.dtype.type(1), v.dtype.type(2)
    for i in range(T):
        for j in range(0, i + 1, 4):
            j1, j2, j3 = min(j + 1, T - 1), min(j + 2, T - 1), min(j + 3, T - 1)
            s, s1, s2, s3 = zero, zero, zero, zero
            for c in range(C):
                x, y = one + a[i, c] * b[j, c], one + a[i, c] * b[j1, c]
                w = v[c] / (x * y)  # one division serves two keys
                s += w * y
                s1 += w * x
                x, y = one + a[i, c] * b[j2, c], one + a[i, c] * b[j3, c]
                w = v[c] / (x * y)
                s2 += w * y
                s3 += w * x
            out[i, j], out[i, j1] = total - two * s, total - two * s1
            out[i, j2], out[i, j3] = total - two * s2, total - two * s3
        out[i, i + 1 :] = -np.inf


@_jit
def _backward(a, b, v, grad, dq, dk, dv):
    """Fill dq, dk (T, C) and dv (C,) of one batch element from grad (T, T). With r = 1 / (1 + a b),
    tanh = 1 - 2 r and tanh' = 4 (r - r^2)."""
    T, C = a.shape
    zero, one, two, four = v.dtype.type(0), v.dtype.type(1), v.dtype.type(2), v.dtype.type(4)
    dq[:], dk[:], dv[:] = zero, zero, zero
    r, r1, r2, r3 = np.empty_like(v), np.empty_like(v), np.empty_like(v), np.empty_like(v)
    total = zero
    for i in range(T):
        for j in range(0, i + 1, 4):
            j1, j2, j3 = min(j + 1, T - 1), min(j + 2, T - 1), min(j + 3, T - 1)
            g = grad[i, j]
            g1 = grad[i, j1] if j < i else zero
            g2 = grad[i, j2] if j + 1 < i else zero
            g3 = grad[i, j3] if j + 2 < i else zero
            total += g + g1 + g2 + g3
            # Short loops: LLVM vectorises one only if it can check that its arrays do not overlap.
            for c in range(C):
                x, y = one + a[i, c] * b[j, c], one + a[i, c] * b[j1, c]
                w = one / (x * y)
                r[c] = w * y
                r1[c] = w * x
            for c in range(C):
                x, y = one + a[i, c] * b[j2, c], one + a[i, c] * b[j3, c]
                w = one / (x * y)
                r2[c] = w * y
                r3[c] = w * x
            for c in range(C):
                dk[j, c] += g * (r[c] - r[c] * r[c])
            for c in range(C):
                dk[j1, c] += g1 * (r1[c] - r1[c] * r1[c])
            for c in range(C):
                dk[j2, c] += g2 * (r2[c] - r2[c] * r2[c])
            for c in range(C):
                dk[j3, c] += g3 * (r3[c] - r3[c] * r3[c])
            for c in range(C):
                w, x, y, z = g * r[c], g1 * r1[c], g2 * r2[c], g3 * r3[c]
                dv[c] -= (w + x) + (y + z)
                dq[i, c] += (((w - w * r[c]) + (x - x * r1[c]))
                             + ((y - y * r2[c]) + (z - z * r3[c])))
    for c in range(C):
        dv[c] = total + two * dv[c]
    for t in range(T):
        for c in range(C):
            dq[t, c] *= four * v[c]
            dk[t, c] *= four * v[c]


@_jit
def _forward_any(q, k, v, out):
    """`_forward` from q and k themselves, with one tanh a pair: right for any finite input."""
    T, C = q.shape
    for i in range(T):
        for j in range(i + 1):
            total = v.dtype.type(0)
            for c in range(C):
                total += v[c] * np.tanh(q[i, c] + k[j, c])
            out[i, j] = total
        out[i, i + 1 :] = -np.inf


@_jit
def _backward_any(q, k, v, grad, dq, dk, dv):
    """`_backward` from q and k themselves, with one tanh a pair."""
    T, C = q.shape
    dq[:], dk[:], dv[:] = 0, 0, 0
    for i in range(T):
        for j in range(i + 1):
            for c in range(C):
                t = np.tanh(q[i, c] + k[j, c])
                d = grad[i, j] * v[c] * (v.dtype.type(1) - t * t)
                dq[i, c] += d
                dk[j, c] += d
                dv[c] += grad[i, j] * t


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _each(fast, exact, q, k, *more) -> None:
    """Call `fast` (where its range allows) or `exact` for every batch element, on torch's threads.

    Each thread, the calling one too, has two small buffers for exponentials: fresh memory the size
    of q would cost more than the arithmetic, and so would OpenMP threads that still spin."""
    threads = max(1, min(torch.get_num_threads(), len(q)))

    def share(first):
        a, b = np.empty_like(q[0]), np.empty_like(k[0])
        for n in range(first, len(q), threads):
            if all(-SAFE <= x[n].min() and x[n].max() <= SAFE for x in (q, k)):
                for x, buffer in ((q, a), (k, b)):
                    np.add(x[n], x[n], out=buffer)
                    np.exp(buffer, out=buffer)
                fast(a, b, *(x[n] for x in more))
            else:
                exact(q[n], k[n], *(x[n] for x in more))

    others = [_pool(threads - 1).submit(share, first) for first in range(1, threads)]
    share(0)
    for other in others:
        other.result()


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        # One layout: numba would compile further kernels for expanded or transposed arguments.
        q, k, v = (x.detach().contiguous() for x in (q, k, v))
        B, T, _ = q.shape
        out = q.new_empty(B, T, T)
        _each(_forward, _forward_any, q.numpy(), k.numpy(), [v.numpy()] * B, out.numpy())
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        dq, dk = torch.empty_like(q), torch.empty_like(k)
        dv = v.new_empty(len(q), len(v))  # one row a batch element, so that threads do not meet
        more = (x.numpy() for x in (grad.contiguous(), dq, dk, dv))
        _each(_backward, _backward_any, q.numpy(), k.numpy(), [v.numpy()] * len(q), *more)
        return dq, dk, dv.sum(0)


def additive_scores_blockwise(q: Tensor, k: Tensor, v: Tensor, block: int = 16) -> Tensor:
    """`additive_scores` in PyTorch for any device, by `block` queries, recomputed backward."""
    def rows(q, k, v):
        return torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)) @ v  # (B, block, T)

    parts = [checkpoint(rows, part, k, v, use_reentrant=False) for part in q.split(block, 1)]
    T = q.shape[1]
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    return torch.cat(parts, 1).masked_fill(future, float("-inf"))


def additive_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal additive scores (B, T, T), before the softmax; -inf where a key comes after its query.

    q and k are projected queries and keys (B, T, C), v (C,) weighs the channels; all float32 or all
    float64, and differentiable. Raises ValueError on other shapes or types."""
    if q.dim() != 3 or q.shape != k.shape or v.shape != q.shape[-1:]:
        raise ValueError("additive_scores wants q, k (B, T, C) and v (C,), got "
                         f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float32, torch.float64):
        raise ValueError("additive_scores wants float32 or float64 throughout, got "
                         f"{q.dtype}, {k.dtype}, {v.dtype}")
    if q.device.type != "cpu":
        return additive_scores_blockwise(q, k, v)
    return _AdditiveScores.apply(q, k, v)
