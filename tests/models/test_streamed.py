"""The streamed loss against the whole logits."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from seqlib.models import streamed
from seqlib.models.streamed import streamed_cross_entropy

N, D = 20, 12


@pytest.mark.parametrize("V", [7, 32, 90])  # less than a slice, one, some and a part
def test_it_equals_the_plain_one_values_and_gradients(V, monkeypatch):
    monkeypatch.setattr(streamed, "COLUMNS", 32)
    torch.manual_seed(0)
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    w = torch.randn(V, D, dtype=torch.float64)
    y, upstream = torch.randint(V, (N,)), torch.randn(N, dtype=torch.float64)
    ours, plain = streamed_cross_entropy(x, w, y), F.cross_entropy(x @ w.T, y, reduction="none")
    assert_close(ours, plain)
    assert_close(*(torch.autograd.grad(loss, x, upstream)[0] for loss in (ours, plain)))


@pytest.mark.parametrize("last", [False, True])  # the largest logit of the first token
def test_logits_of_any_size_give_finite_losses(last, monkeypatch):
    monkeypatch.setattr(streamed, "COLUMNS", 16)
    torch.manual_seed(0)
    x, w, y = torch.randn(N, D) * 1e3, torch.randn(90, D) * 1e3, torch.randint(90, (N,))
    w = w[(w @ x[0]).argsort(descending=not last)]
    expected = F.cross_entropy(x.double() @ w.double().T, y, reduction="none")
    assert_close(streamed_cross_entropy(x, w, y).double(), expected, rtol=1e-5, atol=0.5)


def test_a_head_that_is_trained_is_refused_and_evaluated():
    x, w, y = torch.randn(N, D), torch.randn(90, D, requires_grad=True), torch.randint(90, (N,))
    with pytest.raises(ValueError, match="use blockwise_cross_entropy"):
        streamed_cross_entropy(x, w, y)
    with torch.no_grad():
        expected = F.cross_entropy(x @ w.T, y, reduction="none")
        assert_close(streamed_cross_entropy(x, w, y), expected)
