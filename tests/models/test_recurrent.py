import pytest
import torch
from torch import nn
from torch.testing import assert_close

from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM
from seqlib.studies.shakespeare.bench import PlainAttentionLM

V, T = 65, 24
CAUSAL = {
    "lstm": lambda: RecurrentLM(V, C=32),
    "gru": lambda: RecurrentLM(V, nn.GRU, C=32),
    "additive": lambda: RecurrentLM(V, C=32, attention="causal"),
    "learned": lambda: TransformerLM(V, T, C=32, L=2, H=4, F_=48),
    "rotary": lambda: TransformerLM(V, T, C=32, L=2, H=4, F_=48, positions="rotary"),
}


def tokens(batch=3, length=T, seed=0):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def build(name):
    torch.manual_seed(0)
    model = CAUSAL[name]().double()
    for p in model.parameters():  # far from the start, so that attention is not uniform
        p.data.mul_(2)
    return model


@pytest.mark.parametrize("name", CAUSAL)
def test_later_tokens_leave_earlier_outputs_bit_identical(name):
    model, x = build(name), tokens()
    changed = x.clone()
    changed[:, 10:] = tokens(seed=1)[:, 10:]
    assert torch.equal(model(x)[:, :10], model(changed)[:, :10])
    assert not torch.equal(model(x)[:, 10:], model(changed)[:, 10:])


@pytest.mark.parametrize("name", CAUSAL)
def test_decoding_with_a_cache_equals_the_full_pass(name):
    model, x, keep = build(name), tokens(), {}
    full = model(x, keep)
    logits, cache = model.decode(x[:, :5])
    parts = [logits]
    one_by_one = (slice(i, i + 1) for i in range(13, T))
    for at in (slice(5, 6), slice(6, 13), *one_by_one):  # one token, and several
        logits, cache = model.decode(x[:, at], cache)
        parts.append(logits)
    assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-11)
    if "weights" in keep:
        assert_close(cache["weights"][:, :, -1], keep["weights"][:, :, -1], rtol=0, atol=1e-12)
        assert torch.allclose(keep["weights"].sum(-1), torch.ones((), dtype=torch.double))


def test_additive_attention_equals_its_formula_with_gradients():
    torch.manual_seed(0)
    plain, x = PlainAttentionLM(C=32).double(), tokens()
    ours = RecurrentLM(V, C=32, attention="causal").double()
    weights = plain.state_dict()
    ours.load_state_dict({"score": weights.pop("score.weight")[0], **weights})
    assert_close(ours(x), plain(x), rtol=0, atol=1e-12)
    for model in (ours, plain):
        model(x).square().sum().backward()
    theirs = dict(plain.named_parameters())
    for name, p in ours.named_parameters():
        other = theirs["score.weight"].grad[0] if name == "score" else theirs[name].grad
        assert_close(p.grad, other, rtol=1e-9, atol=1e-9)


def test_arithmetic_of_a_recurrent_model_counted_by_hand():
    lstm, additive = RecurrentLM(V), RecurrentLM(V, attention="causal")
    weights = 4 * 256 * (128 + 256) + 256 * V
    assert lstm.flop_per_token(128) == 3 * 2 * weights
    scores_and_mix = (4 + 2) * 256  # add, tanh, multiply, add; multiply, add
    more = 3 * (2 * (2 * 256 * 256 + 256 * V) + scores_and_mix * 129 / 2)
    assert additive.flop_per_token(128) - lstm.flop_per_token(128) == more


def test_without_a_mask_the_weights_reach_over_the_whole_window_and_the_future_leaks():
    torch.manual_seed(0)
    model, x, keep = RecurrentLM(V, C=32, attention="unmasked").double(), tokens(), {}
    logits = model(x, keep)
    h = model.cell(model.embed(x))[0]
    scores = torch.tanh(model.query(h)[:, :, None] + model.key(h)[:, None]) @ model.score
    assert_close(keep["weights"][:, 0], scores.softmax(-1), rtol=0, atol=1e-12)
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % V
    assert not torch.equal(model(changed)[:, 0], logits[:, 0])
