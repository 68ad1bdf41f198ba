"""Cross-entropy of a frozen head over a large vocabulary, for a slice of the vocabulary at a time.

The head's weights are read once, and the gradient of the states is gathered on the way under the
running maximum and sum of the softmax: Milakov and Gimelshein, arXiv 1805.02867, algorithm 3;
gathered as FlashAttention gathers its output, Dao et al., arXiv 2205.14135, algorithm 1. For a head
that is trained see `seqlib.models.loss`. Shapes: N tokens, D channels, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

COLUMNS = 4096  # entries of the vocabulary whose logits exist at once


class _StreamedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, needs_x):
        N = len(x)
        top = x.new_full((N, 1), -torch.inf)  # largest logit so far
        total = x.new_zeros(N, 1)  # sum of exp(logits - top) so far
        mean = torch.zeros_like(x) if needs_x else None  # of the head's rows, by the softmax
        slab = x.new_empty(N * COLUMNS)
        for rows in weight.split(COLUMNS):
            logits = torch.mm(x, rows.T, out=slab[: N * len(rows)].view(N, -1))
            before, top = top, torch.maximum(top, logits.amax(-1, keepdim=True))
            shrink = before.sub_(top).exp_()
            weights = logits.sub_(top).exp_()
            total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
            if needs_x:
                mean.mul_(shrink).addmm_(weights, rows)
        target_rows = weight[targets]
        target_logits = torch.linalg.vecdot(x, target_rows)
        losses = total.log().add_(top).squeeze(1).sub_(target_logits)
        ctx.save_for_backward(mean.div_(total).sub_(target_rows) if needs_x else None)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream[:, None], None, None, None


def streamed_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies (N,), in nats, of logits x W^T; x (N, D), weight (V, D), targets (N,) of
    token ids. Once differentiable in x. Raises ValueError where the weight needs a gradient."""
    if torch.is_grad_enabled() and weight.requires_grad:
        raise ValueError(
            "streamed_cross_entropy: the weight wants a gradient; use blockwise_cross_entropy")
    needs_x = torch.is_grad_enabled() and x.requires_grad
    return _StreamedCrossEntropy.apply(x, weight, targets, needs_x)
