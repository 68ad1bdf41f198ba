"""How one spec of the GPT-2 study becomes a record."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftConfig, PeftModel
from safetensors.torch import save
from torch import Tensor

from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError, UsageError
from seqlib.provenance import code_hash, provenance
from seqlib.record import Record, digest
from seqlib.store import scratch, write_atomically
from seqlib.studies.gpt2 import bases, books
from seqlib.studies.gpt2.arms import count, prepare
from seqlib.studies.gpt2.specs import LORA, MODULES, TINY
from seqlib.studies.gpt2.train import Scored, State, mean_nats, nats, train
from seqlib.training import checkpoint, in_own_process

VALIDATION, TEST, ELSEWHERE = 2048, 4096, 2048  # tokens of the evaluations
PROMPTS = ("ROMEO:\nWhat shall I do?", "The data set has", "Lorem ipsum dolor sit amet,")
WRITTEN, TEMPERATURE = 40, 0.8  # tokens of a sample
VALIDATIONS = 2  # of a training, evenly over its steps
ABOUT = "seqlib.json"  # beside an adapter: which base it belongs to


def run(spec) -> Record:
    """Train and evaluate one spec, in a process of its own, whose peak memory is then that of this arm alone; the tiny base of
    the tests in this one. Raises SeqlibError when the loss is not finite, a text too short, or that process dies."""
    if spec.base == TINY:
        return train_and_describe(spec)
    return in_own_process(train_and_describe, spec, torch.get_num_threads())


@dataclass(frozen=True)
class Texts:
    """`train`: first tokens of the windows of the book's training part that a run draws from. `validation` and `test`: the
    windows (N, T + 1) that it is evaluated on, in order; a run that chooses a rate has no test."""

    book: books.Book
    train: np.ndarray
    validation: Tensor
    test: Tensor | None


def texts_of(spec, base: bases.Base) -> Texts:
    """Raises UsageError on a text that is too short."""
    book, T = books.load(base, spec.text, spec.book_path), spec.context

    def apart(part: Tensor, name: str, most: int) -> Tensor:
        first = books.starts(len(part), T, T, f"{book.name}, {name}")
        return books.windows(part, books.spread(first, max(1, most // T)), T)

    test = apart(book.test, "test", TEST) if spec.stage == "final" else None
    if spec.protocol == "fair":
        held = apart(book.validation, "validation", VALIDATION)
        return Texts(book, books.starts(len(book.train), T, T, book.name), held, test)
    N = spec.slice_tokens
    if N > len(book.train):
        raise UsageError(f"slice_tokens: {N} is more than the {len(book.train)} tokens of {book.name}; lower it")
    cut = N - N // 10
    overlapping = books.windows(book.train, cut + books.starts(N - cut, T, 1, "a tenth of the slice"), T)
    return Texts(book, books.starts(cut, T, 1, "the slice"), overlapping, test)


def order(spec, texts: Texts) -> np.ndarray:
    """First tokens of every step's windows (steps, B): a run goes through all windows before it sees one again. The same tokens
    in the same order for all arms of a seed, whatever their batch."""
    random, needed, parts = np.random.default_rng([spec.seed, 0]), spec.steps * spec.batch, []
    while sum(map(len, parts)) < needed:
        parts.append(random.permutation(texts.train))
    return np.concatenate(parts)[:needed].reshape(spec.steps, spec.batch)


def train_and_describe(spec) -> Record:
    keep_freed_memory()
    began, clock = time.time(), time.perf_counter()
    base = bases.locate(spec.base)
    texts = texts_of(spec, base)
    with torch.random.fork_rng(devices=[]):
        state, resumed, before = tuned(spec, base, texts)
        metrics, curves = describe(spec, base, texts, state, before)
    source = provenance(MODULES, texts.book.sha256, data=texts.book.source, base_sha256=base.sha256, started_unix=round(began),
                        resumed=resumed, wall_seconds=round(time.perf_counter() - clock, 3))
    return Record.of(spec, metrics, curves, source)


def tuned(spec, base: bases.Base, texts: Texts, accelerator=None) -> tuple[State, bool, dict]:
    """A trained state, whether it was resumed, and what the base alone says and loses."""
    torch.manual_seed(spec.seed)
    model = bases.model(base)
    bases.check_context(model, spec.context)
    model = prepare(model, spec.arm, spec.r, spec.alpha, spec.dropout, spec.targets)
    state = State.start(model.to((accelerator or Accelerator()).device), spec.lr, spec.steps)
    before = {"elsewhere": elsewhere(state.scored, spec, base)} if accelerator is None else {}
    if texts.test is not None:
        before["test"] = mean_nats(state.scored, texts.test)
    if not spec.steps:
        return state, False, before
    starts, path = order(spec, texts), checkpoint_path(spec)
    kept = checkpoint(path) if accelerator is None else None  # several processes start anew: they share no scratch
    if kept:
        state.load(kept)
    finite(spec, lambda: train(
        state, lambda i: books.windows(texts.book.train, starts[i], spec.context), spec.steps, spec.seed,
        sorted({max(1, spec.steps * i // VALIDATIONS) for i in range(1, VALIDATIONS + 1)}),
        lambda scored: mean_nats(scored, texts.validation),
        (lambda tensors: write_atomically(path, save(tensors))) if accelerator is None else None, accelerator))
    if accelerator is None:
        path.unlink(missing_ok=True)
    return state, kept is not None, before


def elsewhere(scored: Scored, spec, base: bases.Base) -> float:
    """Loss on text from outside the book."""
    part = books.elsewhere(base)
    first = books.spread(books.starts(len(part), spec.context, spec.context, "elsewhere"),
                         max(1, ELSEWHERE // spec.context))
    return mean_nats(scored, books.windows(part, first, spec.context))


def finite(spec, call):
    try:
        return call()
    except FloatingPointError as error:
        raise SeqlibError(f"{spec.study}/{spec.arm} seed {spec.seed}: {error}; lower lr ({spec.lr})") from error


def describe(spec, base: bases.Base, texts: Texts, state: State, before: dict) -> tuple[dict, dict]:
    """Metrics and curves of a trained model; those of the stage `grid` know nothing of the test."""
    if not spec.steps:
        state.val_steps, state.val_loss = [0], [mean_nats(state.scored, texts.validation)]
    loss, after = state.val_loss[-1], elsewhere(state.scored, spec, base)
    metrics = count(state.scored) | {"val_loss_nats": loss, "val_perplexity": np.exp(loss),
                                     "val_nats_per_character": per_character(loss, base, texts.validation),
                                     "elsewhere_loss_nats_before": before["elsewhere"], "elsewhere_loss_nats": after,
                                     "forgetting_nats": after - before["elsewhere"]}
    metrics["trainable_percent"] = 100 * metrics["trainable"] / metrics["total"]
    if spec.steps:
        step = float(np.median(state.step_seconds))
        metrics |= {"seconds": sum(state.step_seconds), "step_seconds": step,
                    "step_cpu_seconds": float(np.median(state.step_cpu_seconds)),
                    "tokens_per_second": spec.batch * spec.context / step, "peak_memory_mb": state.peak_memory_mb,
                    "train_loss_nats": float(np.mean(state.train_loss[-10:]))}
    curves = {name: getattr(state, name) for name in ("train_loss", "val_steps", "val_loss")}
    if spec.stage == "final":
        windows = nats(state.scored, texts.test)
        test = float(windows.mean())
        metrics |= {"test_loss_nats": test, "test_perplexity": np.exp(test),
                    "test_nats_per_character": per_character(test, base, texts.test),
                    "test_loss_nats_before": before["test"], "gain_nats": before["test"] - test}
        metrics |= saved(spec, base, state.scored.model)
        curves["test_window_nats"] = windows.tolist()
        if not spec.seed:
            curves["samples"] = [write(state.scored.model, bases.tokenizer(base), p, spec.seed) for p in PROMPTS]
    return metrics, curves


def per_character(loss: float, base: bases.Base, windows: Tensor) -> float:
    """Nats a character, from nats a token: what tokenizers can be compared by."""
    return loss * windows[:, 1:].numel() / books.characters(base, windows)


@torch.no_grad()
def write(model, tokenizer, prompt: str, seed: int, temperature: float = TEMPERATURE, length: int = WRITTEN) -> str:
    """What a model writes behind a prompt; the prompt is not part of it."""
    model.eval()
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids.to(next(model.parameters()).device)
    torch.manual_seed(seed)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, use_cache=True,
                         pad_token_id=0, eos_token_id=None, **how)
    return tokenizer.decode(out[0, ids.shape[1] :])


def saved(spec, base: bases.Base, model) -> dict[str, int]:
    """Bytes of the saved adapter or model. What the first seed of a fair run trained stays in scratch, for the interactive
    cell."""
    if spec.arm == "frozen":
        return {}
    folder = weights_path(spec)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    write_atomically(folder / ABOUT, json.dumps({"base": base.name, "sha256": base.sha256}).encode())
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    if spec.seed or spec.protocol != "fair":
        shutil.rmtree(folder)
    return {"saved_bytes": size}


def weights_path(spec) -> Path:
    return scratch() / "weights" / f"gpt2-{spec.key}"


def adapted(base: bases.Base, folder: Path):
    """The base with a saved adapter. Raises UsageError when the adapter belongs to another base."""
    folder = Path(folder)
    for wanted in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / wanted).exists():
            raise UsageError(f"no adapter in {folder}: it has no {wanted}; name a folder that peft has saved one to")
    try:
        about = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).exists() else None
        named = about["base"] if about else PeftConfig.from_pretrained(folder).base_model_name_or_path or "unknown"
        same = about["sha256"] == base.sha256 if about else named in (
            base.name, str(base.folder), bases.HUB_NAMES.get(base.name))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"adapter {folder}: {ABOUT} or adapter_config.json is damaged; save the adapter anew") from error
    if not same:
        raise UsageError(f"adapter {folder} belongs to the base {named!r}, not to {base.name!r}; load it on its own")
    return PeftModel.from_pretrained(bases.model(base), folder)


def trained_model(spec):
    """The model of a finished live run, from scratch. Raises SeqlibError where there is none."""
    base, folder = bases.locate(spec.base), weights_path(spec)
    if spec.arm != "frozen" and not folder.exists():
        raise SeqlibError(f"no weights of {spec.arm} seed {spec.seed} in {folder.parent}; run the notebook's live cell with "
                          "seed 0, or `seqlib sweep gpt2`")
    if spec.arm in LORA:
        return adapted(base, folder).eval()
    return bases.model(base if spec.arm == "frozen" else bases.Base(spec.base, folder, "")).eval()


def checkpoint_path(spec) -> Path:
    """Checkpoints are bound to the settings and the code that wrote them."""
    return scratch() / "checkpoints" / f"gpt2-{digest([spec.key, code_hash(MODULES)])[:32]}.safetensors"
