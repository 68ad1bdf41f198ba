"""Multi-query associative recall (Arora et al., Zoology, arXiv 2312.04927, section 3): pairs of a key and a value, then
each key once more, at which the model has to give its value. It tests what a fixed-size state cannot hold.

As there: keys and values have vocabularies of their own, and gaps between a pair and its query follow a power law. Ours is
smaller (32 keys and values against a vocabulary of 8,192), and what stands between queries is a filler token.
"""

import time

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from seqlib.allocator import keep_freed_memory
from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM
from seqlib.provenance import peak_rss_mb, provenance
from seqlib.record import Record
from seqlib.store import write_atomically
from seqlib.studies.shakespeare.run import checkpoint_path, finite, grouped, resume, timing
from seqlib.studies.shakespeare.train import State, initial, train

ARMS = ("lstm", "gru", "additive", "transformer", "transformer-rope")
BATCH, RATE = 64, 1e-3
KEYS = VALUES = 16
FILLER = KEYS + VALUES
V = KEYS + VALUES + 1
MODULES = tuple(f"seqlib.models.{m}" for m in ("additive", "recurrent", "transformer")) + tuple(
    f"seqlib.studies.shakespeare.{m}" for m in ("train", "run", "recall"))
POWER = 0.01  # as in the paper's code: most queries soon, some late


def pairs_of(T: int) -> int:
    """Pairs in a sequence of T tokens."""
    return T // 8


def batch(seed: int, step: int, B: int, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets (B, T), and which targets count (those at the queries): a pure function of seed and step."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 2, step))))
    D = pairs_of(T)
    slots = (T - 2 * D) // 2  # a query stands at an even distance behind the pairs; it is there that its value is asked for
    keys = generator.random((B, KEYS)).argsort(1)[:, :D]
    values = KEYS + generator.integers(0, VALUES, (B, D))
    x = np.full((B, T), FILLER)
    x[:, 0 : 2 * D : 2], x[:, 1 : 2 * D : 2] = keys, values
    weight = POWER * np.arange(1, slots + 1) ** (POWER - 1.0)
    noise = -np.log(generator.random((B, slots))) / weight  # smallest first: a draw without replacement by weight
    at = 2 * D + 2 * noise.argsort(1)[:, :D]
    y, counted = np.zeros((B, T), dtype=np.int64), np.zeros((B, T), dtype=bool)
    np.put_along_axis(x, at, keys, 1)
    np.put_along_axis(y, at, values, 1)
    np.put_along_axis(counted, at, True, 1)
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(counted)


@torch.no_grad()
def accuracy(model, seed: int, T: int, batches: int = 8, B: int = 64) -> float:
    """Share of right answers on sequences that training never drew."""
    right = asked = 0
    for i in range(batches):
        x, y, counted = batch(seed + 2**31, i, B, T)
        right += int((model(x).argmax(-1) == y)[counted].sum())
        asked += int(counted.sum())
    return right / asked


def build(arm: str, T: int, C: int) -> nn.Module:
    """C channels wide: one recurrent layer, or two blocks of one head (recall needs two: one to join a value with the key
    before it, one to look the key up)."""
    if arm.startswith("transformer"):
        return TransformerLM(V, T, C=C, L=2, H=1, F_=2 * C, positions="rotary" if arm == "transformer-rope" else "learned")
    return RecurrentLM(V, nn.GRU if arm == "gru" else nn.LSTM, embedding=C, C=C,
                       attention="causal" if arm == "additive" else None)


def run(spec) -> Record:
    """Train and test one spec. Curve `error_rate` is taken on fresh sequences at `val_steps`."""
    keep_freed_memory()
    began, clock, T = time.time(), time.perf_counter(), spec.context
    path, model = checkpoint_path(spec, MODULES), initial(lambda: build(spec.arm, T, spec.width), spec.seed)
    state, resumed = resume(State.start(model, spec.lr), path)
    finite(spec, lambda: train(state, lambda step: batch(spec.seed, step, spec.batch, T), spec.epochs * spec.epoch_steps,
                               spec.epoch_steps, lambda model: 1 - accuracy(model, spec.seed, T, batches=2),
                               lambda tensors: write_atomically(path, save(tensors))))
    path.unlink(missing_ok=True)
    metrics = {"recall_accuracy": accuracy(state.model, spec.seed, T), "pairs": pairs_of(T)}
    metrics |= timing(state, state.model.flop_per_token(T), spec.batch * T) | {"peak_rss_mb": peak_rss_mb()}
    curves = {"train_loss": grouped(state.train_loss, 50), "val_steps": state.val_steps,
              "error_rate": state.val_loss}
    source = provenance(MODULES, "", data="mqar, drawn from the seed", started_unix=round(began), resumed=resumed,
                        wall_seconds=round(time.perf_counter() - clock, 3))
    return Record.of(spec, metrics, curves, source)
