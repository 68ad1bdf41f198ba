"""One fine-tuning, from the texts to its metrics."""

import shutil
from importlib.metadata import version

import numpy as np
from sklearn.metrics import f1_score

from seqlib import study
from seqlib.allocator import keep_freed_memory
from seqlib.studies.ernie import bases, classifier, framework, sentences
from seqlib.studies.ernie.specs import COST, LENGTH, SAME_RATE, ErnieSpec
from seqlib.studies.ernie.train import logits_of, nats, train

DEV_EXAMPLES = {1: 256, 2: 512}  # by epochs: headlines that the document evaluates on


def chosen(part: sentences.Part, count: int, seed: int) -> np.ndarray:
    """Numbers of `count` examples of a part, drawn by seed; all in order where it has no more."""
    if not count or count >= len(part):
        return np.arange(len(part))
    return np.random.default_rng([seed, 6]).permutation(len(part))[:count]


def fine_tune(spec: ErnieSpec, run: study.Run) -> tuple[dict, dict]:
    """Metrics and curves of a run. Raises FloatingPointError when the loss is not finite."""
    framework.set_up(passive=spec.stage == COST)
    framework.place(spec.device)
    text, base = sentences.load(spec.text), bases.load_base(spec)
    run.facts |= {"data_sha256": text.sha256, "data": text.name, "base_sha256": base.sha256,
                  "versions": {name: version(name) for name in ("paddlepaddle", "paddlenlp")}}

    def examples(part: sentences.Part, count: int) -> tuple[list[list[int]], np.ndarray]:
        own = chosen(part, count, spec.seed)
        rows = sentences.encode(base.vocab, [part.sentences[i] for i in own], spec.length)
        return rows, np.array(part.classes)[own]

    train_rows, train_classes = examples(text.train, spec.examples)
    published = DEV_EXAMPLES.get(spec.epochs, 0) if spec.protocol == "published" else 0
    dev_rows, dev_classes = examples(text.dev, spec.dev_examples or published)
    model = classifier.classifier(base, len(text.classes), spec.seed)
    model = classifier.prepare(model, spec)

    def validate() -> tuple[float, float]:
        logits = logits_of(model, dev_rows)
        right = logits.argmax(1) == dev_classes
        return float(nats(logits, dev_classes).mean()), float(right.mean())

    keep_freed_memory()  # not before: what loading took is given back
    taken, curves = train(model, train_rows, train_classes, spec, validate)
    metrics = classifier.count(model) | taken
    metrics["trainable_percent"] = 100 * metrics["trainable"] / metrics["total"]
    after = nats(logits_of(model, train_rows), train_classes)
    metrics["train_loss_nats"] = float(after.mean())
    if spec.stage in ("final", SAME_RATE):
        test_rows, test_classes = examples(text.test, 0)
        logits = logits_of(model, test_rows)
        metrics |= scores(logits, test_classes, spec.batch)
        metrics["saved_bytes"] = saved(spec, model)
        curves["test_predicted"] = logits.argmax(1).tolist()
        curves["test_classes"] = test_classes.tolist()
    return metrics, curves


def scores(logits: np.ndarray, classes: np.ndarray, batch: int) -> dict[str, float]:
    """Of the test set. The published program's loss is a sum of means of batches, divided by the
    number of examples."""
    each, predicted = nats(logits, classes), logits.argmax(1)
    means = [each[i : i + batch].mean() for i in range(0, len(each), batch)]
    return {"test_loss_nats": float(each.mean()),
            "test_loss_as_published": float(sum(means) / len(each)),
            "test_accuracy": float((predicted == classes).mean()),
            "test_macro_f1": float(f1_score(classes, predicted, average="macro"))}


def saved(spec: ErnieSpec, model) -> int:
    """Bytes of what was trained. That of the final fair run of seed 0 stays in scratch."""
    folder = study.weights(spec)
    size = classifier.save(model, folder)
    if spec.seed or spec.protocol != "fair" or spec.stage != "final":
        shutil.rmtree(folder)
    return size


def trained_model(spec: ErnieSpec):
    """The model that a run has left in scratch, and its vocabulary. Raises UsageError if none."""
    text, base = sentences.load(spec.text), bases.load_base(spec)
    model = classifier.classifier(base, len(text.classes), spec.seed)
    model = classifier.load_trained(model, spec, study.weights(spec))
    model.eval()
    return model, base.vocab


def probabilities(model, vocab: list[str], sentence: str) -> np.ndarray:
    """Probability of every class (classes,) of a sentence. Raises UsageError on an empty one."""
    logits = logits_of(model, sentences.encode(vocab, [sentence], LENGTH))[0].astype(float)
    share = np.exp(logits - logits.max())
    return share / share.sum()
