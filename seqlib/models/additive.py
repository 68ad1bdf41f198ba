"""Additive attention scores, causal: score[i, j] = v . tanh(q[i] + k[j]) for j <= i (Bahdanau et al., arXiv 1409.0473,
appendix A.1.2, with the two projections already applied).

The plain formula keeps a (B, T, T, C) array. Here nothing larger than (B, T, T) exists: on a CPU a compiled kernel goes
through pairs (i, j) once forward and once backward, recomputing tanh. It takes exponentials once a position, since

    tanh(a + b) = 1 - 2 / (1 + exp(2a) exp(2b)),

which single precision allows while |2a| and |2b| stay below 20, with room for one division to serve two pairs; a batch
element beyond that goes through a slower kernel with one exponential a pair, which is right for any finite input.
Elsewhere (CUDA) a blockwise version in PyTorch recomputes block by block.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SAFE = 10.0  # largest |q| and |k| for the fast kernel: it divides once for two pairs, and exp(40) squared is finite

_jit = numba.njit(cache=True, fastmath={"nsz", "arcp", "contract", "reassoc"}, nogil=True, error_model="numpy")


# Constants are cast to the arrays' type: an integer beside a float32 makes numba compute in double. Columns go four at a
# time; those beyond the diagonal are computed and not used, those beyond the end repeat the last one.


@_jit
def _forward(a, b, v, out):
    """out (T, T) of one batch element from a = exp(2q) and b = exp(2k), each (T, C)."""
    T, C = a.shape
    total, zero, one, two = v.sum(), v.dtype.type(0), v.dtype.type(1), v.dtype.type(2)
    for i in range(T):
        for j in range(0, i + 1, 4):
            j1, j2, j3 = min(j + 1, T - 1), min(j + 2, T - 1), min(j + 3, T - 1)
            s, s1, s2, s3 = zero, zero, zero, zero
            for c in range(C):
                x, y = one + a[i, c] * b[j, c], one + a[i, c] * b[j1, c]
                w = v[c] / (x * y)  # one division serves two columns
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
    """Fills dq, dk (T, C) and dv (C,) of one batch element, given grad (T, T); tanh' = 4 (r - r^2), tanh = 1 - 2r."""
    T, C = a.shape
    zero, one, two, four = v.dtype.type(0), v.dtype.type(1), v.dtype.type(2), v.dtype.type(4)
    dq[:], dk[:], dv[:] = zero, zero, zero
    r, r1, r2, r3 = np.empty_like(v), np.empty_like(v), np.empty_like(v), np.empty_like(v)
    total = zero
    for i in range(T):
        for j in range(0, i + 1, 4):
            j1, j2, j3 = min(j + 1, T - 1), min(j + 2, T - 1), min(j + 3, T - 1)
            g = grad[i, j]
            g1, g2, g3 = (grad[i, j1] if j < i else zero), (grad[i, j2] if j + 1 < i else zero), zero
            if j + 2 < i:
                g3 = grad[i, j3]
            total += g + g1 + g2 + g3
            # Short loops of few arrays: LLVM vectorises a loop only while it can check that they do not overlap.
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
                dq[i, c] += ((w - w * r[c]) + (x - x * r1[c])) + ((y - y * r2[c]) + (z - z * r3[c]))
    for c in range(C):
        dv[c] = total + two * dv[c]
    for t in range(T):
        for c in range(C):
            dq[t, c] *= four * v[c]
            dk[t, c] *= four * v[c]


@_jit
def _forward_any(q, k, v, out):
    """As `_forward`, from q and k themselves and with a tanh a pair: right for any finite input."""
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
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _each(fast, exact, q, k, *more) -> None:
    """Call `fast` (where its range allows) or `exact` for every batch element, over torch's number of threads.

    The calling thread works too, and exponentials go into two small buffers a thread: fresh memory the size of q would
    cost more than the arithmetic, and so would waiting for OpenMP threads that still spin behind a product.
    """
    def share(part):
        a, b = np.empty_like(q[0]), np.empty_like(k[0])
        for n in range(part, len(q), threads):
            if all(-SAFE <= x[n].min() and x[n].max() <= SAFE for x in (q, k)):
                for x, buffer in ((q, a), (k, b)):
                    np.add(x[n], x[n], out=buffer)
                    np.exp(buffer, out=buffer)
                fast(a, b, *(x[n] for x in more))
            else:
                exact(q[n], k[n], *(x[n] for x in more))

    threads = max(1, min(torch.get_num_threads(), len(q)))
    helpers = [_helpers(threads - 1).submit(share, part) for part in range(1, threads)] if threads > 1 else []
    share(0)
    for helper in helpers:
        helper.result()


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        # one layout whatever comes in: expanded or transposed arguments would compile kernels of their own
        q, k, v = (x.detach().contiguous() for x in (q, k, v))
        B, T, _ = q.shape
        out = q.new_empty(B, T, T)
        _each(_forward, _forward_any, q.numpy(), k.numpy(), [v.numpy()] * B, out.numpy())
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), v.new_empty(len(q), len(v))
        rest = (x.numpy() for x in (grad.contiguous(), dq, dk, dv))
        _each(_backward, _backward_any, q.numpy(), k.numpy(), [v.numpy()] * len(q), *rest)
        return dq, dk, dv.sum(0)


def additive_scores_blockwise(q: Tensor, k: Tensor, v: Tensor, block: int = 16) -> Tensor:
    """`additive_scores` in plain PyTorch on any device, `block` queries at a time, recomputed in the backward pass."""
    def rows(q, k, v):
        return torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)) @ v  # (B, block, T)

    parts = [checkpoint(rows, part, k, v, use_reentrant=False) for part in q.split(block, 1)]
    T = q.shape[1]
    return torch.cat(parts, 1).masked_fill(torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1), float("-inf"))


def additive_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal additive scores (B, T, T) of q and k (B, T, C) with v (C,); -inf where a key lies after its query.

    Differentiable in all three, float32 or float64. Raises ValueError on other shapes or types.
    """
    if q.dim() != 3 or q.shape != k.shape or v.shape != q.shape[-1:]:
        raise ValueError("additive_scores wants q, k (B, T, C) and v (C,), got "
                         f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"additive_scores wants float32 or float64 throughout, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.device.type != "cpu":
        return additive_scores_blockwise(q, k, v)
    return _AdditiveScores.apply(q, k, v)
