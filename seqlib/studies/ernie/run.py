"""How one spec of the ERNIE study becomes a record."""

import os
import shutil
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sklearn.metrics import f1_score

from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError
from seqlib.provenance import provenance
from seqlib.record import Record
from seqlib.store import scratch
from seqlib.studies.ernie import arms, bases, sentences
from seqlib.studies.ernie.specs import COST, LORA, MODULES, PRETRAINING, PUBLISHED, SAME_RATE, TINY, ErnieSpec
from seqlib.studies.ernie.train import Curves, logits_of, nats, train
from seqlib.training import in_own_process

PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}  # threads that wait are not to look busy


def run(spec: ErnieSpec) -> Record:
    """Train and evaluate one spec, in a process of its own, into which Paddle is imported with this worker's share of the cores
    and whose peak memory is that of this arm alone; the tiny base of the tests in this one. Raises SeqlibError when the loss is
    not finite, or that process dies."""
    if spec.arm == PRETRAINING:
        from seqlib.studies.ernie import pretrain

        return pretrain.record_of(spec)
    if spec.base == TINY:
        return train_and_describe(spec, bases.folder_of(spec))
    folder = bases.folder_of(spec)  # made here, where it is not there, and never in the process whose memory is measured
    with patch.dict(os.environ, PASSIVE if spec.stage == COST else {}):
        return in_own_process(partial(train_and_describe, folder=folder), spec, threads())


def threads() -> int:
    """This worker's share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())


def chosen(part: sentences.Part, count: int, seed: int) -> np.ndarray:
    """Numbers of `count` examples of a part, drawn by seed; of all in their order where there are no more."""
    if not count or count >= len(part):
        return np.arange(len(part))
    return np.random.default_rng([seed, 6]).permutation(len(part))[:count]


def train_and_describe(spec: ErnieSpec, folder: Path | None) -> Record:
    began, clock = time.time(), time.perf_counter()
    text, base = sentences.load(spec.text), bases.load_base(spec, folder)

    def examples(part: sentences.Part, count: int) -> tuple[list[list[int]], np.ndarray]:
        own = chosen(part, count, spec.seed)
        return sentences.encode(base.vocab, [part.sentences[i] for i in own], spec.length), np.array(part.classes)[own]

    train_rows, train_classes = examples(text.train, spec.examples)
    most = PUBLISHED.get(spec.epochs, (0, 0))[1] if spec.protocol == "published" else 0
    dev_rows, dev_classes = examples(text.dev, most)
    model = arms.classifier(base, len(text.classes), spec.seed)
    model = arms.prepare(model, spec.arm, spec.r, spec.alpha, spec.dropout, arms.targets(spec.targets))

    def validate() -> tuple[float, float]:
        logits = logits_of(model, dev_rows)
        return float(nats(logits, dev_classes).mean()), float((logits.argmax(1) == dev_classes).mean())

    keep_freed_memory()  # from here on: what loading took is given back, and no memory of the training
    try:
        curves = train(model, train_rows, train_classes, spec, validate)
    except FloatingPointError as error:
        raise SeqlibError(f"{spec.study}/{spec.arm} seed {spec.seed}: {error}; lower lr ({spec.lr})") from error
    metrics, told = describe(spec, model, curves)
    metrics["train_loss_nats"] = float(nats(logits_of(model, train_rows), train_classes).mean())
    if spec.stage in ("final", SAME_RATE):
        test_rows, test_classes = examples(text.test, 0)
        logits = logits_of(model, test_rows)
        metrics |= scores(logits, test_classes, spec.batch) | saved(spec, model)
        told |= {"test_predicted": logits.argmax(1).tolist(), "test_classes": test_classes.tolist()}
    source = provenance(MODULES, text.sha256, data=text.name, base_sha256=base.sha256, started_unix=round(began),
                        wall_seconds=round(time.perf_counter() - clock, 3))
    source["versions"] |= {name: version(name) for name in ("paddlepaddle", "paddlenlp")}
    return Record.of(spec, metrics, told, source)


def describe(spec: ErnieSpec, model, curves: Curves) -> tuple[dict, dict]:
    """What the training itself tells."""
    metrics = arms.count(model)
    metrics |= {"trainable_percent": 100 * metrics["trainable"] / metrics["total"], "seconds": sum(curves.step_seconds),
                "step_seconds": float(np.median(curves.step_seconds)),
                "step_cpu_seconds": float(np.median(curves.step_cpu_seconds)), "peak_memory_mb": curves.peak_memory_mb,
                "training_memory_mb": curves.peak_memory_mb - curves.memory_before_mb,
                "busy_share": sum(curves.step_cpu_seconds) / sum(curves.step_seconds) / threads(),
                "dev_loss_nats": curves.dev_loss[-1],
                "dev_accuracy": curves.dev_accuracy[-1]}
    return metrics, {name: getattr(curves, name) for name in ("train_loss", "dev_loss", "dev_accuracy")}


def scores(logits: np.ndarray, classes: np.ndarray, batch: int) -> dict[str, float]:
    """Of the test set: loss as the mean over examples, and as the published program had it: a sum of means of batches, divided
    by the number of examples."""
    each, predicted = nats(logits, classes), logits.argmax(1)
    means = [each[i : i + batch].mean() for i in range(0, len(each), batch)]
    return {"test_loss_nats": float(each.mean()), "test_loss_as_published": float(sum(means) / len(each)),
            "test_accuracy": float((predicted == classes).mean()),
            "test_macro_f1": float(f1_score(classes, predicted, average="macro"))}


def weights_path(spec: ErnieSpec) -> Path:
    return scratch() / "weights" / f"ernie-{spec.key}"


def saved(spec: ErnieSpec, model) -> dict[str, int]:
    """Bytes of what was trained, saved. That of the first seed under the fair protocol stays in scratch, for the interactive
    cell."""
    folder = weights_path(spec)
    shutil.rmtree(folder, ignore_errors=True)
    size = arms.save(model, folder)
    if spec.seed or spec.protocol != "fair" or spec.stage != "final":
        shutil.rmtree(folder)
    return {"saved_bytes": size}


def trained_model(spec: ErnieSpec):
    """The model of a finished live run, from scratch, and its vocabulary. Raises SeqlibError where there is none."""
    from safetensors.numpy import load_file

    folder, text, base = weights_path(spec), sentences.load(spec.text), bases.load_base(spec, bases.folder_of(spec))
    if not folder.exists():
        raise SeqlibError(f"no weights of {spec.arm} seed {spec.seed} in {folder.parent}; run the notebook's live cell with "
                          "seed 0")
    model = arms.classifier(base, len(text.classes), spec.seed)
    if spec.arm in LORA:
        model = arms.load_adapter(model, folder)
    else:
        model.set_state_dict(load_file(folder / arms.WEIGHTS))
    model.eval()
    return model, base.vocab
