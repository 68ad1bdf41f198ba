"""Latent and rotary attention against Hugging Face's modules, the cache against the full pass."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

from seqlib.models.latent import LatentAttention, RotaryAttention, attend

D, H, T = 48, 4, 11
WIDTHS = [dict(nope=0, rope=8, v=12), dict(nope=64, rope=16, v=8), dict(nope=4, rope=8, v=12)]


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data.copy_(drawn / p.shape[-1] ** 0.5)
    return module.double().eval()


def theirs(ours: LatentAttention, q_rank, interleave: bool):
    """Hugging Face's module with our weights, rotary rows permuted if its rotation interleaves."""
    config = DeepseekV3Config(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, q_lora_rank=q_rank,
        kv_lora_rank=ours.kv_rank, qk_rope_head_dim=ours.rope, qk_nope_head_dim=ours.nope,
        v_head_dim=ours.v, attention_bias=ours.out.bias is not None,
        rope_scaling={"rope_type": "linear", "factor": ours.factor}, rope_interleave=interleave,
        attn_implementation="eager")
    theirs = deepseek.DeepseekV3Attention(config, 0).double().eval()
    rotary = torch.arange(ours.rope)
    if interleave:
        rotary = rotary.view(2, -1).T.flatten()
    head = torch.cat((torch.arange(ours.nope), ours.nope + rotary))
    rows = torch.cat([h * (ours.nope + ours.rope) + head for h in range(H)])
    down = torch.cat((torch.arange(ours.kv_rank), ours.kv_rank + rotary))
    weights = {"o_proj.weight": ours.out.weight,
               "kv_a_layernorm.weight": ours.kv_norm.weight,
               "kv_b_proj.weight": ours.kv_up.weight,
               "kv_a_proj_with_mqa.weight": ours.kv_down.weight[down]}
    if q_rank is None:
        weights["q_proj.weight"] = ours.q_up.weight[rows]
    else:
        weights |= {"q_a_proj.weight": ours.q_down.weight,
                    "q_a_layernorm.weight": ours.q_norm.weight,
                    "q_b_proj.weight": ours.q_up.weight[rows]}
    if ours.out.bias is not None:
        weights |= {"o_proj.bias": ours.out.bias,
                    "kv_a_proj_with_mqa.bias": ours.kv_down.bias[down]}
        if q_rank is not None:
            weights["q_a_proj.bias"] = ours.q_down.bias
    theirs.load_state_dict(weights)
    return theirs, deepseek.DeepseekV3RotaryEmbedding(config).double()


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("q_rank", [None, 10])
@pytest.mark.parametrize("widths", WIDTHS, ids=lambda w: f"nope{w['nope']}")
def test_it_equals_hugging_faces_after_copying_weights(widths, q_rank, bias, factor, interleave):
    ours = randomised(LatentAttention(D, H, q_rank, 14, **widths, bias=bias, factor=factor))
    module, rotary = theirs(ours, q_rank, interleave)
    x = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cos, sin = rotary(x, torch.arange(T)[None])
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    expected = module(x, (cos.double(), sin.double()), mask)[0]
    assert_close(ours(x), expected, rtol=0, atol=2e-6)  # Hugging Face takes its angles in float32


def arms():
    full = [LatentAttention(D, H, None, None, nope=4, rope=8, v=12),
            LatentAttention(D, H, 10, None, nope=0, rope=8, v=12, bias=True)]
    latent = [LatentAttention(D, H, q, 14, **widths, bias=True, factor=1.5)
              for widths in WIDTHS for q in (None, 10)]
    return [RotaryAttention(D, H), *full, *latent]


@pytest.mark.parametrize("module", arms(), ids=range(len(arms())))
def test_decoding_from_the_cache_equals_the_full_pass_and_keeps_what_it_promises(module):
    module = randomised(module)
    x = torch.randn(2, T, D, dtype=torch.float64)
    parts, cache = [], None
    for piece in x.split((5, 1, 2, 3), 1):
        y, cache = module.decode(piece, cache)
        parts.append(y)
    assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-12)
    assert sum(part.numel() for part in cache) == 2 * T * module.cached_per_token


@pytest.mark.parametrize("module", arms(), ids=range(len(arms())))
def test_a_later_token_changes_no_earlier_output_bit(module):
    module = randomised(module).float()
    x = torch.randn(1, T, D)
    changed = x.clone()
    changed[:, 7:] += 1
    assert torch.equal(module(x)[:, :7], module(changed)[:, :7])
    assert not torch.equal(module(x)[:, 7:], module(changed)[:, 7:])


def test_scores_depend_on_the_distance_alone_and_factors_stretch_it():
    for factor in (1.0, 2.0):
        module = randomised(LatentAttention(D, H, None, 14, 0, 8, 12, factor=factor))
        x = torch.randn(1, T, D, dtype=torch.float64)
        scores = [module.queries(x, start)[1] @ module.latents(x, start)[1].unsqueeze(1).mT
                  for start in (0, 100)]
        assert_close(*scores, rtol=0, atol=1e-12)
    doubled = x.repeat_interleave(2, 1)
    stretched = module.queries(doubled)[1][:, :, ::2]  # every second position at factor 2
    module.factor = 1.0
    assert_close(stretched, module.queries(x)[1], rtol=0, atol=1e-12)


def test_the_baselines_heads_are_turned_by_their_positions():
    """Against multiplication by exp(i t w) of the pairs (d, d + width / 2)."""
    module, width = randomised(RotaryAttention(D, H)), D // H
    x = torch.randn(2, T, D, dtype=torch.float64)
    q, k, v = module.heads(x)
    plain = module.qkv(x).view(2, T, 3, H, width).permute(2, 0, 3, 1, 4)
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    for turned, flat in ((q, plain[0]), (k, plain[1])):
        pairs = torch.complex(flat[..., : width // 2], flat[..., width // 2 :])
        expected = pairs * torch.polar(torch.ones_like(angle), angle)
        assert_close(turned, torch.cat((expected.real, expected.imag), -1), rtol=0, atol=1e-6)
    assert torch.equal(v, plain[2])
    later = [module.heads(x, 50)[i] for i in (0, 1)]
    assert_close(q @ k.mT, later[0] @ later[1].mT, rtol=0, atol=1e-10)


def test_the_baseline_equals_sdpa_on_rotated_heads_and_filling_up_changes_nothing():
    module = randomised(RotaryAttention(D, H))
    q, k, v = module.heads(torch.randn(2, T, D, dtype=torch.float64))
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    for width in (4, 12):
        narrow = v[..., :width]
        expected = (q @ k.mT * 12**-0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ narrow
        assert_close(attend(q, k, narrow, 12**-0.5), expected, rtol=0, atol=1e-12)


def test_odd_widths_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="rotary width 7 is odd"):
        LatentAttention(D, H, None, 14, 0, 7, 12)
    with pytest.raises(ValueError, match="50 channels do not make 4 heads"):
        RotaryAttention(50, 4)
