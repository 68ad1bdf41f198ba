"""The fine-tuning loop of every arm: AdamW, a cosine schedule behind a warm-up, cross-entropy in nats a token.

The loop is one for a process of its own and for several that `accelerate launch` starts: each takes its share of every batch.
What it does for speed: logits exist for a part of the vocabulary or of the tokens at a time, one fused pass of the optimizer,
layers that go through memory once (`seqlib.studies.gpt2.quick`). Dropout of adapters has PyTorch's rate but other masks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

from seqlib.allocator import give_back_freed_memory
from seqlib.errors import UsageError
from seqlib.models.loss import blockwise_cross_entropy
from seqlib.models.streamed import streamed_cross_entropy
from seqlib.provenance import peak_rss_mb, reset_peak_rss
from seqlib.studies.gpt2.quick import quicken
from seqlib.studies.gpt2.specs import DECAY, WARM_UP

CHECKPOINT = 20  # steps between two checkpoints
TOGETHER = 8  # windows that are evaluated at once
HELD = 2048  # tokens whose activations a processor holds at once; a larger batch is taken in parts
CURVES = ("train_loss", "step_seconds", "step_cpu_seconds", "val_steps", "val_loss")


class Scored(nn.Module):
    """A causal model that gives the sum of its losses, in nats, over the targets of windows (B, T + 1)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        quicken(model)
        self.blockwise = self._head_is_a_product()

    def _whole(self) -> nn.Module:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _parts(self) -> tuple[nn.Module, Tensor]:
        whole = self._whole()
        return getattr(whole, whole.base_model_prefix), whole.get_output_embeddings().weight

    @torch.no_grad()
    def _head_is_a_product(self) -> bool:
        """Whether the model's logits are its last states times its output weights, and nothing else (some scale or cap, a bias,
        an adapter)."""
        head = self._whole().get_output_embeddings()
        if type(head) is not nn.Linear or head.bias is not None:
            return False
        training = self.model.training
        self.model.eval()
        body, weight = self._parts()
        x = torch.arange(4, device=weight.device)[None]
        same = torch.allclose(body(input_ids=x)[0] @ weight.T, self.model(input_ids=x).logits, rtol=1e-4, atol=1e-4)
        self.model.train(training)
        return same

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.blockwise or not self._parts()[1].requires_grad:
            return self.losses(tokens).sum()
        body, weight = self._parts()
        return blockwise_cross_entropy(self._states(body, tokens), weight, tokens[:, 1:].flatten())

    def losses(self, tokens: Tensor) -> Tensor:
        """Of each target (B, T). Where the head is trained, without a gradient."""
        y = tokens[:, 1:]
        if not self.blockwise:
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none").view_as(y)
        body, weight = self._parts()
        return streamed_cross_entropy(self._states(body, tokens), weight, y.flatten()).view_as(y)

    @staticmethod
    def _states(body: nn.Module, tokens: Tensor) -> Tensor:
        """Last states (B T, C)."""
        return body(input_ids=tokens[:, :-1], use_cache=False)[0].flatten(0, 1)


@dataclass
class State:
    """A model in training with its optimizer, its schedule and its curves; `peak_memory_mb` is that of the first three steps:
    resident set of the process, or what was allocated on a GPU. `gradient_norm` is that of the last step."""

    scored: Scored
    optimizer: torch.optim.AdamW | None  # None where nothing is trained
    schedule: torch.optim.lr_scheduler.LambdaLR | None
    step: int = 0
    peak_memory_mb: float = 0.0
    gradient_norm: float = 0.0
    train_loss: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    step_cpu_seconds: list[float] = field(default_factory=list)
    val_steps: list[int] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, model: nn.Module, lr: float, steps: int) -> "State":
        scored = Scored(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            return cls(scored, None, None)
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=DECAY, fused=True)
        return cls(scored, optimizer, get_cosine_schedule_with_warmup(optimizer, round(WARM_UP * steps), steps))

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.scored.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs; what is frozen is not among it."""
        out = {"step": torch.tensor(self.step), "peak_memory_mb": torch.tensor(self.peak_memory_mb)}
        for name, p in self.trained().items():
            out |= {f"weight.{name}": p.detach()} | {f"adam.{name}.{k}": v for k, v in self.optimizer.state[p].items()}
        return out | {f"curve.{k}": torch.tensor(getattr(self, k), dtype=torch.float64) for k in CURVES}

    def load(self, saved: dict[str, Tensor]) -> None:
        for name, p in self.trained().items():
            p.data.copy_(saved[f"weight.{name}"])
            self.optimizer.state[p] = {k: saved[f"adam.{name}.{k}"].clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        for k in CURVES:
            setattr(self, k, saved[f"curve.{k}"].tolist())
        self.val_steps = [int(step) for step in self.val_steps]
        self.step, self.peak_memory_mb = int(saved["step"]), float(saved["peak_memory_mb"])
        self.schedule.last_epoch = self.step
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs):
            group["lr"] = rate * self.schedule.lr_lambdas[0](self.step)


def draw_for(seed: int, step: int, rank: int) -> None:
    """Dropout of a step depends on nothing before it, so that a resumed run draws the same; processes draw apart."""
    torch.manual_seed(int(np.random.default_rng([seed, 1, step, rank]).integers(2**31)))


def train(state: State, batches: Callable[[int], Tensor], steps: int, seed: int, validate_at: list[int],
          validate: Callable[[Scored], float], checkpoint: Callable[[dict[str, Tensor]], None] | None = None,
          accelerator: Accelerator | None = None) -> State:
    """Train until `steps`; `batches(i)` gives windows (B, T + 1), a pure function of i. The validation loss is taken after the
    steps `validate_at`; its time does not count.

    Raises UsageError where the batch cannot be shared equally, FloatingPointError when the loss is not finite."""
    accelerator = accelerator or Accelerator()
    rank, processes = accelerator.process_index, accelerator.num_processes
    scored, optimizer = accelerator.prepare(state.scored, state.optimizer)
    scored.train()
    if not state.step:
        give_back_freed_memory()
        reset_peak_rss()  # what loading and tokenizing took is no memory of the training
    while state.step < steps:
        started, cpu = time.perf_counter(), time.process_time()
        tokens = batches(state.step)
        if len(tokens) % processes:
            raise UsageError(f"a batch of {len(tokens)} cannot be shared by {processes} processes; take a multiple")
        tokens = tokens[rank::processes].to(accelerator.device)
        draw_for(seed, state.step, rank)
        optimizer.zero_grad()
        loss, whole = torch.zeros((), device=tokens.device), tokens.device.type != "cpu"
        for part in tokens.split(len(tokens) if whole else max(1, HELD // (tokens.shape[1] - 1))):
            share = scored(part) / tokens[:, 1:].numel()
            accelerator.backward(share)  # the mean over processes
            loss += share.detach()
        if state.step + 1 == steps:
            state.gradient_norm = float(torch.nn.utils.get_total_norm([p.grad for p in state.trained().values()]))
        optimizer.step()
        state.schedule.step()
        state.train_loss.append(float(accelerator.reduce(loss, "mean")))
        state.step += 1
        state.step_seconds.append(time.perf_counter() - started)
        state.step_cpu_seconds.append(time.process_time() - cpu)
        if not state.train_loss[-1] < float("inf"):
            raise FloatingPointError(f"training loss is {state.train_loss[-1]} at step {state.step}")
        if len(state.step_seconds) == min(3, steps):
            on_gpu = accelerator.device.type == "cuda"
            state.peak_memory_mb = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_rss_mb()
        if state.step in validate_at:
            state.val_steps.append(state.step)
            state.val_loss.append(validate(state.scored))
            scored.train()
        if checkpoint and state.step % CHECKPOINT == 0 and state.step < steps:
            checkpoint(state.tensors())
    return state


@torch.no_grad()
def nats(scored: Scored, windows: Tensor) -> np.ndarray:
    """Mean loss, in nats a token, of each of some windows (N, T + 1): (N,)."""
    scored.eval()
    device = next(scored.parameters()).device
    return torch.cat([scored.losses(some.to(device)).mean(1) for some in windows.split(TOGETHER)]).cpu().numpy().astype(float)


def mean_nats(scored: Scored, windows: Tensor) -> float:
    return float(nats(scored, windows).mean())
