"""A mixture of experts: each token goes to the k experts with the highest router scores, and their
outputs are summed with the softmax over those k scores (Shazeer et al., arXiv 1701.06538, section
2.1, with noise of a fixed size on the scores in training, as the published search has it). The
load-balancing loss is that of Switch Transformer, arXiv 2101.03961, equations 4 to 6, with shares
of assignments in place of shares of tokens.

No token is dropped. The N k assignments of tokens to experts are sorted by expert, so that an
expert is two matrix products over a contiguous slice, and the gradients of the stacked weights are
written in place. Shapes: N tokens, D channels, E experts, F_ width of an expert.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _Experts(torch.autograd.Function):
    """y[n] = W2 drop(silu(W1 x[n])) for rows sorted by expert, `counts[e]` of them for expert e."""

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
        ctx.counts = counts
        ctx.scale = 1 / (1 - dropout)  # applied to y, which is narrower than what was dropped
        return y.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, up, down, inner, active, kept = ctx.saved_tensors
        dx, dup, ddown, dinner = (torch.empty_like(t) for t in (x, up, down, inner))
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
    """Booleans of x's shape, each true with probability `rate`, right to 1 / 65,536: one draw of 64
    bits serves four elements, where PyTorch's `bernoulli_` takes one draw an element."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits.random_(-(2**63), None)
    return (bits.view(torch.int16)[: x.numel()] < round(rate * 65536) - 32768).view(x.shape)


def as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A Boolean mask as zeros and ones in the type of `like`: multiplying by these is several times
    faster than filling by the mask."""
    return mask.view(torch.uint8).to(like.dtype)


def _slices(counts: list[int], weights: Tensor):
    """Each expert's rows and weight; a product over no rows fills its output with zeros."""
    start = 0
    for n, w in zip(counts, weights):
        yield slice(start, start + n), w
        start += n


class Experts(nn.Module):
    """Router, E experts of width F_, of which k serve a token, and the load-balancing loss. In
    training, N(0, noise^2) is added to the router's scores, and `dropout` acts inside an expert.
    Raises ValueError where k is not within 1 .. E."""

    def __init__(self, D: int, F_: int, E: int = 8, k: int = 2, noise: float = 0.1,
                 dropout: float = 0.0):
        super().__init__()
        if not 1 <= k <= E:
            raise ValueError(f"top-{k} of {E} experts; choose 1 to {E}")
        self.E, self.k = E, k
        self.noise, self.dropout = noise, dropout
        self.router = nn.Linear(D, E, bias=False)
        self.up = nn.Parameter(torch.empty(E, F_, D))
        self.down = nn.Parameter(torch.empty(E, D, F_))
        for weight in (self.up, self.down):
            nn.init.normal_(weight, std=0.02)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, D) -> indices of the chosen experts (N, k), their weights (N, k), and the
        load-balancing loss (scalar, 1 when balanced)."""
        scores = self.router(x)
        if self.training and self.noise:
            scores = scores + self.noise * torch.randn_like(scores)
        top, chosen = scores.topk(self.k, -1)
        share = torch.bincount(chosen.flatten(), minlength=self.E) / chosen.numel()
        balance = self.E * (share * scores.softmax(-1).mean(0)).sum()
        return chosen, top.softmax(-1), balance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., D) -> outputs (..., D) and the load-balancing loss (scalar)."""
        tokens = x.flatten(0, -2)
        chosen, weights, balance = self.route(tokens)
        by_expert = chosen.flatten().argsort(stable=True)  # (N k,)
        counts = torch.bincount(chosen.flatten(), minlength=self.E).tolist()
        up, down, device = self.up, self.down, tokens.device.type
        if torch.is_autocast_enabled(device):  # which leaves products with `out=` as they are
            low = torch.get_autocast_dtype(device)
            tokens, up, down = tokens.to(low), up.to(low), down.to(low)
        y = _Experts.apply(_Gather.apply(tokens, by_expert, self.k), up, down, counts,
                           self.dropout if self.training else 0.0)
        y = _Scatter.apply(y, by_expert).unflatten(0, (-1, self.k))
        return torch.einsum("nkd,nk->nd", y, weights).view_as(x), balance

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token meets: the router's and those of k experts."""
        return self.router.weight.numel() + self.k * (self.up[0].numel() + self.down[0].numel())


class _Gather(torch.autograd.Function):
    """Rows of x (N, D), one an assignment, sorted by expert (N k, D); the gradient gathers too."""

    @staticmethod
    def forward(ctx, x, by_expert, k):
        ctx.save_for_backward(by_expert)
        ctx.k = k
        return x[by_expert // k]

    @staticmethod
    def backward(ctx, dy):
        return dy[_inverse(ctx.saved_tensors[0])].unflatten(0, (-1, ctx.k)).sum(1), None, None


class _Scatter(torch.autograd.Function):
    """Rows sorted by expert (N k, D) back to the sequence of the tokens."""

    @staticmethod
    def forward(ctx, y, by_expert):
        ctx.save_for_backward(by_expert)
        return y[_inverse(by_expert)]

    @staticmethod
    def backward(ctx, dy):
        return dy[ctx.saved_tensors[0]], None


def _inverse(permutation: Tensor) -> Tensor:
    places = torch.arange(len(permutation), device=permutation.device)
    return torch.empty_like(permutation).scatter_(0, permutation, places)
