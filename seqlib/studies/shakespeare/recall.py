"""Multi-query associative recall (Arora et al., Zoology, arXiv 2312.04927, section 3): pairs of a
key and a value, then each key once more, at which the model has to give its value. It tests what
a fixed-size state cannot hold.

As there: keys and values have vocabularies of their own, and gaps between a pair and its query
follow a power law. Ours is smaller (32 keys and values against a vocabulary of 8,192), and what
stands between queries is a filler token.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from seqlib import devices
from seqlib.studies.shakespeare.train import State, grouped, timing, train

KEYS = VALUES = 16
FILLER = KEYS + VALUES
V = KEYS + VALUES + 1
POWER = 0.01  # as in the paper's code: most queries soon, some late
GROUP = 50  # steps that share a point of the training curve


def pairs_of(T: int) -> int:
    """Pairs in a sequence of T tokens."""
    return T // 8


def batch(seed: int, step: int, B: int, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets (B, T), and which targets count (at queries), from seed and step alone."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 2, step))))
    D = pairs_of(T)
    slots = (T - 2 * D) // 2  # queries stand at even distances behind the pairs
    keys = generator.random((B, KEYS)).argsort(1)[:, :D]
    values = KEYS + generator.integers(0, VALUES, (B, D))
    x = np.full((B, T), FILLER)
    x[:, 0 : 2 * D : 2], x[:, 1 : 2 * D : 2] = keys, values
    weight = POWER * np.arange(1, slots + 1) ** (POWER - 1.0)
    # smallest first: a draw without replacement by weight
    noise = -np.log(generator.random((B, slots))) / weight
    at = 2 * D + 2 * noise.argsort(1)[:, :D]
    y, counted = np.zeros((B, T), dtype=np.int64), np.zeros((B, T), dtype=bool)
    np.put_along_axis(x, at, keys, 1)
    np.put_along_axis(y, at, values, 1)
    np.put_along_axis(counted, at, True, 1)
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(counted)


@torch.no_grad()
def accuracy(model: nn.Module, seed: int, T: int, batches: int = 8, B: int = 64) -> float:
    """Share of right answers on sequences that training never drew."""
    right, asked, device = 0, 0, devices.of(model)
    for i in range(batches):
        x, y, counted = (part.to(device) for part in batch(seed + 2**31, i, B, T))
        right += int((model(x).argmax(-1) == y)[counted].sum())
        asked += int(counted.sum())
    return right / asked


def run(spec, state: State, save: Callable[[dict[str, Tensor]], None]) -> tuple[dict, dict]:
    """Train and test one spec. Curve `error_rate` is taken on fresh sequences at `val_steps`."""
    T = spec.context
    train(state, lambda step: batch(spec.seed, step, spec.batch, T),
          spec.epochs * spec.epoch_steps, spec.epoch_steps,
          lambda model: 1 - accuracy(model, spec.seed, T, batches=2), save)
    metrics = {"recall_accuracy": accuracy(state.model, spec.seed, T), "pairs": pairs_of(T)}
    curves = {"train_loss": grouped(state.curves["train_loss"], GROUP),
              "val_steps": state.curves["val_steps"], "error_rate": state.curves["val_loss"]}
    return metrics | timing(state, T, spec.batch), curves
