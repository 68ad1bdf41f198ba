"""A training step of LoRA and of full fine-tuning, against the plain loop over peft, transformers
and PyTorch's default AdamW.

Both have a random model of SmolLM2-135M's configuration and the same tokens. The plain loop has the
C library's usual treatment of freed memory, with which it is faster than with ours.
"""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from seqlib.allocator import keep_freed_memory
from seqlib.bench import Case
from seqlib.studies.gpt2.adapters import prepare
from seqlib.studies.gpt2.specs import ALPHA, DECAY, DROPOUT, RANK
from seqlib.studies.gpt2.train import State

B, T, LR = 8, 128, 3e-4


def config() -> LlamaConfig:
    """SmolLM2-135M's (arXiv 2502.02737, table of the 135M model)."""
    return LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rope_theta=100_000.0, tie_word_embeddings=True)


def arm(name: str):
    """A random model as an arm trains it."""
    model = AutoModelForCausalLM.from_config(config())
    return prepare(model, name, r=RANK, alpha=ALPHA, dropout=DROPOUT).train()


def cases(name: str) -> list[Case]:
    tokens = torch.randint(config().vocab_size, (B, T + 1))
    state, plain = State.start(arm(name), LR, steps=10**6), arm(name)
    trained = [p for p in plain.parameters() if p.requires_grad]
    default = torch.optim.AdamW(trained, lr=LR, weight_decay=DECAY)
    state.scored.train()

    def ours():
        keep_freed_memory()
        loss = state.scored(tokens) / (B * T)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()

    def reference():
        keep_freed_memory(False)
        loss = plain(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
        default.zero_grad()
        loss.backward()
        default.step()

    # the embedding counts once, as the head
    matrices = sum(p.numel() for p in plain.parameters() if p.ndim == 2)
    flop = (4 if name == "lora" else 6) * matrices * B * T
    return [Case(f"{name}-step", ours, reference, flop=flop)]


def lora_step() -> list[Case]:
    return cases("lora")


def full_step() -> list[Case]:
    return cases("full")
