"""How one spec of the text study becomes a record."""

import functools
import time

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError
from seqlib.models.recurrent import RecurrentLM
from seqlib.provenance import code_hash, peak_rss_mb, provenance
from seqlib.record import Record, digest
from seqlib.store import scratch, write_atomically
from seqlib.studies.shakespeare import corpus as texts
from seqlib.studies.shakespeare import evaluate
from seqlib.studies.shakespeare.arms import build
from seqlib.studies.shakespeare.train import GROUP, State, initial, train

MODULES = tuple(f"seqlib.models.{m}" for m in ("additive", "recurrent", "transformer")) + tuple(
    f"seqlib.studies.shakespeare.{m}" for m in ("arms", "corpus", "train", "evaluate", "run"))
SAMPLED = (0.5, 0.8, 1.0)  # temperatures of the samples that a record keeps


def run(spec) -> Record:
    """Train and evaluate one spec. Raises SeqlibError when the loss is not finite or the text too short."""
    keep_freed_memory()
    began, clock = time.time(), time.perf_counter()
    corpus = texts.load(spec.corpus)
    texts.check_length(corpus, spec.context)
    state = State.start(initial(lambda: build(spec.arm, corpus.V, spec.context), spec.seed), spec.lr)
    held_out, path = evaluate.validation(corpus), checkpoint_path(spec, MODULES)
    state, resumed = resume(state, path)

    @functools.lru_cache(maxsize=1)
    def starts(epoch):
        return texts.starts(spec.seed, epoch, spec.epoch_steps, spec.batch, len(corpus.train) - spec.context - 1)

    def batches(step):
        epoch, i = divmod(step, spec.epoch_steps)
        return *texts.gather(corpus.train, starts(epoch)[i], spec.context), None

    half = spec.epoch_steps if spec.epoch_steps % 2 else spec.epoch_steps // 2  # an epoch's end is always evaluated
    finite(spec, lambda: train(state, batches, spec.epochs * spec.epoch_steps, half,
                               lambda model: evaluate.score(model, held_out, spec.context).nats,
                               lambda tensors: write_atomically(path, save(tensors))))
    path.unlink(missing_ok=True)
    write_atomically(weights_path(spec), save({k: v.detach().contiguous() for k, v in state.model.state_dict().items()}))
    metrics, curves = describe(spec, corpus, state)
    source = provenance(MODULES, corpus.sha256, data=corpus.name, started_unix=round(began), resumed=resumed,
                        wall_seconds=round(time.perf_counter() - clock, 3))
    return Record.of(spec, metrics | {"peak_rss_mb": peak_rss_mb()}, curves, source)


def finite(spec, call):
    try:
        return call()
    except FloatingPointError as error:
        raise SeqlibError(f"{spec.study}/{spec.arm} seed {spec.seed}: {error}; lower lr ({spec.lr})") from error


def timing(state: State, flop_per_token: float, tokens: int) -> dict:
    """Seconds of the training loop alone; the median step is what a disturbed machine moves least, and its processor time
    (of all threads) less still."""
    step = float(np.median(state.step_seconds))
    return {"seconds": sum(state.step_seconds), "step_seconds": step,
            "step_cpu_seconds": float(np.median(state.step_cpu_seconds)), "tokens_per_second": tokens / step,
            "parameters": sum(p.numel() for p in state.model.parameters()), "flop_per_token": flop_per_token}


def grouped(values: list[float], size: int) -> list[float]:
    """Means of `size` values at a time."""
    return [float(np.mean(values[i : i + size])) for i in range(0, len(values), size)]


def describe(spec, corpus, state: State) -> tuple[dict, dict]:
    """Metrics and curves of a trained model."""
    model, context, held_out = state.model, spec.context, evaluate.validation(corpus)
    scores = evaluate.score(model, held_out, context)
    seen = evaluate.score(model, corpus.train[-len(held_out) :], context)
    metrics = {"val_loss_nats": scores.nats, "val_bits_per_character": scores.nats / np.log(2),
               "val_perplexity": np.exp(scores.nats), "val_accuracy": scores.correct.mean(),
               "train_slice_loss_nats": seen.nats, "generalisation_gap_nats": scores.nats - seen.nats}
    metrics |= timing(state, model.flop_per_token(context), spec.batch * context)
    for epoch, loss in enumerate(grouped(state.train_loss, spec.epoch_steps), 1):
        metrics[f"train_loss_nats_epoch{epoch}"] = loss
        metrics[f"val_loss_nats_epoch{epoch}"] = state.val_loss[state.val_steps.index(epoch * spec.epoch_steps)]
        metrics[f"val_perplexity_epoch{epoch}"] = np.exp(metrics[f"val_loss_nats_epoch{epoch}"])
    counts = evaluate.context_frequency(corpus)
    bins = np.digitize(counts, evaluate.FREQUENCIES) - 1
    n = len(evaluate.FREQUENCIES)
    seconds = np.cumsum(state.step_seconds)
    curves = {"train_loss": grouped(state.train_loss, GROUP), "val_steps": state.val_steps, "val_loss": state.val_loss,
              "val_seconds": [float(seconds[s - 1]) for s in state.val_steps],
              "loss_by_position": evaluate.by_group(scores.loss, scores.given - 1, context),
              "accuracy_by_position": evaluate.by_group(scores.correct, scores.given - 1, context),
              "loss_by_frequency": evaluate.by_group(scores.loss, bins, n),
              "accuracy_by_frequency": evaluate.by_group(scores.correct, bins, n),
              "count_by_frequency": np.bincount(bins, minlength=n).tolist()}
    curves["given"] = [k for k in evaluate.GIVEN if k <= context]
    curves["loss_given"] = [evaluate.loss_given(model, held_out, k, context) for k in curves["given"]]
    metrics |= {f"loss_given_{k}_nats": loss for k, loss in zip(curves["given"], curves["loss_given"])}
    unmasked = isinstance(model, RecurrentLM) and model.attention == "unmasked"
    looks = None if unmasked else evaluate.attention_by_distance(model, held_out, context)
    if looks is not None:
        curves["attention_by_distance"] = looks
        metrics |= {"attention_mean_distance": float(looks @ np.arange(context)),
                    "attention_mass_last8": float(looks[:8].sum())}
    if unmasked:
        model.attention = "causal"  # the same weights, without the future that they were trained to look at
        metrics["val_loss_masked_nats"] = evaluate.score(model, held_out, context).nats
    return metrics | sampled(model, corpus, spec, curves), curves


def sampled(model, corpus, spec, curves: dict) -> dict:
    """Samples go to curves["samples"], one text a temperature; the metric tells how many words of others are real."""
    prompt = corpus.encode("\n" if "\n" in corpus.alphabet else corpus.alphabet[0])
    curves["samples"] = [corpus.decode(evaluate.generate(model, prompt, 240, t, spec.seed, spec.context)[0])
                         for t in SAMPLED]
    words = set(corpus.decode(corpus.train).split())
    drawn = evaluate.generate(model, prompt, 512, 0.8, spec.seed, spec.context, copies=8)
    return {"sample_known_words": float(np.mean([evaluate.known_words(corpus.decode(t), words) for t in drawn]))}


def checkpoint_path(spec, modules: tuple[str, ...]):
    """Checkpoints are bound to the settings and the code that wrote them."""
    return scratch() / "checkpoints" / f"shakespeare-{digest([spec.key, code_hash(modules)])[:32]}.safetensors"


def resume(state: State, path) -> tuple[State, bool]:
    """The state of a checkpoint, where there is a sound one."""
    try:
        if path.exists():
            state.load(load(path.read_bytes()))
            return state, True
    except SafetensorError:
        path.unlink()
    return state, False


def weights_path(spec):
    return scratch() / "weights" / f"shakespeare-{spec.key}.safetensors"


def trained_model(spec, corpus) -> torch.nn.Module:
    """The model of a finished live run, from its weights in scratch. Raises SeqlibError where there are none."""
    path = weights_path(spec)
    if not path.exists():
        raise SeqlibError(f"no weights of {spec.arm} seed {spec.seed} in {path.parent}; train it with `seqlib sweep "
                          "shakespeare`, or run the notebook's live cell")
    model = build(spec.arm, corpus.V, spec.context)
    model.load_state_dict(load(path.read_bytes()))
    return model.eval()
