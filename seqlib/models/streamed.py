"""Cross-entropy of a frozen head over a large vocabulary: logits exist for a slice of the vocabulary at a time, so that the
head's weights are read once, and the gradient of the states is gathered on the way under the running maximum and sum of the
softmax (Milakov and Gimelshein, arXiv 1805.02867, algorithm 3; gathered as FlashAttention does its output, Dao et al.,
arXiv 2205.14135, algorithm 1). For a head that is trained see `seqlib.models.loss`.

Shapes: N tokens, D channels, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

COLUMNS = 4096  # words whose logits exist at once


class _StreamedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, wants_x):
        N = len(x)
        top, total = x.new_full((N, 1), -torch.inf), x.new_zeros(N, 1)  # of exp(logits - top), so far
        mean, slab = torch.zeros_like(x) if wants_x else None, x.new_empty(N * COLUMNS)
        for words in weight.split(COLUMNS):
            logits = torch.mm(x, words.T, out=slab[: N * len(words)].view(N, -1))
            before, top = top, torch.maximum(top, logits.amax(-1, keepdim=True))
            shrink, weights = before.sub_(top).exp_(), logits.sub_(top).exp_()
            total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
            if wants_x:
                mean.mul_(shrink).addmm_(weights, words)
        own = weight[targets]
        losses = total.log().add_(top).squeeze(1).sub_(torch.linalg.vecdot(x, own))
        ctx.save_for_backward(mean.div_(total).sub_(own) if wants_x else None)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream[:, None], None, None, None


def streamed_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, in nats, of each token's logits x W^T: x (N, D), W (V, D), targets (N,) -> (N,). Differentiable once in
    x. Raises ValueError where a gradient of W is wanted."""
    if torch.is_grad_enabled() and weight.requires_grad:
        raise ValueError("streamed_cross_entropy: the weight wants a gradient; use blockwise_cross_entropy")
    return _StreamedCrossEntropy.apply(x, weight, targets, torch.is_grad_enabled() and x.requires_grad)
