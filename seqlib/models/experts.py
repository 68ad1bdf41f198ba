"""A mixture of experts: each token goes to the `k` experts whose router scores are highest, and their outputs are added with
the softmax over those k scores (Shazeer et al., arXiv 1701.06538, section 2.1; noise of a fixed size on the scores while
training, as in the search's published set-up). The load-balancing loss is Switch Transformer's (arXiv 2101.03961, equations
4 to 6), with shares of assignments in place of shares of tokens.

No token is dropped. Assignments are sorted by expert, so that an expert is two products over a contiguous slice; gradients of
the stacked weights are written in place, expert by expert.

Shapes: N tokens, D channels, E experts, F width of an expert.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _Experts(torch.autograd.Function):
    """y[n] = W2 drop(silu(W1 x[n])) for sorted rows, expert e having `counts[e]` of them."""

    @staticmethod
    def forward(ctx, x, up, down, counts, dropout):
        inner, y = x.new_empty(len(x), up.shape[1]), torch.empty_like(x)
        for rows, w in _slices(counts, up):
            torch.mm(x[rows], w.T, out=inner[rows])
        active, kept = F.silu(inner), None
        if dropout:
            kept = drawn(inner, 1 - dropout)
            active.mul_(as_numbers(kept, active))
        for rows, w in _slices(counts, down):
            torch.mm(active[rows], w.T, out=y[rows])
        ctx.save_for_backward(x, up, down, inner, active, kept)
        ctx.counts, ctx.scale = counts, 1 / (1 - dropout)  # of what is kept; taken on the narrower side
        return y.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, up, down, inner, active, kept = ctx.saved_tensors
        dx, dup, ddown, dinner = torch.empty_like(x), torch.empty_like(up), torch.empty_like(down), torch.empty_like(inner)
        dy = dy * ctx.scale
        for e, (rows, w) in enumerate(_slices(ctx.counts, down)):
            torch.mm(dy[rows].T, active[rows], out=ddown[e])
            torch.mm(dy[rows], w, out=dinner[rows])
        if kept is not None:
            dinner.mul_(as_numbers(kept, dinner))
        torch.ops.aten.silu_backward.grad_input(dinner, inner, grad_input=dinner)
        for e, (rows, w) in enumerate(_slices(ctx.counts, up)):
            torch.mm(dinner[rows].T, x[rows], out=dup[e])
            torch.mm(dinner[rows], w, out=dx[rows])
        return dx, dup, ddown, None, None


def drawn(x: Tensor, rate: float) -> Tensor:
    """Booleans like x, true with probability `rate`. One draw of 64 bits serves four elements, so the rate is right to
    1 / 65,536; PyTorch's own draws are one an element, on one thread."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    return (bits.view(torch.int16)[: x.numel()] < round(rate * 65536) - 32768).view(x.shape)


def as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """Zeros and ones in the type of `like`: several times faster than to fill by a mask of booleans."""
    return mask.view(torch.uint8).to(like.dtype)


def _slices(counts: list[int], weights: Tensor):
    """Each expert's rows and weight; a product over no rows fills its output with zeros."""
    start = 0
    for n, w in zip(counts, weights):
        yield slice(start, start + n), w
        start += n


class Experts(nn.Module):
    """Router, experts and load-balancing loss. Raises ValueError where k is not within 1 .. E."""

    def __init__(self, D: int, F_: int, E: int = 8, k: int = 2, noise: float = 0.1, dropout: float = 0.0):
        super().__init__()
        if not 1 <= k <= E:
            raise ValueError(f"top-{k} of {E} experts; choose 1 to {E}")
        self.E, self.k, self.noise, self.dropout = E, k, noise, dropout
        self.router = nn.Linear(D, E, bias=False)
        self.up, self.down = nn.Parameter(torch.empty(E, F_, D)), nn.Parameter(torch.empty(E, D, F_))
        for weight in (self.up, self.down):
            nn.init.normal_(weight, std=0.02)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, D) -> chosen experts (N, k), their weights (N, k), load-balancing loss (scalar, 1 when balanced)."""
        scores = self.router(x)
        if self.training and self.noise:
            scores = scores + self.noise * torch.randn_like(scores)
        top, chosen = scores.topk(self.k, -1)
        share = torch.bincount(chosen.flatten(), minlength=self.E) / chosen.numel()
        return chosen, top.softmax(-1), self.E * (share * scores.softmax(-1).mean(0)).sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., D) -> (..., D) and the load-balancing loss."""
        tokens = x.flatten(0, -2)
        chosen, weights, balance = self.route(tokens)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.E).tolist()
        y = _Experts.apply(_Gather.apply(tokens, order, self.k), self.up, self.down, counts,
                           self.dropout if self.training else 0.0)
        y = _Scatter.apply(y, order).unflatten(0, (-1, self.k))
        return torch.einsum("nkd,nk->nd", y, weights).view_as(x), balance

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets."""
        return self.router.weight.numel() + self.k * (self.up[0].numel() + self.down[0].numel())


class _Gather(torch.autograd.Function):
    """Rows of x (N, D) in the order of their sorted assignments (N k, D); the gradient is a gather as well, no scatter."""

    @staticmethod
    def forward(ctx, x, order, k):
        ctx.save_for_backward(order)
        ctx.k = k
        return x[order // k]

    @staticmethod
    def backward(ctx, dy):
        return dy[_inverse(ctx.saved_tensors[0])].unflatten(0, (-1, ctx.k)).sum(1), None, None


class _Scatter(torch.autograd.Function):
    """Sorted assignments back into the order of the tokens."""

    @staticmethod
    def forward(ctx, y, order):
        ctx.save_for_backward(order)
        return y[_inverse(order)]

    @staticmethod
    def backward(ctx, dy):
        return dy[ctx.saved_tensors[0]], None


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
