"""The mixture of experts against a loop over tokens, and the language model around it."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from seqlib.models.experts import Experts, drawn
from seqlib.models.latent import LatentAttention, RotaryAttention
from seqlib.models.mixture import MixtureLM

D, E, WIDTH, N = 12, 5, 16, 300


def experts(k=2, **more):
    torch.manual_seed(0)
    module = Experts(D, WIDTH, E, k, **more).double()
    for p in module.parameters():
        p.data.mul_(10)
    return module


def loop(module, x):
    """Token by token, expert by expert."""
    out = []
    for token in x:
        top, chosen = (module.router.weight @ token).topk(module.k)
        y = 0
        for weight, e in zip(top.softmax(0), chosen):
            y = y + weight * (module.down[e] @ F.silu(module.up[e] @ token))
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_equals_a_loop_over_tokens_values_and_gradients(k):
    module = experts(k).eval()
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(N, D, dtype=torch.float64)
    leaves = [x, *module.parameters()]
    ours, expected = module(x)[0], loop(module, x)
    assert_close(ours, expected, rtol=0, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad((y * upstream).sum(), leaves) for y in (ours, expected))):
        assert_close(a, b, rtol=0, atol=1e-11)


def test_an_expert_without_tokens_gets_a_gradient_of_zeros():
    module = experts().eval()
    module.router.weight.data.zero_()
    module.router.weight.data[:2] = 1
    x = torch.rand(20, D, dtype=torch.float64)  # positive, so the first two win everywhere
    module(x)[0].sum().backward()
    assert (module.up.grad[2:] == 0).all() and (module.down.grad[2:] == 0).all()
    assert (module.up.grad[:2] != 0).any()


def test_no_token_is_dropped_and_routing_weights_sum_to_one():
    module = experts()
    chosen, weights, balance = module.route(torch.randn(N, D, dtype=torch.float64))
    assert chosen.shape == (N, 2) and (chosen[:, 0] != chosen[:, 1]).all()
    assert_close(weights.sum(-1), torch.ones(N, dtype=torch.float64), rtol=0, atol=1e-14)
    assert balance >= 1 - 1e-2


def test_the_balance_is_one_when_balanced_and_grows_with_the_busiest():
    module = experts().eval()
    module.router.weight.data.zero_()
    assert module.route(torch.randn(N, D, dtype=torch.float64))[2].item() == pytest.approx(1)
    module.router.weight.data[:2] = 5
    assert module.route(torch.rand(N, D, dtype=torch.float64))[2].item() > 2


def test_router_noise_moves_choices_in_training_alone():
    module = experts(noise=10.0)
    x = torch.randn(N, D, dtype=torch.float64)
    assert not torch.equal(module.route(x)[0], module.route(x)[0])
    module.eval()
    assert torch.equal(module.route(x)[0], module.route(x)[0])


def test_dropout_keeps_the_mean_and_its_gradient_is_that_of_the_same_mask():
    module = experts(dropout=0.5, noise=0.0)
    x = torch.randn(1, D, dtype=torch.float64, requires_grad=True)

    def once(x, seed=3):
        torch.manual_seed(seed)
        return module(x)[0]

    assert torch.autograd.gradcheck(once, x)
    plain = module.eval()(x)[0]
    module.train()
    mean = torch.stack([once(x, seed) for seed in range(4000)]).mean(0)
    assert (mean - plain).abs().max() < 0.06 * plain.abs().max()


def test_the_drawn_rate_is_the_asked_one():
    torch.manual_seed(0)
    rate = drawn(torch.empty(999, 1001), 0.1).double().mean()
    assert abs(float(rate) - 0.1) < 4 * (0.09 / 999 / 1001) ** 0.5


def test_top_k_beyond_the_experts_is_refused():
    with pytest.raises(ValueError, match="top-6 of 5 experts"):
        Experts(D, WIDTH, 5, 6)


def models():
    yield MixtureLM(50, D, lambda: RotaryAttention(D, 2), [8, 9], E=4)
    yield MixtureLM(50, D, lambda: LatentAttention(D, 2, 4, 6, 2, 4, 6, True, 2.0), [8, 7], E=4)


@pytest.mark.parametrize("model", list(models()), ids=["baseline", "latent"])
def test_the_language_model_is_causal_and_loss_logits_and_cache_agree(model):
    model.double().eval()
    x = torch.randint(50, (3, 9))
    logits = model(x)
    total, n, _ = model.loss(x[:, :-1], x[:, 1:])
    assert n == 24
    expected = model(x[:, :-1]).flatten(0, 1)
    assert_close(total, F.cross_entropy(expected, x[:, 1:].flatten(), reduction="sum"))
    changed = x.clone()
    changed[:, 5] = (x[:, 5] + 1) % 50
    # Not to the bit: other rows share an expert's product.
    assert_close(model(changed)[:, :5], logits[:, :5], rtol=0, atol=1e-12)
    parts, cache = [], None
    for piece in x.split((4, 1, 4), 1):
        part, cache = model.decode(piece, cache)
        parts.append(part)
    assert_close(torch.cat(parts, 1), logits, rtol=0, atol=1e-12)
