import pytest
import torch
from torch.testing import assert_close

from seqlib.models.additive import additive_scores, additive_scores_blockwise


def plain(q, k, v):
    scores = torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)) @ v
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf"))


def draw(B, T, C, spread=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k = (spread * torch.randn(B, T, C, generator=generator, dtype=torch.float64)
            for _ in range(2))
    v = torch.randn(C, generator=generator, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (q, k, v)]


def value_and_gradients(function, inputs, weight):
    out = function(*inputs)
    total = (out.masked_fill(out.isinf(), 0) * weight).sum()
    return [out.detach(), *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("function", [additive_scores, additive_scores_blockwise])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (3, 8, 16), (2, 33, 3)])
@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_values_and_gradients_equal_the_plain_formula_in_double_precision(function, shape, spread):
    B, T, _ = shape
    inputs = draw(*shape, spread)
    weight = torch.randn(B, T, T, dtype=torch.float64)
    expected = value_and_gradients(plain, inputs, weight)
    for ours, theirs in zip(value_and_gradients(function, inputs, weight), expected):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 4.0, 10.0, 50.0])
def test_single_precision_is_right_at_every_spread(spread):
    inputs = draw(4, 48, 32, spread, torch.float32)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    weight = torch.randn(4, 48, 48)
    ours = value_and_gradients(additive_scores, inputs, weight)
    for mine, theirs in zip(ours, value_and_gradients(plain, exact, weight.double())):
        assert_close(mine.double(), theirs, rtol=2e-4, atol=2e-4)


def test_large_arguments_that_cancel_are_not_lost():
    q, k, v = torch.full((1, 2, 3), 60.0), torch.full((1, 2, 3), -59.75), torch.ones(3)
    expected = 3 * torch.tanh(torch.tensor(0.25))
    assert_close(additive_scores(q, k, v)[0].tril()[1], expected.expand(2))
    assert torch.isfinite(additive_scores(q * 1e30, k * 1e30, v)[0, 1]).all()


def test_elements_of_a_batch_take_the_kernel_that_fits_them():
    q, k, v = draw(3, 9, 4, 1.0, torch.float32)
    with torch.no_grad():
        q[1] *= 40
    weight = torch.randn(3, 9, 9)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for mine, theirs in zip(value_and_gradients(additive_scores, (q, k, v), weight),
                            value_and_gradients(plain, exact, weight.double())):
        assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_scores_are_causal():
    q, k, v = draw(2, 10, 6)
    before = additive_scores(q, k, v)
    changed_q, changed_k = q.detach().clone(), k.detach().clone()
    changed_q[:, 6:] += 3
    changed_k[:, 6:] -= 2
    after = additive_scores(changed_q, changed_k, v)
    assert torch.equal(before[:, :6], after[:, :6])
    assert torch.isinf(before.triu(1)).sum() == 2 * 45 and not torch.isinf(before.tril()).any()


def test_expanded_and_transposed_arguments():
    base = draw(2, 6, 5)[0].detach()
    q, k = base.mT.contiguous().mT, base[:1].expand(2, -1, -1)
    v = torch.ones(1, dtype=torch.float64).expand(5)
    assert_close(additive_scores(q, k, v), plain(q, k, v))


@pytest.mark.parametrize("shapes", [
    ((2, 3, 4), (2, 3, 5), (4,)), ((2, 3, 4), (2, 3, 4), (3,)), ((3, 4), (3, 4), (4,))])
def test_wrong_shapes_and_types_are_refused(shapes):
    with pytest.raises(ValueError, match="additive_scores wants"):
        additive_scores(*(torch.zeros(s) for s in shapes))
    with pytest.raises(ValueError, match="float32 or float64"):
        additive_scores(*(torch.zeros(s).half() for s in ((2, 3, 4), (2, 3, 4), (4,))))
