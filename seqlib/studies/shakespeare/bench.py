"""Additive scores against their formula, and whole training steps against plain loops: batches
stacked item by item, PyTorch's default optimizer, the formula as the papers print it, or Hugging
Face's GPT-2 of the same size. `seqlib bench` runs ours and the reference in turns."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib.allocator import keep_freed_memory
from seqlib.bench import Case
from seqlib.models import additive
from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM
from seqlib.provenance import peak_rss_mb
from seqlib.studies.shakespeare.corpus import gather
from seqlib.studies.shakespeare.train import State, train

V, B, T, STEPS = 65, 32, 128, 5  # steps a timed call


def additive_call(kind: str, B: int = B, T: int = T, C: int = 256) -> Callable[[], object]:
    """Causal additive scores forward and backward on fixed inputs, `ours` or by the plain broadcast
    formula."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(B, T, C, generator=generator, requires_grad=True) for _ in range(2))
    v = torch.randn(C, generator=generator, requires_grad=True)
    upstream = torch.randn(B, T, T, generator=generator).tril()
    future = torch.ones(T, T, dtype=torch.bool).triu(1)

    def plain(q, k, v):
        return (torch.tanh(q[:, :, None] + k[:, None]) @ v).masked_fill(future, float("-inf"))

    function = additive.additive_scores if kind == "ours" else plain
    return lambda: torch.autograd.grad(function(q, k, v), (q, k, v), upstream)


def extra_memory(kind: str) -> float:
    """Peak memory that one full-size call adds to a small one, MiB; run it in a fresh process."""
    additive_call(kind, B=2, T=16)()
    call, before = additive_call(kind), peak_rss_mb()
    call()
    return peak_rss_mb() - before


def additive_memory() -> dict[str, float]:
    figures = {}
    for kind in ("ours", "reference"):
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            figures[f"{kind}_extra_mb"] = round(executor.submit(extra_memory, kind).result(), 1)
    ratio = figures["reference_extra_mb"] / figures["ours_extra_mb"]
    return figures | {"memory_ratio": round(ratio, 1)}


def additive_scores() -> list[Case]:
    return [Case("additive-scores", additive_call("ours"), additive_call("reference"),
                 memory=additive_memory)]


class PlainAttentionLM(nn.Module):
    """The LSTM with additive attention as its formula reads, over a (B, T, T, C) array."""

    def __init__(self, C: int = 256):
        super().__init__()
        self.embed, self.cell = nn.Embedding(V, 128), nn.LSTM(128, C, batch_first=True)
        self.query, self.key = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)
        self.score = nn.Linear(C, 1, bias=False)
        self.head = nn.Linear(2 * C, V)

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(self.embed(x))[0]
        pairs = torch.tanh(self.query(h)[:, :, None] + self.key(h)[:, None])
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = self.score(pairs).squeeze(-1).masked_fill(future, float("-inf"))
        return self.head(torch.cat((h, scores.softmax(-1) @ h), -1))


def plain_loop(model: nn.Module, tokens: Tensor, loss_of, optimizer: type, B: int, T: int):
    """A call that takes STEPS steps as a tutorial would write them."""
    optimiser = optimizer(model.parameters(), lr=3e-4)

    def steps():
        for _ in range(STEPS):
            starts = torch.randint(len(tokens) - T - 1, (B,))
            x = torch.stack([tokens[i : i + T] for i in starts])
            y = torch.stack([tokens[i + 1 : i + T + 1] for i in starts])
            optimiser.zero_grad()
            loss_of(model, x, y).backward()
            optimiser.step()

    return steps


def our_loop(model: nn.Module, tokens: Tensor, B: int, T: int):
    state, last = State.start(model, 3e-4), len(tokens) - T - 1
    return lambda: train(state, lambda step: gather(tokens, torch.randint(last, (B,)), T),
                         state.step + STEPS, 10**9, lambda model: 0.0)


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x).view(-1, V), y.view(-1))


def case(name: str, model, reference, loss_of=cross_entropy, optimizer=torch.optim.Adam,
         B: int = B, T: int = T) -> Case:
    """Steps of B windows of T characters; `flop_per_token` of the model is ours."""
    keep_freed_memory()  # for the whole process, so the reference gains as well
    tokens = torch.randint(V, (100_000,), generator=torch.Generator().manual_seed(0))
    ours = our_loop(model, tokens, B, T)
    plain = plain_loop(reference, tokens, loss_of, optimizer, B, T)
    return Case(name, ours, plain, STEPS, STEPS, model.flop_per_token(T) * B * T)


def additive_step() -> list[Case]:
    return [case("additive-step", RecurrentLM(V, attention="causal"), PlainAttentionLM())]


def lstm_step() -> list[Case]:
    """One model in both loops: `nn.LSTM` between an embedding and a head."""
    return [case("lstm-step", RecurrentLM(V), RecurrentLM(V))]


def transformer(name: str, C: int, B: int = B, T: int = T, **changed) -> Case:
    """Four layers, four heads, C channels, against Hugging Face's GPT-2 in a plain loop, without
    dropout and with `changed` settings. It has biases and ties its head, we have neither."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def loss_of(model, x, y):
        return cross_entropy(lambda x: model(input_ids=x).logits, x, y)

    undropped = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(vocab_size=V, n_positions=T, n_embd=C, n_layer=4, n_head=4, bos_token_id=0,
                        eos_token_id=0, **undropped, **changed)
    return case(name, TransformerLM(V, T, C, 4, 4, 4 * C), GPT2LMHeadModel(config), loss_of,
                torch.optim.AdamW, B, T)


def transformer_step() -> list[Case]:
    """Against GPT-2 as its configuration comes (tanh GELU, cache), and `-alike`, with our
    activation and no cache."""
    alike = {"activation_function": "gelu", "use_cache": False}
    return [transformer(f"transformer-step-{C}{name}", C, **changed)
            for name, changed in (("", {}), ("-alike", alike)) for C in (128, 256)]
