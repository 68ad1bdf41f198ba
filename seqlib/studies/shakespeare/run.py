"""How a run trains and what is measured of it."""

import functools

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from seqlib.allocator import keep_freed_memory
from seqlib.store import Store, write_atomically
from seqlib.studies.shakespeare import corpus as texts
from seqlib.studies.shakespeare import evaluate, recall
from seqlib.studies.shakespeare.arms import ARMS
from seqlib.studies.shakespeare.specs import ShakespeareSpec
from seqlib.studies.shakespeare.train import GROUP, State, grouped, timing, train
from seqlib.study import Run, count_parameters, initial, study, weights
from seqlib.training import read_weights

SAMPLED = (0.5, 0.8, 1.0)  # temperatures of the samples that a record keeps


def build(spec: ShakespeareSpec) -> nn.Module:
    """The model of a run, its weights from torch's global generator."""
    if spec.corpus == "mqar":
        return ARMS[spec.arm].of_width(spec.width).build(recall.V, spec.context)
    return ARMS[spec.arm].build(texts.load(spec.corpus).V, spec.context)


def count(arm: str, V: int = 65, context: int = 128) -> dict[str, int]:
    """Trainable and total parameters at the published setting."""
    return count_parameters(lambda: ARMS[arm].build(V, context))


def data(specs: list[ShakespeareSpec]) -> list[str]:
    return sorted({spec.corpus for spec in specs} - {"mqar"})


@study(ShakespeareSpec, arms=ARMS, build=build, count=count, data=data)
def run(spec: ShakespeareSpec, model: nn.Module, run: Run) -> tuple[dict, dict]:
    """Metrics and curves of one run. Raises SeqlibError where the text is too short."""
    keep_freed_memory()
    checkpoint = run.checkpoint()
    state = State.start(model, spec.lr, run.resume(checkpoint))
    if spec.corpus == "mqar":
        run.facts["data"] = "mqar, drawn from the seed"
        return recall.run(spec, state, checkpoint.save)
    corpus = texts.load(spec.corpus)
    texts.check_length(corpus, spec.context)
    run.facts.update(data=corpus.name, data_sha256=corpus.sha256)
    held_out = evaluate.validation(corpus)

    @functools.lru_cache(maxsize=1)
    def starts(epoch: int) -> Tensor:
        last = len(corpus.train) - spec.context - 1
        return texts.starts(spec.seed, epoch, spec.epoch_steps, spec.batch, last)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(step, spec.epoch_steps)
        return texts.gather(corpus.train, starts(epoch)[i], spec.context)

    # an epoch's end is always evaluated
    half = spec.epoch_steps if spec.epoch_steps % 2 else spec.epoch_steps // 2
    train(state, batches, spec.epochs * spec.epoch_steps, half,
          lambda model: evaluate.score(model, held_out, spec.context).nats, checkpoint.save)
    kept = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(weights_path(spec), save(kept))
    return describe(spec, corpus, state)


def describe(spec: ShakespeareSpec, corpus: texts.Corpus, state: State) -> tuple[dict, dict]:
    """Metrics and curves of a trained model."""
    model, context, held_out = state.model, spec.context, evaluate.validation(corpus)
    scores = evaluate.score(model, held_out, context)
    seen = evaluate.score(model, corpus.train[-len(held_out) :], context)
    metrics = {"val_loss_nats": scores.nats, "val_bits_per_character": scores.nats / np.log(2),
               "val_perplexity": np.exp(scores.nats), "val_accuracy": scores.correct.mean(),
               "train_slice_loss_nats": seen.nats,
               "generalisation_gap_nats": scores.nats - seen.nats}
    metrics |= timing(state, context, spec.batch)
    curves = {"train_loss": grouped(state.curves["train_loss"], GROUP),
              "val_steps": state.curves["val_steps"], "val_loss": state.curves["val_loss"]}
    seconds = np.cumsum(state.curves["step_seconds"])
    curves["val_seconds"] = [float(seconds[step - 1]) for step in curves["val_steps"]]
    for epoch, loss in enumerate(grouped(state.curves["train_loss"], spec.epoch_steps), 1):
        after = curves["val_loss"][curves["val_steps"].index(epoch * spec.epoch_steps)]
        metrics[f"train_loss_nats_epoch{epoch}"] = loss
        metrics[f"val_loss_nats_epoch{epoch}"] = after
        metrics[f"val_perplexity_epoch{epoch}"] = np.exp(after)
    curves |= evaluate.breakdown(scores, evaluate.context_frequency(corpus), context)
    curves["given"] = [k for k in evaluate.GIVEN if k <= context]
    curves["loss_given"] = [evaluate.loss_given(model, held_out, k, context)
                            for k in curves["given"]]
    metrics |= {f"loss_given_{k}_nats": loss
                for k, loss in zip(curves["given"], curves["loss_given"])}
    if getattr(model, "attention", None) == "unmasked":
        model.attention = "causal"  # the same weights, without the future that they were shown
        metrics["val_loss_masked_nats"] = evaluate.score(model, held_out, context).nats
    else:
        looks = evaluate.attention_by_distance(model, held_out, context)
        if looks is not None:
            curves["attention_by_distance"] = looks
            metrics |= {"attention_mean_distance": float(looks @ np.arange(context)),
                        "attention_mass_last8": float(looks[:8].sum())}
    prompt = corpus.encode("\n" if "\n" in corpus.alphabet else corpus.alphabet[0])
    curves["samples"] = [
        corpus.decode(evaluate.generate(model, prompt, 240, t, spec.seed, context)[0])
        for t in SAMPLED]
    words = set(corpus.decode(corpus.train).split())
    drawn = evaluate.generate(model, prompt, 512, 0.8, spec.seed, context, copies=8)
    known = [evaluate.known_words(corpus.decode(text), words) for text in drawn]
    return metrics | {"sample_known_words": float(np.mean(known))}, curves


def weights_path(spec: ShakespeareSpec):
    """The weights that a run on a text leaves in scratch."""
    return weights(spec).with_suffix(".safetensors")


def trained(key: str) -> tuple[nn.Module, texts.Corpus] | None:
    """Model and text of a live run, by its key; None where its weights are not in scratch."""
    record = Store.live().by_key("shakespeare", key)
    spec = ShakespeareSpec(**record.spec) if record else None
    if spec is None or not weights_path(spec).exists():
        return None
    model = initial(lambda: build(spec), spec.seed)
    model.load_state_dict(read_weights(weights_path(spec)))
    return model.eval(), texts.load(spec.corpus)
