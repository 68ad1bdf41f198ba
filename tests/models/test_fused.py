"""One-pass kernels against the layers of torch, transformers and peft that they replace."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seqlib.models import fused


def leaves(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("shape", [(3, 5, 24), (7, 24)])
def test_rms_norm_equals_torch_s_values_and_gradients(shape):
    x, w, dy = leaves(shape, 24, shape)
    ours, plain = fused.rms_norm(x, w, 1e-5), F.rms_norm(x, (24,), w, 1e-5)
    assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(ours, (x, w), dy), torch.autograd.grad(plain, (x, w), dy)):
        assert_close(a, b)
    frozen = w.detach()
    dx = torch.autograd.grad(fused.rms_norm(x, frozen, 1e-5), x, dy)[0]
    assert_close(dx, torch.autograd.grad(F.rms_norm(x, (24,), frozen, 1e-5), x, dy)[0])


def test_rms_norm_in_single_precision_equals_the_layer_of_llama():
    layer, x = LlamaRMSNorm(64, eps=1e-5), torch.randn(9, 64)
    assert_close(fused.rms_norm(x, layer.weight, 1e-5), layer(x))


def test_rms_norm_takes_inputs_that_are_not_contiguous():
    x, w, dy = leaves((24, 5), 24, (24, 5))
    ours, plain = fused.rms_norm(x.T, w, 1e-5), F.rms_norm(x.T, (24,), w, 1e-5)
    expected = torch.autograd.grad(plain, (x, w), dy.T)
    for a, b in zip(torch.autograd.grad(ours, (x, w), dy.T), expected):
        assert_close(a, b)


def made(rate: float) -> tuple[Linear, list[nn.Parameter]]:
    """The layer of peft, with a B that is not zero."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=rate)
    layer = Linear(nn.Linear(24, 10, bias=False), "default", config, r=4, lora_alpha=8)
    nn.init.normal_(layer.lora_B["default"].weight)
    layer.base_layer.weight.requires_grad_(False)
    parts = (layer.base_layer, layer.lora_A["default"], layer.lora_B["default"])
    return layer.double(), [part.weight for part in parts]


def test_an_adapted_layer_equals_peft_s_values_and_gradients():
    layer, (w, a, b) = made(0.0)
    x, dy = leaves((3, 5, 24), (3, 5, 10))
    ours, plain = fused.adapted_linear(x, w, a, b, 2.0), layer(x)
    assert_close(ours, plain)
    expected = torch.autograd.grad(plain, (x, a, b), dy)
    for one, other in zip(torch.autograd.grad(ours, (x, a, b), dy), expected):
        assert_close(one, other)


def test_an_adapted_layer_drops_on_the_way_back_what_it_dropped_before():
    _, (w, a, b) = made(0.3)
    x, dy = leaves((3, 5, 24), (3, 5, 10))
    torch.manual_seed(1)
    ours = fused.adapted_linear(x, w, a, b, 2.0, rate=0.3)
    torch.manual_seed(1)
    kept = fused.dropout(torch.ones(15, 24, dtype=torch.float64), 0.3).view(3, 5, 24)
    plain = x @ w.T + 2.0 * (x * kept) @ a.T @ b.T
    assert 0 < float((kept == 0).double().mean()) < 1
    assert_close(ours, plain)
    expected = torch.autograd.grad(plain, (x, a, b), dy)
    for one, other in zip(torch.autograd.grad(ours, (x, a, b), dy), expected):
        assert_close(one, other)


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_dropout_keeps_the_rate_and_the_gradient_has_the_same_mask(rate, kind):
    torch.manual_seed(3)
    x = torch.ones(1000, 1001, dtype=kind, requires_grad=True)
    y = fused.dropout(x, rate)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and y.dtype == kind
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    five_errors = 5 * (rate * (1 - rate) / y.numel()) ** 0.5
    assert float((y == 0).double().mean()) == pytest.approx(rate, abs=five_errors)


def test_draws_of_dropout_are_independent_within_a_mask_and_between_masks():
    torch.manual_seed(4)
    n = 200_000
    one, other = ((fused.dropout(torch.ones(n), 0.5) > 0).numpy() for _ in range(2))
    bound = 5 / np.sqrt(n)  # five standard errors of a correlation of nothing
    signs = [np.where(mask, 1.0, -1.0) for mask in (one, other)]
    for lag in (1, 2, 3, 8, 64, 576):
        assert abs((signs[0][lag:] * signs[0][:-lag]).mean()) < bound
        assert abs((signs[0][lag:] * signs[1][:-lag]).mean()) < bound
    assert abs((signs[0] * signs[1]).mean()) < bound
    torch.manual_seed(4)
    again = (fused.dropout(torch.ones(n), 0.5) > 0).numpy()
    assert np.array_equal(one, again)  # a seed gives a mask
