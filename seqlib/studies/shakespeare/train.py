"""The training loop of every arm: Adam and cross-entropy in nats a character, as published; no schedule and no dropout, which
the document does not mention."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 10  # steps that share a point of the training curve


@dataclass
class State:
    """A model in training with its optimizer and its curves: `train_loss` a step, the others an evaluation."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    train_loss: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    step_cpu_seconds: list[float] = field(default_factory=list)
    val_steps: list[int] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, model: nn.Module, lr: float) -> "State":
        return cls(model, torch.optim.Adam(model.parameters(), lr=lr, fused=True))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        names = {p: name for name, p in self.model.named_parameters()}
        out = {f"model.{name}": p.detach() for p, name in names.items()}
        for p, state in self.optimizer.state.items():
            out |= {f"adam.{names[p]}.{k}": v for k, v in state.items()}
        return out | {f"curve.{k}": torch.tensor(getattr(self, k), dtype=torch.float64) for k in CURVES} | {
            "step": torch.tensor(self.step)}

    def load(self, saved: dict[str, Tensor]) -> None:
        for name, p in self.model.named_parameters():
            p.data.copy_(saved[f"model.{name}"])
            self.optimizer.state[p] = {k: saved[f"adam.{name}.{k}"].clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        for k in CURVES:
            setattr(self, k, saved[f"curve.{k}"].tolist())
        self.val_steps = [int(step) for step in self.val_steps]
        self.step = int(saved["step"])


CURVES = ("train_loss", "step_seconds", "step_cpu_seconds", "val_steps", "val_loss")


def initial(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def loss_of(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> tuple[Tensor, int]:
    """Sum of the cross-entropies in nats and their number; `counted` (B, T) picks the targets that count."""
    if counted is not None:
        logits, targets = logits[counted], targets[counted]
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum"), targets.numel()


def train(state: State, batches: Callable[[int], tuple], steps: int, evaluate_every: int,
          evaluate: Callable[[nn.Module], float], checkpoint: Callable[[dict[str, Tensor]], None] | None = None) -> State:
    """Train until `steps`; `batches(i)` gives inputs, targets and what counts of step i, a pure function of i.

    Every `evaluate_every` steps the validation loss is taken (its time does not count) and a checkpoint is written.
    Raises FloatingPointError when the loss is not finite.
    """
    while state.step < steps:
        started, cpu = time.perf_counter(), time.process_time()
        x, y, counted = batches(state.step)
        total, n = loss_of(state.model(x), y, counted)
        loss = total / n
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.train_loss.append(float(loss.detach()))
        state.step += 1
        state.step_seconds.append(time.perf_counter() - started)
        state.step_cpu_seconds.append(time.process_time() - cpu)
        if not state.train_loss[-1] < float("inf"):
            raise FloatingPointError(f"training loss is {state.train_loss[-1]} at step {state.step}")
        if state.step % evaluate_every == 0 or state.step == steps:
            state.val_steps.append(state.step)
            state.val_loss.append(evaluate(state.model))
            if checkpoint and state.step < steps:
                checkpoint(state.tensors())
    return state
