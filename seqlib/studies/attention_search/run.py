"""One run of the attention search: AdamW without schedule or clipping, as published.

Shapes: B batch, T time, N windows, V vocabulary.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqlib import devices
from seqlib.allocator import keep_freed_memory
from seqlib.models.latent import LatentAttention
from seqlib.models.loss import ROWS
from seqlib.models.mixture import MixtureLM
from seqlib.provenance import peak_rss_mb
from seqlib.studies.attention_search import texts
from seqlib.studies.attention_search.arms import ARMS, PUBLISHED, make, parameter_counts
from seqlib.studies.attention_search.specs import SearchSpec
from seqlib.study import Run, study

BALANCE, DECAY = 0.01, 0.01  # weights of the load-balancing loss and of AdamW's decay
EVALUATED = (50, 100, 200, 500, 1000, 2000, 5000)  # steps before a validation, besides the last
LONGER = (1, 2, 4)  # contexts of the evaluation, in contexts of the training
LAST = 10  # steps that the reported training loss is a mean of
Batches = list[tuple[Tensor, Tensor]]


def draws(spec: SearchSpec) -> tuple[int, int, np.random.Generator]:
    """Seeds of the weights and of the dropout, and the generator of the batches: one stream of
    random numbers for all arms, or (published) each arm at its place of it."""
    place = 2 + ARMS[spec.arm].place if spec.protocol == "published" else 0
    random = np.random.default_rng([spec.seed, place])
    weights, dropout = random.integers(0, 2**31, 2).tolist()
    return weights, dropout, random


def build(spec: SearchSpec) -> MixtureLM:
    keep_freed_memory()
    return make(spec.arm, spec.shape, draws(spec)[0])


def threads(spec: SearchSpec) -> int:
    """Of a process of its own at the published vocabulary, whose peak memory is the arm's alone."""
    return torch.get_num_threads() if spec.vocabulary >= PUBLISHED.V else 0


@study(SearchSpec, arms=ARMS, build=build, data=texts.needed, count=parameter_counts, alone=threads)
def run(spec: SearchSpec, model: MixtureLM, run: Run) -> tuple[dict[str, float], dict[str, list]]:
    """Train and evaluate one arm. Raises SeqlibError where the text is too short."""
    text = texts.load(spec.text, spec.vocabulary)
    run.facts |= {"data": text.name, "data_sha256": text.sha256, "tokenizer": text.tokenizer}
    parts = split(spec, spec.context)
    if ARMS[spec.arm].longer:  # a text that is too short for it is refused before the training
        split(spec, LONGER[-1] * spec.context)
    _, dropout, random = draws(spec)
    firsts = parts.train[random.integers(0, len(parts.train), (spec.steps, spec.batch))]
    validation = windows(text, parts.validation, spec, spec.context)

    torch.manual_seed(dropout)
    curves, times, peak_mb = train(
        model, spec, lambda step: texts.windows(text.tokens, firsts[step], spec.context),
        lambda: evaluate(model, validation, low=spec.low))

    step, cpu = np.median(times, 0)
    metrics = {
        "val_loss_nats": curves["val_loss"][-1],
        "val_accuracy": curves["val_accuracy"][-1],
        "train_loss_nats": float(np.mean(curves["train_loss"][-LAST:])),
        "seconds": sum(seconds for seconds, _ in times),
        "step_seconds": step,
        "step_cpu_seconds": cpu,
        "tokens_per_second": spec.batch * spec.context / step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flop_per_token": model.flop_per_token(spec.context),
        "cached_numbers_per_token": model.cached_per_token,
        "train_windows_overlap": overlap(firsts, parts, spec.context),
    }
    if threads(spec):
        on_card = run.device.type == "cuda"
        metrics["step_peak_cuda_mb" if on_card else "step_peak_mb"] = peak_mb
    for n, loss in zip(curves["val_steps"], curves["val_loss"]):
        metrics[f"val_loss_nats_step{n}"] = loss
    if ARMS[spec.arm].longer:
        metrics |= longer(model, text, spec)
    return metrics, curves


def split(spec: SearchSpec, T: int) -> texts.Split:
    return texts.split(spec.text, spec.vocabulary, spec.protocol, spec.seed, T)


def windows(text: texts.Text, firsts: np.ndarray, spec: SearchSpec, T: int) -> Batches:
    """Inputs and targets (B, T) of windows that start at `firsts` (N,), a pair a batch."""
    return [texts.windows(text.tokens, firsts[i : i + spec.batch], T)
            for i in range(0, len(firsts), spec.batch)]


def training_step(
    model: MixtureLM, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, low: bool = False
) -> Tensor:
    """One step on tokens x and their successors y (B, T), with `low` in bfloat16; returns the mean
    cross-entropy, nats."""
    # one step alone: autocast keeps its copies of the weights until its end
    with torch.autocast(x.device.type, torch.bfloat16, low):
        total, terms, balance = model.loss(x, y)
        loss = total / terms
    optimizer.zero_grad()
    (loss + BALANCE * balance).backward()
    optimizer.step()
    return loss.detach()


def train(
    model: MixtureLM,
    spec: SearchSpec,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    validate: Callable[[], tuple[float, float]],
) -> tuple[dict[str, list], list[tuple[float, float]], float]:
    """Curves of a training, seconds and processor seconds of each step, and the memory, MiB, that
    its first three steps took at most, resident or on a card. Raises FloatingPointError on a loss
    that is not finite."""
    device = devices.of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=DECAY, fused=True)
    curves = {name: [] for name in ("train_loss", "val_steps", "val_loss", "val_accuracy")}
    times, peak = [], 0.0
    model.train()
    for step in range(1, spec.steps + 1):
        x, y = (part.to(device) for part in batch(step - 1))
        started, cpu = time.perf_counter(), time.process_time()
        loss = float(training_step(model, optimizer, x, y, spec.low))
        times.append((time.perf_counter() - started, time.process_time() - cpu))
        if not loss < float("inf"):
            raise FloatingPointError(f"training loss is {loss} at step {step}")
        curves["train_loss"].append(loss)
        if step <= 3:
            peak = (torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda"
                    else peak_rss_mb())
        if step in EVALUATED or step == spec.steps:
            loss, accuracy = validate()
            curves["val_steps"].append(step)
            curves["val_loss"].append(loss)
            curves["val_accuracy"].append(accuracy)
    return curves, times, peak


@torch.no_grad()
def evaluate(model: MixtureLM, batches: Batches, last: int | None = None,
             low: bool = False) -> tuple[float, float]:
    """Loss, nats, and accuracy over all targets, or over the `last` targets of every window, with
    `low` from states in bfloat16."""
    total, right, count, device = 0.0, 0, 0, devices.of(model)
    model.eval()  # neither dropout nor router noise
    for x, y in batches:
        with torch.autocast(device.type, torch.bfloat16, low):
            states, _ = model.states(x.to(device))
        if last is not None:
            states, y = states[:, -last:], y[:, -last:]
        states, y = states.flatten(0, 1), y.flatten().to(device)
        for rows, targets in zip(states.split(ROWS), y.split(ROWS)):
            logits = rows.float() @ model.embed.weight.T
            total += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
    model.train()
    return total / count, right / count


def longer(model: MixtureLM, text: texts.Text, spec: SearchSpec) -> dict[str, float]:
    """Loss on the same targets (the last `context` of every window of four contexts) given one, two
    and four contexts; and with positions divided, beside the arm's own factor, by how much longer
    the window is than those trained on."""
    T, long = spec.context, LONGER[-1] * spec.context
    firsts = split(spec, long).validation
    latent = [b.attention for b in model.blocks if isinstance(b.attention, LatentAttention)]
    metrics = {}
    for times in LONGER:
        batches = windows(text, firsts + long - times * T, spec, times * T)
        metrics[f"val_loss_nats_{times}x"] = evaluate(model, batches, T, spec.low)[0]
        if times > 1 and latent:
            factor = latent[0].factor
            for attention in latent:
                attention.factor = factor * times
            stretched = evaluate(model, batches, T, spec.low)[0]
            metrics[f"val_loss_nats_{times}x_interpolated"] = stretched
            for attention in latent:
                attention.factor = factor
    return metrics


def overlap(firsts: np.ndarray, parts: texts.Split, T: int) -> float:
    """Share of the validation windows' tokens that stand in a window trained on."""
    end = max(firsts.max(), parts.validation.max()) + T + 1
    seen = np.zeros(end + 1, np.int64)
    np.add.at(seen, firsts.ravel(), 1)
    np.add.at(seen, firsts.ravel() + T, -1)
    covered = np.cumsum(seen) > 0
    return float(np.mean([covered[i : i + T].mean() for i in parts.validation]))
