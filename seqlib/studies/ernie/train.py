"""The fine-tuning loop of every arm, in Paddle: AdamW, cross-entropy in nats, at a constant rate as
published or at one that falls to zero behind a warm-up."""

import time
from collections.abc import Callable

import numpy as np

from seqlib.provenance import peak_rss_mb, reset_peak_rss
from seqlib.studies.ernie.framework import paddle, threads
from seqlib.studies.ernie.sentences import PAD
from seqlib.studies.ernie.specs import ErnieSpec

DECAY, WARM_UP = 0.01, 0.1


def padded(rows: list[list[int]]) -> np.ndarray:
    """Token numbers (B, T), the shorter rows padded to the longest."""
    out = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def batches(lengths: np.ndarray, spec: ErnieSpec, epoch: int) -> list[np.ndarray]:
    """Numbers of the sentences of every batch of an epoch, the same for all arms: as published in
    any order; under the fair protocol like lengths together, which leaves little to pad, and the
    batches in any order."""
    random = np.random.default_rng([spec.seed, 5, epoch])
    drawn, count = random.permutation(len(lengths)), -(-len(lengths) // spec.batch)
    if spec.protocol == "published":
        return np.array_split(drawn, count)
    parts = np.array_split(drawn[np.argsort(lengths[drawn], kind="stable")], count)
    return [parts[i] for i in random.permutation(count)]


def rate(step: int, steps: int, lr: float, constant: bool) -> float:
    """Learning rate of a step, counted from 0."""
    if constant:
        return lr
    warm = max(1, round(WARM_UP * steps))
    return lr * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def train_step(model, optimizer, rows: list[list[int]], classes: np.ndarray) -> float:
    """One step on a batch of token numbers and their classes (B,); returns its mean loss."""
    library = paddle()
    logits = model(library.to_tensor(padded(rows)))
    loss = library.nn.functional.cross_entropy(logits, library.to_tensor(classes))
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    return float(loss)


def train(model, rows: list[list[int]], classes: np.ndarray, spec: ErnieSpec,
          validate: Callable[[], tuple[float, float]]) -> tuple[dict, dict]:
    """What a training took, and its curves: loss by step; loss and accuracy, from `validate`, by
    epoch. `rows` are token numbers of the sentences, `classes` (N,) theirs; every epoch goes
    through all of them. Raises FloatingPointError when the loss is not finite."""
    library, seconds, busy = paddle(), [], []
    curves: dict[str, list[float]] = {"train_loss": [], "dev_loss": [], "dev_accuracy": []}
    trained = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = library.optimizer.AdamW(spec.lr, parameters=trained, weight_decay=DECAY)
    lengths = np.array([len(row) for row in rows])
    library.seed(spec.seed)  # dropout
    model.train()
    reset_peak_rss()  # what loading took is no memory of the training
    before, most = peak_rss_mb(), 0.0
    for epoch in range(spec.epochs):
        parts = batches(lengths, spec, epoch)
        for i, chosen in enumerate(parts):
            began, cpu = time.perf_counter(), time.process_time()
            at, steps = epoch * len(parts) + i, spec.epochs * len(parts)
            optimizer.set_lr(rate(at, steps, spec.lr, constant=spec.protocol == "published"))
            loss = train_step(model, optimizer, [rows[j] for j in chosen], classes[chosen])
            curves["train_loss"].append(loss)
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - cpu)
            if not loss < float("inf"):
                raise FloatingPointError(f"training loss is {loss} at step {at + 1}")
        most = most or peak_rss_mb()  # in later epochs the validation has had its share
        for name, value in zip(("dev_loss", "dev_accuracy"), validate()):
            curves[name].append(value)
        model.train()
    taken = {"seconds": sum(seconds), "step_seconds": float(np.median(seconds)),
             "step_cpu_seconds": float(np.median(busy)),
             "busy_share": sum(busy) / sum(seconds) / threads(),
             "dev_loss_nats": curves["dev_loss"][-1], "dev_accuracy": curves["dev_accuracy"][-1]}
    if spec.device == "cuda":
        taken["peak_cuda_mb"] = library.device.cuda.max_memory_allocated() / 2**20
    else:
        taken |= {"peak_memory_mb": most, "training_memory_mb": most - before}
    return taken, curves


def logits_of(model, rows: list[list[int]], batch: int = 64) -> np.ndarray:
    """Logits (N, classes) of sentences, in their order; like lengths go together."""
    library = paddle()
    model.eval()
    order, out = np.argsort([len(row) for row in rows], kind="stable"), {}
    with library.no_grad():
        for i in range(0, len(rows), batch):
            chosen = order[i : i + batch]
            found = model(library.to_tensor(padded([rows[j] for j in chosen]))).numpy()
            out |= {j: found[k] for k, j in enumerate(chosen)}
    return np.stack([out[j] for j in range(len(rows))])


def nats(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Cross-entropy of every example (N,)."""
    high = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - high).sum(1)) + high[:, 0]
    return total - logits[np.arange(len(classes)), classes]
