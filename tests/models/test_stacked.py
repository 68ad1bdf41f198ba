"""The stacked passes against the published modules, seed by seed, in double precision."""

import pytest
import torch
from torch.func import stack_module_state
from torch.testing import assert_close

from seqlib.models import stacked
from seqlib.models.forecast import AttentionForecaster, RecurrentForecaster

BUILD = {"lstm": lambda: RecurrentForecaster("lstm", 7),
         "gru": lambda: RecurrentForecaster("gru", 7),
         **{p: (lambda p=p: AttentionForecaster(p, width=16, heads=2, hidden=12))
            for p in ("rope", "sinusoidal", "learned")}}


@pytest.mark.parametrize("kind", BUILD)
def test_values_and_gradients_equal_the_published_module(kind):
    torch.manual_seed(0)
    modules = [BUILD[kind]().double().eval() for _ in range(3)]
    params = {k: v.detach().requires_grad_() for k, v in stack_module_state(modules)[0].items()}
    x, target = torch.randn(3, 5, 12, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    out = stacked.forward(modules[0], params, x)
    (out - target).square().sum().backward()
    for i, module in enumerate(modules):
        expected = module(x[i])
        assert_close(out[i], expected, rtol=1e-12, atol=1e-12)
        (expected - target[i]).square().sum().backward()
        for name, p in module.named_parameters():
            assert_close(params[name].grad[i], p.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [stacked.StackedLSTM, stacked.StackedGRU])
def test_gradients_of_every_input_agree_with_finite_differences(layer):
    torch.manual_seed(1)
    K, T, B, C = 2, 3, 2, 3
    gates = {stacked.StackedLSTM: 4, stacked.StackedGRU: 3}[layer]

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    biases = [draw(K, gates * C) for _ in range(1 if gates == 4 else 2)]
    inputs = [draw(K, T, B, 2), draw(K, gates * C, 2), draw(K, gates * C, C), *biases]
    assert torch.autograd.gradcheck(layer.apply, inputs)


def test_masks_scale_what_they_keep_and_seeds_do_not_touch_each_other():
    torch.manual_seed(2)
    modules = [BUILD["learned"]() for _ in range(2)]
    params = stack_module_state(modules)[0]
    x = torch.randn(2, 4, 12)
    shapes = stacked.mask_shapes(modules[0], 12)
    ones = {name: torch.ones(2, 4, *shape) for name, (_, shape) in shapes.items()}
    assert set(ones) == {"weights", "mixed", "hidden", "out"}
    plain = stacked.forward(modules[0], params, x)
    assert_close(stacked.forward(modules[0], params, x, ones), plain, rtol=0, atol=0)
    for name in ones:
        halved = {**ones, name: ones[name].clone()}
        halved[name][1] = 0
        out = stacked.forward(modules[0], params, x, halved)
        assert torch.equal(out[0], plain[0]) and not torch.allclose(out[1], plain[1])


def test_kept_weights_are_the_published_module_s_last_row():
    torch.manual_seed(3)
    for kind in ("rope", "sinusoidal", "learned"):
        module = BUILD[kind]().double().eval()
        keep, x = {}, torch.randn(1, 4, 12, dtype=torch.float64)
        stacked.attention_forward(module, stack_module_state([module])[0], x, None, keep)
        h = module.project(x[0].unsqueeze(-1))
        h = h if module.table is None else h + module.table
        expected = module.attend(module.norm1(h))[1][:, :, -1]
        assert_close(keep["weights"][0], expected, rtol=1e-10, atol=1e-12)
