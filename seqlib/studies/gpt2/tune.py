"""One fine-tuning, from the base and its text to metrics, and what the trained models write."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError

from seqlib import study
from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.store import write_atomically
from seqlib.studies.gpt2 import adapters, arms, bases, books
from seqlib.studies.gpt2.specs import TuneSpec
from seqlib.studies.gpt2.train import State, mean_nats, nats, train

PROMPTS = ("ROMEO:\nWhat shall I do?", "The data set has", "Lorem ipsum dolor sit amet,")
WRITTEN, TEMPERATURE = 40, 0.8  # tokens of a sample
VALIDATIONS = 2  # of a training, evenly over its steps
ABOUT = "seqlib.json"  # beside an adapter: which base it belongs to


def fine_tune(spec: TuneSpec, run: study.Run) -> tuple[dict, dict]:
    """Metrics and curves of a run. Raises FloatingPointError when the loss is not finite,
    UsageError on a text that is too short."""
    keep_freed_memory()
    base = bases.locate(spec.base)
    texts = books.texts_of(spec, base)
    elsewhere = books.elsewhere(base, spec.context)
    run.facts["data_sha256"] = texts.book.sha256
    run.facts |= {"data": texts.book.source, "base_sha256": base.sha256}
    with torch.random.fork_rng(devices=[]):
        accelerator = Accelerator(cpu=run.device.type == "cpu")
        state = start(spec, base, accelerator)
        remembered = mean_nats(state.scored, elsewhere)
        before = mean_nats(state.scored, texts.test) if texts.test is not None else None
        if spec.steps:
            checkpoint = run.checkpoint()
            saved = run.resume(checkpoint)
            if saved is not None:
                state.load(saved)
            train_on(texts, state, spec, save=checkpoint.save, accelerator=accelerator)
        else:
            loss = mean_nats(state.scored, texts.validation)
            state.curves |= {"val_steps": [0], "val_loss": [loss]}
        after = mean_nats(state.scored, elsewhere)
        metrics = described(spec, base, texts, state) | {
            "elsewhere_loss_nats_before": remembered, "elsewhere_loss_nats": after,
            "forgetting_nats": after - remembered}
        curves = {name: state.curves[name] for name in ("train_loss", "val_steps", "val_loss")}
        if texts.test is not None:
            windows = nats(state.scored, texts.test)
            metrics |= tested(base, texts, float(windows.mean()), before)
            metrics |= saved_bytes(spec, base, state.scored.model)
            curves["test_window_nats"] = windows.tolist()
        if texts.test is not None and not spec.seed:
            model, tokenizer = state.scored.model, bases.tokenizer(base)
            curves["samples"] = [write(model, tokenizer, prompt, seed=0) for prompt in PROMPTS]
    return metrics, curves


def start(spec: TuneSpec, base: bases.Base, accelerator: Accelerator) -> State:
    """The base as an arm trains it, with its optimizer."""
    torch.manual_seed(spec.seed)
    model = bases.model(base)
    bases.check_context(model, spec.context)
    model = adapters.prepare(model, spec.arm, r=spec.r, alpha=spec.alpha, dropout=spec.dropout,
                             targets=spec.targets)
    return State.start(model.to(accelerator.device), spec.lr, spec.steps)


def train_on(texts: books.Texts, state: State, spec: TuneSpec, **more) -> None:
    """Train a state to the end on the windows of a run; `more` as in `train`."""
    first = books.order(spec, texts)
    at = {max(1, spec.steps * i // VALIDATIONS) for i in range(1, VALIDATIONS + 1)}
    validate = dict.fromkeys(at, lambda scored: mean_nats(scored, texts.validation))
    train(state, lambda i: books.windows(texts.book.train, first[i], spec.context),
          steps=spec.steps, seed=spec.seed, validate=validate, **more)


def described(spec: TuneSpec, base: bases.Base, texts: books.Texts, state: State) -> dict:
    """Size, cost and validation loss of a trained model; they know nothing of the test."""
    metrics, loss = adapters.count(state.scored), state.curves["val_loss"][-1]
    metrics["trainable_percent"] = 100 * metrics["trainable"] / metrics["total"]
    metrics |= {"val_loss_nats": loss, "val_perplexity": np.exp(loss),
                "val_nats_per_character": per_character(loss, base, texts.validation)}
    if spec.steps:
        step = float(np.median(state.curves["step_seconds"]))
        metrics |= {"seconds": sum(state.curves["step_seconds"]), "step_seconds": step,
                    "step_cpu_seconds": float(np.median(state.curves["step_cpu_seconds"])),
                    "tokens_per_second": spec.batch * spec.context / step,
                    "train_loss_nats": float(np.mean(state.curves["train_loss"][-10:]))}
        if spec.device != "cuda":  # of a card, the kit reports it
            metrics["peak_memory_mb"] = state.peak_memory_mb
    return metrics


def tested(base: bases.Base, texts: books.Texts, loss: float, before: float) -> dict[str, float]:
    """Figures of the test text from its loss, and from that of the base `before`."""
    return {"test_loss_nats": loss, "test_perplexity": np.exp(loss),
            "test_nats_per_character": per_character(loss, base, texts.test),
            "test_loss_nats_before": before, "gain_nats": before - loss}


def per_character(loss: float, base: bases.Base, windows: torch.Tensor) -> float:
    """Nats a character, from nats a token: what tokenizers can be compared by."""
    return loss * windows[:, 1:].numel() / books.characters(base, windows)


def saved_bytes(spec: TuneSpec, base: bases.Base, model) -> dict[str, int]:
    """Bytes of the saved adapter or model. What the first seed of a fair run trained stays in
    scratch, for `continuation`."""
    if not arms.find(spec.arm).trains:
        return {}
    folder = study.weights(spec)
    shutil.rmtree(folder, ignore_errors=True)
    save(model, base, folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if spec.seed or spec.protocol != "fair":
        shutil.rmtree(folder)
    return {"saved_bytes": size}


def save(model, base: bases.Base, folder: Path, **facts) -> None:
    """Save an adapter, or a whole model, with a note on the base that it came from."""
    model.save_pretrained(folder, safe_serialization=True)
    about = {"base": base.name, "sha256": base.sha256, **facts}
    write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())


def adapted(base: bases.Base, folder: Path):
    """The base with a saved adapter. Raises UsageError when the adapter belongs to another base."""
    for wanted in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / wanted).exists():
            raise UsageError(f"no adapter in {folder}: it has no {wanted}; name a folder that peft "
                             "has saved one to")
    try:
        if (folder / ABOUT).exists():
            about = json.loads((folder / ABOUT).read_text())
            name, same = about["base"], about["sha256"] == base.sha256
        else:  # as peft alone has written it
            name = PeftConfig.from_pretrained(folder).base_model_name_or_path or "unknown"
            same = name in (base.name, str(base.folder), bases.HUB_NAMES.get(base.name))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"adapter {folder}: {ABOUT} or adapter_config.json is damaged; save the "
                         "adapter anew") from error
    if not same:
        raise UsageError(f"adapter {folder} belongs to the base {name!r}, not to {base.name!r}; "
                         "load it on its own")
    return PeftModel.from_pretrained(bases.model(base), folder)


@functools.lru_cache(maxsize=4)
def trained_model(spec: TuneSpec):
    """The model that a run has left in scratch; of the arm frozen the base. Raises SeqlibError
    where there is none, or it is damaged."""
    base, folder, arm = bases.locate(spec.base), study.weights(spec), arms.find(spec.arm)
    if not arm.trains:
        return bases.model(base).eval()
    if not folder.exists():
        raise SeqlibError(f"no weights of {spec.arm} seed {spec.seed} in {folder.parent}, where "
                          "those of seed 0 are kept; empty SEQLIB_RUNS and train it again")
    try:
        tuned = bases.Base(spec.base, folder, "")
        return (bases.model(tuned) if arm.whole else adapted(base, folder)).eval()
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise SeqlibError(f"the weights of {spec.arm} in {folder} are damaged "
                          f"({first_line(error)}); empty SEQLIB_RUNS and train it again") from error


def continuation(spec: TuneSpec, prompt: str, *, temperature: float = TEMPERATURE,
                 length: int = WRITTEN, seed: int = 0) -> str:
    """What the model of a finished live run writes behind a prompt; of the arm frozen, the base.
    Raises UsageError on an empty prompt, SeqlibError where the run has left no weights."""
    if not prompt.strip():
        raise UsageError("the prompt is empty; type some words")
    model, tokenizer = trained_model(spec), bases.tokenizer(bases.locate(spec.base))
    with torch.random.fork_rng(devices=[]):
        return write(model, tokenizer, prompt, seed=seed, temperature=temperature, length=length)


@torch.no_grad()
def write(model, tokenizer, prompt: str, *, seed: int, temperature: float = TEMPERATURE,
          length: int = WRITTEN) -> str:
    """What a model writes behind a prompt; the prompt is not part of it."""
    model.eval()
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    ids = ids.to(next(model.parameters()).device)
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0}
    torch.manual_seed(seed)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, use_cache=True,
        pad_token_id=0, eos_token_id=None, **sampled if temperature > 0 else {"do_sample": False})
    return tokenizer.decode(out[0, ids.shape[1] :])
