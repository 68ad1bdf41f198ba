import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from seqlib.models.transformer import TransformerLM, attention_weights, rotate, rotation

V, T, C, L, H, F_ = 65, 20, 32, 2, 4, 64


def tokens():
    return torch.randint(V, (3, T), generator=torch.Generator().manual_seed(0))


def ours(positions):
    torch.manual_seed(0)
    return TransformerLM(V, T, C, L, H, F_, positions).double()


def without_biases(model):
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data.zero_()
    return model.double().eval()


def copy_weights(pairs):
    for theirs, mine in pairs:
        theirs.weight.data = mine.weight.data


def test_with_learned_positions_it_is_gpt2_without_biases():
    model = ours("learned")
    config = GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=H, n_inner=F_,
        activation_function="gelu", tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    theirs = without_biases(GPT2LMHeadModel(config))
    copy_weights([(theirs.transformer.wte, model.embed), (theirs.transformer.wpe, model.position),
                  (theirs.transformer.ln_f, model.norm), (theirs.lm_head, model.head)])
    for block, mine in zip(theirs.transformer.h, model.blocks):
        copy_weights([(block.ln_1, mine.norm1), (block.ln_2, mine.norm2)])
        for layer, linear in ((block.attn.c_attn, mine.qkv), (block.attn.c_proj, mine.out),
                              (block.mlp.c_fc, mine.up), (block.mlp.c_proj, mine.down)):
            layer.weight.data = linear.weight.data.T
    assert_close(model(tokens()), theirs(input_ids=tokens()).logits, rtol=0, atol=1e-10)


def test_with_rotary_positions_it_is_gpt_neox_without_biases():
    model = ours("rotary")
    config = GPTNeoXConfig(
        vocab_size=V, max_position_embeddings=T, hidden_size=C, num_hidden_layers=L,
        num_attention_heads=H, intermediate_size=F_, hidden_act="gelu", rotary_pct=1.0,
        use_parallel_residual=False, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    theirs = without_biases(GPTNeoXForCausalLM(config))
    copy_weights([(theirs.gpt_neox.embed_in, model.embed), (theirs.embed_out, model.head),
                  (theirs.gpt_neox.final_layer_norm, model.norm)])
    for block, mine in zip(theirs.gpt_neox.layers, model.blocks):
        copy_weights([(block.input_layernorm, mine.norm1),
                      (block.post_attention_layernorm, mine.norm2),
                      (block.attention.dense, mine.out), (block.mlp.dense_h_to_4h, mine.up),
                      (block.mlp.dense_4h_to_h, mine.down)])
        qkv = mine.qkv.weight.data.view(3, H, C // H, C)  # theirs has q, k, v head by head
        block.attention.query_key_value.weight.data = qkv.transpose(0, 1).reshape(3 * C, C)
    # Their angles are single precision.
    assert_close(model(tokens()), theirs(input_ids=tokens()).logits, rtol=0, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    cos, sin = rotation(40, 8)
    scores = rotate(q.expand(40, 8), cos, sin) @ rotate(k.expand(40, 8), cos, sin).T
    for distance in (0, 1, 7, 30):
        along = scores.diagonal(-distance)
        assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-12)
    assert (scores[0, 0] - scores[5, 0]).abs() > 1e-3


def test_the_weights_shown_are_those_that_attention_uses():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, H, T, 8, dtype=torch.double, generator=generator) for _ in range(3))
    used = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_close(attention_weights(q, k) @ v, used, rtol=0, atol=1e-12)


def test_arithmetic_agrees_with_the_counter_of_torch():
    model = TransformerLM(V, T, C, L, H, F_)
    x = tokens()[:, :1]  # one token: causal attention and full attention are the same
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    # The backward pass is twice the forward pass.
    assert len(x) * model.flop_per_token(1) == 3 * counter.get_total_flops()
    # A further token looks at half a key more on average: two products of 2 C flop a key, in L
    # layers, forward and backward.
    assert model.flop_per_token(9) - model.flop_per_token(8) == 3 * L * 2 * 2 * C / 2


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="21 tokens exceed the context of 20"):
        ours("learned")(torch.zeros(1, T + 1, dtype=torch.long))
