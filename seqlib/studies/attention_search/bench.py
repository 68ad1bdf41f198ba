"""The mixture of experts and a whole training step of the search, against what a straightforward
program does: Hugging Face's eager attention, a loop over experts with boolean masks, whole logits
and PyTorch's default AdamW. Neither has the other's shortcuts; both draw the same dropout rates."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.allocator import keep_freed_memory
from seqlib.bench import Case
from seqlib.models.experts import Experts
from seqlib.studies.attention_search.arms import ARMS, PUBLISHED, make
from seqlib.studies.attention_search.run import DECAY, training_step

B, T, RATE, LR = 4, 256, 0.1, 1e-4


class MaskedExperts(nn.Module):
    """A loop over experts with boolean masks over the full batch; the router runs twice."""

    def __init__(self, D: int, F_: int, E: int, k: int):
        super().__init__()
        self.E, self.k, self.router = E, k, nn.Linear(D, E, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(D, F_, bias=False), nn.SiLU(), nn.Dropout(RATE),
                          nn.Linear(F_, D, bias=False)) for _ in range(E))

    def scores(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        return scores + 0.1 * torch.randn_like(scores)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top, chosen = self.scores(x).topk(self.k, -1)
        weights, out = top.softmax(-1), torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            mask = (chosen == e).any(-1)
            if mask.any():
                weight = (weights[mask] * (chosen[mask] == e)).sum(-1, keepdim=True)
                out[mask] += weight * expert(x[mask])
        share = F.one_hot(chosen, self.E).float().mean((0, 1, 2))
        return out, self.E * (share * self.scores(x).softmax(-1).mean((0, 1))).sum()


class PlainBlock(nn.Module):
    def __init__(self, config, layer: int):
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(PUBLISHED.D), nn.RMSNorm(PUBLISHED.D)
        self.attention, self.dropout = DeepseekV3Attention(config, layer), nn.Dropout(RATE)
        self.experts = MaskedExperts(PUBLISHED.D, PUBLISHED.F, PUBLISHED.E, PUBLISHED.k)

    def forward(self, x, angles, mask):
        x = x + self.dropout(self.attention(self.norm1(x), angles, mask)[0])
        y, balance = self.experts(self.norm2(x))
        return x + self.dropout(y), balance


class PlainModel(nn.Module):
    """The language model of an arm as Hugging Face's parts and the masked loop make it."""

    def __init__(self, arm: str):
        from transformers import DeepseekV3Config
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding

        super().__init__()
        at = ARMS[arm].attention
        config = DeepseekV3Config(
            hidden_size=PUBLISHED.D, num_attention_heads=PUBLISHED.H,
            num_key_value_heads=PUBLISHED.H, q_lora_rank=at.q_rank, kv_lora_rank=at.kv_rank,
            qk_rope_head_dim=at.rope, qk_nope_head_dim=at.nope, v_head_dim=at.v,
            attention_bias=at.bias, rope_scaling={"rope_type": "linear", "factor": at.factor},
            rope_interleave=False, attn_implementation="eager")
        self.embed, self.dropout = nn.Embedding(PUBLISHED.V, PUBLISHED.D), nn.Dropout(RATE)
        self.rotary, self.norm = DeepseekV3RotaryEmbedding(config), nn.RMSNorm(PUBLISHED.D)
        self.blocks = nn.ModuleList(PlainBlock(config, i) for i in range(PUBLISHED.L))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.dropout(self.embed(x) * PUBLISHED.D**0.5)
        angles = self.rotary(h, torch.arange(x.shape[1])[None])
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        mask = mask[None, None].expand(len(x), 1, -1, -1)
        balance = 0.0
        for block in self.blocks:
            h, own = block(h, angles, mask)
            balance = balance + own
        logits = self.norm(h) @ self.embed.weight.T
        return F.cross_entropy(logits.view(-1, PUBLISHED.V), y.flatten()) + 0.01 * balance


def moe_layer() -> list[Case]:
    """Forward and backward of one mixture, 1,024 tokens."""
    keep_freed_memory()  # for the whole process, so the reference gains as well
    shape = (PUBLISHED.D, PUBLISHED.F, PUBLISHED.E, PUBLISHED.k)
    x, upstream = torch.randn(B, T, PUBLISHED.D), torch.randn(B, T, PUBLISHED.D)

    def call(module):
        def both():
            own = x.clone().requires_grad_()
            module.zero_grad()
            y, balance = module(own)
            torch.autograd.backward((y, balance), (upstream, torch.tensor(0.01)))
        return both

    arithmetic = 3 * 2 * PUBLISHED.k * B * T * 2 * PUBLISHED.D * PUBLISHED.F
    ours, reference = call(Experts(*shape, dropout=RATE)), call(MaskedExperts(*shape))
    return [Case("moe-layer", ours, reference, flop=arithmetic)]


def search_step() -> list[Case]:
    """A training step of `rope_small` at the published size."""
    keep_freed_memory()
    model, plain = make("rope_small", PUBLISHED), PlainModel("rope_small")
    fused = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    default = torch.optim.AdamW(plain.parameters(), lr=LR, weight_decay=DECAY)
    tokens = torch.randint(PUBLISHED.V, (B, T + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def ours():
        training_step(model, fused, x, y)

    def reference():
        loss = plain.loss(x, y)
        default.zero_grad()
        loss.backward()
        default.step()

    return [Case("search-step", ours, reference, flop=model.flop_per_token(T) * B * T)]
