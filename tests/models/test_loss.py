"""The blockwise loss against the whole logits."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from seqlib.models import loss
from seqlib.models.loss import blockwise_cross_entropy

D, V = 12, 90


@pytest.mark.parametrize("N", [7, 256, 700])
def test_it_equals_the_plain_one_values_and_gradients(N):
    x, w = (torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (N, V))
    y = torch.randint(V, (N,))
    ours, plain = blockwise_cross_entropy(x, w, y), F.cross_entropy(x @ w.T, y, reduction="sum")
    assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(3 * ours, (x, w)), torch.autograd.grad(3 * plain, (x, w))):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_logits_of_any_size_give_a_finite_loss():
    x, w, y = torch.randn(5, D) * 1e3, torch.randn(V, D) * 1e3, torch.randint(V, (5,))
    expected = F.cross_entropy((x.double() @ w.double().T), y, reduction="sum")
    assert_close(blockwise_cross_entropy(x, w, y).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_a_gradient_that_nobody_wants_is_not_computed(frozen, monkeypatch):
    products, plain = [], {name: getattr(torch, name) for name in ("mm", "addmm")}

    def counted(name):
        return lambda *args, **more: (products.append(name), plain[name](*args, **more))[1]

    for name in plain:
        monkeypatch.setattr(loss.torch, name, counted(name))
    x = torch.randn(300, D, requires_grad=frozen != "x")
    w = torch.randn(V, D, requires_grad=frozen != "weight")
    blockwise_cross_entropy(x, w, torch.randint(V, (300,))).backward()
    assert set(products) == ({"addmm"} if frozen == "x" else {"mm"})
    assert (x.grad is None) == (frozen == "x")
