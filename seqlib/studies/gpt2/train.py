"""The fine-tuning loop of every arm: AdamW, a cosine schedule behind a warm-up, cross-entropy in
nats a token.

The loop is one for a process of its own and for several that `accelerate launch` starts: each takes
its share of every batch. What it does for speed: logits exist for a part of the vocabulary or of
the tokens at a time, one fused pass of the optimizer, layers that go through memory once
(`seqlib.studies.gpt2.quick`). Dropout of adapters has PyTorch's rate but other masks.
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
from seqlib.training import pack, unpack

EVERY = 20  # steps between two checkpoints
TOGETHER = 8  # windows that are evaluated at once
HELD = 2048  # tokens whose activations a processor holds at once
CURVES = ("train_loss", "step_seconds", "step_cpu_seconds", "val_steps", "val_loss")


class Scored(nn.Module):
    """A causal model that gives the sum of its losses, in nats, over the targets of windows
    (B, T + 1)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        quicken(model)
        self.blockwise = self._head_is_a_product()

    def _parts(self) -> tuple[nn.Module, nn.Module]:
        """What computes the last states, and the head."""
        whole = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return getattr(whole, whole.base_model_prefix), whole.get_output_embeddings()

    @torch.no_grad()
    def _head_is_a_product(self) -> bool:
        """Whether the model's logits are its last states times its output weights, and nothing else
        (some scale or cap, a bias, an adapter)."""
        body, head = self._parts()
        if type(head) is not nn.Linear or head.bias is not None:
            return False
        training = self.model.training
        self.model.eval()
        x = torch.arange(4, device=head.weight.device)[None]
        product, logits = body(input_ids=x)[0] @ head.weight.T, self.model(input_ids=x).logits
        self.model.train(training)
        return torch.allclose(product, logits, rtol=1e-4, atol=1e-4)

    def forward(self, tokens: Tensor) -> Tensor:
        weight = self._parts()[1].weight
        if not self.blockwise or not weight.requires_grad:
            return self.losses(tokens).sum()
        return blockwise_cross_entropy(self._states(tokens), weight, tokens[:, 1:].flatten())

    def losses(self, tokens: Tensor) -> Tensor:
        """Of each target (B, T). Where the head is trained, without a gradient."""
        y = tokens[:, 1:]
        if self.blockwise:
            weight = self._parts()[1].weight
            each = streamed_cross_entropy(self._states(tokens), weight, y.flatten())
        else:
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
            each = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
        return each.view_as(y)

    def _states(self, tokens: Tensor) -> Tensor:
        """Last states (B T, C)."""
        body, _ = self._parts()
        return body(input_ids=tokens[:, :-1], use_cache=False)[0].flatten(0, 1)


@dataclass
class State:
    """A model in training with its optimizer (None where nothing is trained), its schedule and its
    curves.

    peak_memory_mb: of the first three steps, resident set of the process. gradient_norm: of the
    last step.
    """

    scored: Scored
    optimizer: torch.optim.AdamW | None
    schedule: torch.optim.lr_scheduler.LambdaLR | None
    step: int = 0
    peak_memory_mb: float = 0.0
    gradient_norm: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})

    @classmethod
    def start(cls, model: nn.Module, lr: float, steps: int) -> "State":
        scored = Scored(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            return cls(scored, None, None)
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=DECAY, fused=True)
        warm_up = round(WARM_UP * steps)
        return cls(scored, optimizer, get_cosine_schedule_with_warmup(optimizer, warm_up, steps))

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.scored.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs; what is frozen is not among it."""
        return pack(self.trained(), self.optimizer, self.curves,
                    step=self.step, peak_memory_mb=self.peak_memory_mb)

    def load(self, saved: dict[str, Tensor]) -> None:
        self.curves, numbers = unpack(saved, self.trained(), self.optimizer)
        self.curves["val_steps"] = [int(step) for step in self.curves["val_steps"]]
        self.step, self.peak_memory_mb = int(numbers["step"]), numbers["peak_memory_mb"]
        self.schedule.last_epoch = self.step


def draw_for(seed: int, step: int, rank: int) -> None:
    """Dropout of a step depends on nothing before it, so that a resumed run draws the same;
    processes draw apart."""
    torch.manual_seed(int(np.random.default_rng([seed, 1, step, rank]).integers(2**31)))


def descend(scored: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor,
            accelerator: Accelerator) -> Tensor:
    """One step of gradient descent on windows (B, T + 1); returns their mean loss, nats a token.

    A processor takes a large batch in parts, whose gradients add up: the same step in less
    memory."""
    optimizer.zero_grad()
    loss, targets = torch.zeros((), device=tokens.device), tokens[:, 1:].numel()
    at_once = len(tokens) if tokens.device.type != "cpu" else max(1, HELD // (tokens.shape[1] - 1))
    for part in tokens.split(at_once):
        share = scored(part) / targets
        accelerator.backward(share)  # the mean over processes
        loss += share.detach()
    optimizer.step()
    return loss


def train(state: State, batches: Callable[[int], Tensor], *, steps: int, seed: int,
          validate: dict[int, Callable[[Scored], float]] | None = None,
          save: Callable[[dict[str, Tensor]], None] | None = None,
          accelerator: Accelerator | None = None) -> State:
    """Train until `steps`; `batches(i)` gives windows (B, T + 1), a pure function of i.

    validate: after which steps to take a validation loss, and how; its time does not count. save:
    is given the state's tensors now and then.
    Raises UsageError where the batch cannot be shared equally, FloatingPointError when the loss is
    not finite."""
    accelerator, validate, curves = accelerator or Accelerator(), validate or {}, state.curves
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
            raise UsageError(f"a batch of {len(tokens)} cannot be shared by {processes} processes; "
                             "take a multiple")
        draw_for(seed, state.step, rank)
        own = tokens[rank::processes].to(accelerator.device)
        loss = float(accelerator.reduce(descend(scored, optimizer, own, accelerator), "mean"))
        state.schedule.step()
        state.step += 1
        curves["train_loss"].append(loss)
        curves["step_seconds"].append(time.perf_counter() - started)
        curves["step_cpu_seconds"].append(time.process_time() - cpu)
        if not loss < float("inf"):
            raise FloatingPointError(f"training loss is {loss} at step {state.step}")
        if state.step == min(3, steps):
            state.peak_memory_mb = peak_rss_mb()
        if state.step in validate:
            curves["val_steps"].append(state.step)
            curves["val_loss"].append(validate[state.step](state.scored))
            scored.train()
        if save and state.step % EVERY == 0 and state.step < steps:
            save(state.tensors())
    gradients = [p.grad for p in state.trained().values()]
    state.gradient_norm = float(torch.nn.utils.get_total_norm(gradients))
    return state


@torch.no_grad()
def nats(scored: Scored, windows: Tensor) -> np.ndarray:
    """Mean loss, in nats a token, of each of some windows (N, T + 1): (N,)."""
    scored.eval()
    device = next(scored.parameters()).device
    means = [scored.losses(some.to(device)).mean(1) for some in windows.split(TOGETHER)]
    return torch.cat(means).cpu().numpy().astype(float)


def mean_nats(scored: Scored, windows: Tensor) -> float:
    return float(nats(scored, windows).mean())
