"""The training loop of every arm: Adam and cross-entropy in nats a character, as published; no
schedule and no dropout, which the document does not mention."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib import devices
from seqlib.training import pack, unpack

GROUP = 10  # steps that share a point of the training curve
CURVES = ("train_loss", "step_seconds", "step_cpu_seconds", "val_steps", "val_loss")


@dataclass
class State:
    """A model in training, its optimizer and its curves: `train_loss` and seconds have an entry a
    step, `val_steps` and `val_loss` an entry an evaluation."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    curves: dict[str, list]

    @classmethod
    def start(cls, model: nn.Module, lr: float, saved: dict[str, Tensor] | None = None) -> "State":
        """A training at its first step, or where `saved` (of `tensors`) left it."""
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        curves: dict[str, list] = {name: [] for name in CURVES}
        if saved is not None:
            curves, _ = unpack(saved, dict(model.named_parameters()), optimizer)
            curves["val_steps"] = [int(step) for step in curves["val_steps"]]
        return cls(model, optimizer, curves)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.curves["train_loss"])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        return pack(dict(self.model.named_parameters()), self.optimizer, self.curves)


def loss_of(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> tuple[Tensor, int]:
    """Sum of the cross-entropies in nats and their number, from logits (B, T, V) and targets
    (B, T); `counted` (B, T) picks the targets that count."""
    if counted is not None:
        logits, targets = logits[counted], targets[counted]
    total = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    return total, targets.numel()


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer,
                  x: Tensor, y: Tensor, counted: Tensor | None = None) -> float:
    """One step on the mean cross-entropy of a batch, which is returned, in nats."""
    total, n = loss_of(model(x), y, counted)
    loss = total / n
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def train(state: State, batches: Callable[[int], tuple], steps: int, evaluate_every: int,
          evaluate: Callable[[nn.Module], float],
          save: Callable[[dict[str, Tensor]], None] | None = None) -> State:
    """Train until `steps`, where the model lies; `batches(i)` gives inputs, targets and what counts
    of step i, a pure function of i.

    Every `evaluate_every` steps the validation loss is taken (its time does not count) and `save`
    gets what a resumed run needs. Raises FloatingPointError when the loss is not finite.
    """
    curves, device = state.curves, devices.of(state.model)
    while state.step < steps:
        started, cpu = time.perf_counter(), time.process_time()
        batch = [part.to(device) for part in batches(state.step)]
        loss = training_step(state.model, state.optimizer, *batch)
        curves["train_loss"].append(loss)
        curves["step_seconds"].append(time.perf_counter() - started)
        curves["step_cpu_seconds"].append(time.process_time() - cpu)
        if not loss < float("inf"):
            raise FloatingPointError(f"training loss is {loss} at step {state.step}")
        if state.step % evaluate_every == 0 or state.step == steps:
            curves["val_steps"].append(state.step)
            curves["val_loss"].append(evaluate(state.model))
            if save and state.step < steps:
                save(state.tensors())
    return state


def timing(state: State, context: int, batch: int) -> dict[str, float]:
    """What training took: the median step is what a disturbed machine moves least, and its
    processor time (of all threads) less still."""
    step = float(np.median(state.curves["step_seconds"]))
    return {"seconds": sum(state.curves["step_seconds"]), "step_seconds": step,
            "step_cpu_seconds": float(np.median(state.curves["step_cpu_seconds"])),
            "tokens_per_second": batch * context / step,
            "parameters": sum(p.numel() for p in state.model.parameters()),
            "flop_per_token": state.model.flop_per_token(context)}


def grouped(values: list[float], size: int) -> list[float]:
    """Means of `size` values at a time."""
    return [float(np.mean(values[i : i + size])) for i in range(0, len(values), size)]
