"""Cross-entropy over a large vocabulary without the logits of all tokens: block by block, gradients included, as the loss is
linear in its upstream gradient (the idea of Wijmans et al., arXiv 2411.09009, section 4, in plain products).

Shapes: N tokens, D channels, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 256  # tokens whose logits exist at once


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """Gradients are made on the way forward, while a block's logits exist, and only scaled on the way back."""

    @staticmethod
    def forward(ctx, x, weight, targets, wants_x, wants_weight):
        dx, dw = torch.empty_like(x) if wants_x else None, torch.empty_like(weight) if wants_weight else None
        total = x.new_zeros(())
        for start in range(0, len(x), ROWS):
            rows, y = x[start : start + ROWS], targets[start : start + ROWS, None]
            logits = rows @ weight.T
            top, own = logits.amax(-1, keepdim=True), logits.gather(1, y)
            slope = logits.sub_(top).exp_()
            sums = slope.sum(-1, keepdim=True)
            total += (sums.log() + top - own).sum()
            if wants_x or wants_weight:
                slope.div_(sums).scatter_add_(1, y, slope.new_full((1, 1), -1).expand(len(y), 1))
            if wants_x:
                torch.mm(slope, weight, out=dx[start : start + ROWS])
            if wants_weight:
                torch.addmm(dw, slope.T, rows, beta=float(start > 0), out=dw)
        ctx.save_for_backward(dx, dw)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        dx, dw = ctx.saved_tensors
        return dx if dx is None else dx * upstream, dw if dw is None else dw * upstream, None, None, None


def blockwise_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum, in nats, of the cross-entropies of logits x W^T, for x (N, D), W (V, D), targets (N,). Differentiable once in x and
    W; a gradient that nobody wants is not computed."""
    wanted = torch.is_grad_enabled()
    return _BlockwiseCrossEntropy.apply(x, weight, targets, wanted and x.requires_grad, wanted and weight.requires_grad)
