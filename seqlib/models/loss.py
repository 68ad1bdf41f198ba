"""Cross-entropy over a large vocabulary without the logits of all tokens: block by block of tokens.

Gradients are computed with the logits and only scaled on the way back, as the loss is linear in its
upstream gradient (the idea of Wijmans et al., arXiv 2411.09009, section 4, in plain products).
Shapes: N tokens, D channels, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 256  # tokens whose logits exist at once


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, needs_x, needs_weight):
        low, device = x.dtype, x.device.type
        if torch.is_autocast_enabled(device):  # which leaves products with `out=` as they are
            low = torch.get_autocast_dtype(device)
        dx = torch.empty_like(x, dtype=low) if needs_x else None
        dw = torch.empty_like(weight) if needs_weight else None
        total, factor = x.new_zeros(()), weight.to(low)
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS].to(low)
            y = targets[start : start + ROWS, None]
            logits = (rows @ factor.T).to(x.dtype)
            top = logits.amax(-1, keepdim=True)
            target_logits = logits.gather(1, y)
            slope = logits.sub_(top).exp_()
            sums = slope.sum(-1, keepdim=True)
            total += (sums.log() + top - target_logits).sum()
            if needs_x or needs_weight:  # the slope is softmax(logits) - onehot(y)
                slope.div_(sums).scatter_add_(1, y, slope.new_full((1, 1), -1).expand(len(y), 1))
            slope = slope.to(low)
            if needs_x:
                torch.mm(slope, factor, out=dx[start : start + ROWS])
            if needs_weight and low == dw.dtype:
                torch.addmm(dw, slope.T, rows, beta=float(start > 0), out=dw)
            elif needs_weight:  # the sum over blocks in the type of the weights
                dw = dw.add_(slope.T @ rows) if start else (slope.T @ rows).to(dw.dtype)
        ctx.save_for_backward(dx, dw)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        dx, dw = (None if d is None else d * upstream for d in ctx.saved_tensors)
        return dx, dw, None, None, None


def blockwise_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum (scalar), in nats, of the cross-entropies of logits x W^T; x (N, D), weight (V, D),
    targets (N,) of token ids. Once differentiable in x and the weight, where they need it.
    Under torch's autocast the logits are products of its type, and the rest is in that of x."""
    needs_x = torch.is_grad_enabled() and x.requires_grad
    needs_weight = torch.is_grad_enabled() and weight.requires_grad
    return _BlockwiseCrossEntropy.apply(x, weight, targets, needs_x, needs_weight)
