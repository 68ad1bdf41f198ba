"""How one spec of the attention search becomes a record: AdamW without schedule or clipping, as published."""

import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError
from seqlib.models.latent import LatentAttention
from seqlib.models.loss import ROWS
from seqlib.models.mixture import MixtureLM
from seqlib.provenance import peak_rss_mb, provenance
from seqlib.record import Record
from seqlib.studies.attention_search import texts
from seqlib.studies.attention_search.arms import FAIR, PUBLISHED, build

MODULES = tuple(f"seqlib.models.{m}" for m in ("transformer", "latent", "experts", "loss", "mixture")) + tuple(
    f"seqlib.studies.attention_search.{m}" for m in ("arms", "texts", "run"))
BALANCE, DECAY = 0.01, 0.01  # weights of the load-balancing loss and of AdamW's decay
EVALUATED = (50, 100, 200, 500, 1000, 2000, 5000)  # steps after which the validation loss is taken, besides the last
LONGER = (1, 2, 4)  # contexts of the evaluation, in contexts of the training
LAST = 10  # steps that the reported training loss is a mean of


def run(spec) -> Record:
    """Train and evaluate one spec. At the published vocabulary in a process of its own, whose peak memory is then that of this
    arm alone. Raises SeqlibError when the loss is not finite, the text too short, or that process dies."""
    if spec.vocabulary < PUBLISHED.V:
        return train_and_describe(spec, alone=False)
    from seqlib.sweep import limit_threads

    with ProcessPoolExecutor(1, get_context("spawn"), limit_threads, (torch.get_num_threads(),)) as executor:
        try:
            return executor.submit(train_and_describe, spec, True).result()
        except BrokenProcessPool as error:
            raise SeqlibError(f"the process that trained {spec.arm} died (killed, or out of memory); lower batch "
                              f"({spec.batch}) or context ({spec.context})") from error


def train_and_describe(spec, alone: bool) -> Record:
    keep_freed_memory()
    began, clock = time.time(), time.perf_counter()
    text = texts.load(spec.text, spec.vocabulary)
    parts = texts.split(spec.text, spec.vocabulary, spec.protocol, spec.seed, spec.context)
    random = texts.stream(spec.protocol, spec.seed, spec.arm)
    weights_seed, dropout_seed = random.integers(0, 2**31, 2).tolist()
    firsts = parts.train[random.integers(0, len(parts.train), (spec.steps, spec.batch))]
    held_out = windows_of(text, parts, spec)
    if spec.arm in FAIR:  # a text too short for the longest evaluation is refused before the training
        texts.split(spec.text, spec.vocabulary, spec.protocol, spec.seed, LONGER[-1] * spec.context)
    with torch.random.fork_rng(devices=[]):
        model = build(spec.arm, spec.shape, weights_seed, device())
        torch.manual_seed(dropout_seed)
        curves, times, peak_mb = train(model, lambda i: texts.windows(text.tokens, firsts[i], spec.context), spec,
                                       lambda: evaluate(model, held_out))
    step, cpu = np.median(times, 0)
    metrics = {"val_loss_nats": curves["val_loss"][-1], "val_accuracy": curves["val_accuracy"][-1],
               "train_loss_nats": float(np.mean(curves["train_loss"][-LAST:])),
               "seconds": sum(seconds for seconds, _ in times), "step_seconds": step, "step_cpu_seconds": cpu,
               "tokens_per_second": spec.batch * spec.context / step,
               "parameters": sum(p.numel() for p in model.parameters()),
               "flop_per_token": model.flop_per_token(spec.context), "cached_numbers_per_token": model.cached_per_token,
               "train_windows_overlap": overlap(firsts, parts, spec.context)}
    if alone:
        metrics["step_peak_mb"] = peak_mb
    metrics |= {f"val_loss_nats_step{n}": v for n, v in zip(curves["val_steps"], curves["val_loss"])}
    if spec.arm in FAIR:
        metrics |= longer(model, text, spec)
    source = provenance(MODULES, text.sha256, data=text.name, tokenizer=text.tokenizer, started_unix=round(began),
                        wall_seconds=round(time.perf_counter() - clock, 3))
    return Record.of(spec, metrics, curves, source)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def train(model: MixtureLM, batches, spec, validate) -> tuple[dict[str, list], list[tuple[float, float]], float]:
    """Curves of a training run, seconds and processor seconds of each step, and the memory, MiB, that its first three steps
    took at most."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=DECAY, fused=True)
    curves, times, peak = {name: [] for name in ("train_loss", "val_steps", "val_loss", "val_accuracy")}, [], 0.0
    model.train()
    for i in range(spec.steps):
        x, y = (part.to(device()) for part in batches(i))
        started, cpu = time.perf_counter(), time.process_time()
        total, n, balance = model.loss(x, y)
        loss = total / n
        optimizer.zero_grad()
        (loss + BALANCE * balance).backward()
        optimizer.step()
        curves["train_loss"].append(float(loss.detach()))
        times.append((time.perf_counter() - started, time.process_time() - cpu))
        if not curves["train_loss"][-1] < float("inf"):
            raise SeqlibError(f"attention_search/{spec.arm} seed {spec.seed}: training loss is {curves['train_loss'][-1]} "
                              f"at step {i + 1}; lower lr ({spec.lr})")
        if i < 3:
            peak = torch.cuda.max_memory_allocated() / 2**20 if device() == "cuda" else peak_rss_mb()
        if i + 1 in EVALUATED or i + 1 == spec.steps:
            loss, accuracy = validate()
            for name, value in (("val_steps", i + 1), ("val_loss", loss), ("val_accuracy", accuracy)):
                curves[name].append(value)
    return curves, times, peak


def windows_of(text, parts, spec) -> list[tuple[Tensor, Tensor]]:
    """Validation batches, inputs and targets (B, T)."""
    return [texts.windows(text.tokens, parts.validation[i : i + spec.batch], spec.context)
            for i in range(0, len(parts.validation), spec.batch)]


@torch.no_grad()
def evaluate(model: MixtureLM, batches, last: int | None = None) -> tuple[float, float]:
    """Loss in nats and accuracy over all targets of the batches, or over the `last` targets of every window."""
    total = right = count = 0.0
    model.eval()  # neither dropout nor router noise
    for x, y in batches:
        states, _ = model.states(x.to(device()))
        states, y = (states, y) if last is None else (states[:, -last:], y[:, -last:])
        for rows, targets in zip(states.flatten(0, 1).split(ROWS), y.flatten().to(device()).split(ROWS)):
            logits = rows @ model.embed.weight.T
            total += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
    model.train()
    return total / count, right / count


def longer(model: MixtureLM, text, spec) -> dict[str, float]:
    """Loss on the same targets (the last `context` of every window of four contexts) given one, two and four contexts; and with
    positions divided, on top of the arm's own factor, by how much longer the window is than those trained on."""
    T, long = spec.context, LONGER[-1] * spec.context
    parts = texts.split(spec.text, spec.vocabulary, spec.protocol, spec.seed, long)
    metrics = {}
    for times in LONGER:
        windows = [texts.windows(text.tokens, parts.validation[i : i + spec.batch] + long - times * T, times * T)
                   for i in range(0, len(parts.validation), spec.batch)]
        metrics[f"val_loss_nats_{times}x"] = evaluate(model, windows, T)[0]
        own = [block.attention for block in model.blocks if isinstance(block.attention, LatentAttention)]
        if times > 1 and own:
            factor = own[0].factor
            for attention in own:
                attention.factor = factor * times
            metrics[f"val_loss_nats_{times}x_interpolated"] = evaluate(model, windows, T)[0]
            for attention in own:
                attention.factor = factor
    return metrics


def overlap(firsts: np.ndarray, parts, T: int) -> float:
    """Share of the validation windows' tokens that stand in a window trained on."""
    end = max(firsts.max(), parts.validation.max()) + T + 1
    seen = np.zeros(end + 1, np.int64)
    np.add.at(seen, firsts.ravel(), 1)
    np.add.at(seen, firsts.ravel() + T, -1)
    covered = np.cumsum(seen) > 0
    return float(np.mean([covered[i : i + T].mean() for i in parts.validation]))
