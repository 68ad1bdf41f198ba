import pytest
import torch
from torch.testing import assert_close
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

from seqlib.models.forecast import (
    AttentionForecaster,
    RecurrentForecaster,
    rotary_angles,
    rotate_pairs,
    sinusoid_table,
)

BUILD = {"lstm": lambda: RecurrentForecaster("lstm"), "gru": lambda: RecurrentForecaster("gru"),
         **{p: (lambda p=p: AttentionForecaster(p)) for p in ("rope", "sinusoidal", "learned")}}


@pytest.mark.parametrize("kind", BUILD)
def test_a_later_month_changes_no_earlier_state(kind):
    torch.manual_seed(0)
    model, x = BUILD[kind]().eval(), torch.randn(3, 12)
    before = model.states(x)
    for t in (1, 6, 11):
        changed = x.clone()
        changed[:, t] += 5
        after = model.states(changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.equal(before[:, t:], after[:, t:])


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(1)
    cos, sin = rotary_angles(12, 16)
    q, k = (torch.randn(16, dtype=torch.float64).expand(12, 16) for _ in range(2))
    scores = rotate_pairs(q, cos, sin) @ rotate_pairs(k, cos, sin).T
    for distance in range(-11, 12):
        along = scores.diagonal(distance)
        assert_close(along, along[0].expand_as(along), rtol=1e-12, atol=1e-12)


def test_rotation_equals_the_interleaved_one_of_gpt_j():
    x = torch.randn(2, 12, 4, 16)  # (B, T, H, D)
    sin, cos = create_sinusoidal_positions(12, 16)[None].expand(2, -1, -1).chunk(2, -1)
    ours = rotate_pairs(x.transpose(1, 2), *rotary_angles(12, 16)).transpose(1, 2)
    assert_close(ours, apply_rotary_pos_emb(x, sin, cos), rtol=1e-5, atol=1e-5)


def test_sinusoids_by_their_formula():
    table = sinusoid_table(12, 64)
    for t, c in ((0, 0), (3, 10), (11, 63)):
        angle = torch.tensor(t / 10000 ** (2 * (c // 2) / 64), dtype=torch.float64)
        expected = angle.cos() if c % 2 else angle.sin()
        assert table[t, c].item() == pytest.approx(expected.item(), abs=1e-6)


def test_rotary_attention_without_rotation_equals_torch_s(monkeypatch):
    torch.manual_seed(2)
    ours = AttentionForecaster("rope").attention.eval()
    reference = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    ours.in_proj.weight.data = reference.in_proj_weight.data
    ours.in_proj.bias.data = reference.in_proj_bias.data
    ours.out_proj.load_state_dict(reference.out_proj.state_dict())
    monkeypatch.setattr("seqlib.models.forecast.rotary_angles",
                        lambda T, D: (torch.ones(T, D // 2), torch.zeros(T, D // 2)))
    x = torch.randn(2, 12, 64)
    future = torch.ones(12, 12, dtype=torch.bool).triu(1)
    expected = reference(x, x, x, attn_mask=future, average_attn_weights=False)
    for mine, theirs in zip(ours(x), expected):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_an_intervention_has_no_plain_forward_pass():
    with pytest.raises(ValueError, match="stacked"):
        AttentionForecaster("rope", bias=torch.zeros(12))(torch.zeros(1, 12))
