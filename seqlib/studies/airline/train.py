"""Training all seeds of one airline arm at once.

Every random draw is a function of (seed, stream, epoch): initial weights, order of the windows and
dropout masks do not depend on the seeds beside it, and a checkpoint needs no generator state.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock

import numpy as np
import torch
from torch import Tensor
from torch.func import stack_module_state

from seqlib.models.forecast import AttentionForecaster
from seqlib.models.stacked import attention_forward, forward, mask_shapes
from seqlib.studies.airline.protocol import Windows
from seqlib.training import pack, unpack

ORDER, DROPOUT = 1, 2  # streams of a seed
_global_generator = Lock()  # stacks train in threads, torch's modules draw from one generator


def stream(seed: int, name: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, name, epoch))))


def initial_model(build: Callable, seed: int):
    """A module whose weights depend on the seed alone; torch's generator is left as it was."""
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@dataclass
class Stack:
    """K models in training: parameters, Adam's moments, curves of the epochs so far (epoch, K)."""

    params: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    curves: dict[str, list[np.ndarray]]
    epoch: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as plain tensors."""
        curves = {name: [list(map(float, epoch)) for epoch in values]
                  for name, values in self.curves.items()}
        return pack(self.params, self.optimizer, curves, epoch=self.epoch, seconds=self.seconds)

    def load(self, saved: dict[str, Tensor]) -> None:
        curves, numbers = unpack(saved, self.params, self.optimizer)
        self.curves = {name: [np.array(epoch, np.float32) for epoch in values]
                       for name, values in curves.items()}
        self.epoch, self.seconds = int(numbers["epoch"]), numbers["seconds"]


def draw_masks(shapes: dict, seeds: list[int], epoch: int, n: int,
               dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Masks (K, n, ...) of an epoch, zero or 1 / keep. 16-bit draws: exact to 1 / 65536."""
    if not shapes:
        return None
    generators = [stream(seed, DROPOUT, epoch) for seed in seeds]
    masks = {}
    for name, (rate, shape) in shapes.items():
        dropped, size = round(rate * 65536), n * int(np.prod(shape))
        # the generator's own 64-bit words, four draws each, whose order in a word does not matter
        drawn = np.stack([g.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
                          for g in generators])
        kept = torch.from_numpy((drawn >= dropped).reshape(len(seeds), n, *shape))
        masks[name] = kept.to(dtype).mul_(1 / (1 - dropped / 65536))
    return masks


def train_stack(build: Callable, windows: Windows, seeds: list[int], *, epochs: int, batch: int,
                lr: float, weight_decay: float, dtype: torch.dtype = torch.float32,
                device: torch.device | str = "cpu",
                resume: dict[str, Tensor] | None = None,
                checkpoint: Callable[[dict[str, Tensor]], None] | None = None, every: int = 50,
                stop: Event | None = None):
    """Train one arm for all `seeds`; returns the reference module and its trained Stack.

    `resume` takes what `checkpoint` got every `every` epochs; `stop` raises KeyboardInterrupt.

    Adam with L2 weight decay on the mean squared error, as published. Of an epoch, `train_loss` is
    the mean over its windows in training, `val_loss` over the validation windows after it.
    """
    modules = [initial_model(build, seed).to(dtype) for seed in seeds]
    model = modules[0]
    params = {k: v.detach().to(device, copy=True).requires_grad_()
              for k, v in stack_module_state(modules)[0].items()}
    optimizer = torch.optim.Adam(params.values(), lr=lr, weight_decay=weight_decay, fused=True)
    stack = Stack(params, optimizer, {"train_loss": [], "val_loss": []})
    if resume is not None:
        stack.load(resume)
    x, y = (torch.tensor(v["train"], dtype=dtype, device=device)
            for v in (windows.x, windows.target))
    x_val, y_val = (torch.tensor(v["validation"], dtype=dtype, device=device)
                    for v in (windows.x, windows.target))
    x_val, n, shapes = x_val.expand(len(seeds), -1, -1), len(x), mask_shapes(model, x.shape[1])
    while stack.epoch < epochs:
        started = time.perf_counter()
        order = torch.from_numpy(np.stack([stream(seed, ORDER, stack.epoch).permutation(n)
                                           for seed in seeds]))
        order, masks = order.to(device), draw_masks(shapes, seeds, stack.epoch, n, dtype)
        xs, ys, masks = x[order], y[order], masks and {k: v.to(device) for k, v in masks.items()}
        squared = torch.zeros(len(seeds), dtype=dtype, device=device)
        for i in range(0, n, batch):
            part = slice(i, i + batch)
            now = masks and {k: v[:, part] for k, v in masks.items()}
            error = (forward(model, params, xs[:, part], now) - ys[:, part]).square()
            optimizer.zero_grad()
            error.mean(1).sum().backward()  # no shared weight: each seed's gradient is its own
            optimizer.step()
            squared += error.detach().sum(1)
        with torch.no_grad():
            val = (forward(model, params, x_val) - y_val).square().mean(1)
        stack.curves["train_loss"].append((squared / n).cpu().numpy())
        stack.curves["val_loss"].append(val.cpu().numpy())
        stack.epoch += 1
        stack.seconds += time.perf_counter() - started
        if checkpoint and stack.epoch % every == 0 and stack.epoch < epochs:
            checkpoint(stack.tensors())
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
    return model, stack


def predict(model, stack: Stack, x: np.ndarray, keep: dict | None = None) -> np.ndarray:
    """Standardised predictions (K, n) for windows x (n, T); `keep` as in `attention_forward`."""
    bias = stack.params["head.bias"]
    xs = torch.tensor(x, dtype=bias.dtype, device=bias.device).expand(len(bias), -1, -1)
    with torch.no_grad():
        if keep is not None and isinstance(model, AttentionForecaster):
            return attention_forward(model, stack.params, xs, None, keep).cpu().numpy()
        return forward(model, stack.params, xs).cpu().numpy()
