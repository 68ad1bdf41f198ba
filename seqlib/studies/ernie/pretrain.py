"""Pretraining of a small ERNIE: masked language modelling (Devlin et al., arXiv 1810.04805, section 3.1) and the order of a
sentence's two halves (sentence reordering, ERNIE 2.0, arXiv 1907.12412, section 4.2.2), which trains the pooler as well.

In torch, where a step is faster than in Paddle on a processor: Hugging Face's ErnieForPreTraining, which has Paddle's layers.
No dropout; batches of like lengths; the output layer at masked positions alone; products of bfloat16, summed in float32,
where the processor multiplies those faster. What is made stays in the cache with its record.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import ErnieConfig, ErnieForPreTraining, get_linear_schedule_with_warmup

from seqlib import data, headlines
from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError
from seqlib.provenance import code_hash, provenance
from seqlib.record import Record, digest
from seqlib.store import scratch, write_atomically
from seqlib.studies.ernie import bases, sentences
from seqlib.studies.ernie.specs import MAKERS, ErnieSpec, pretraining
from seqlib.training import checkpoint

LR, DECAY, WARM_UP, CLIP = 5e-4, 0.01, 0.03, 1.0
MASKED, TO_MASK, TO_RANDOM = 0.15, 0.8, 0.1  # share of the tokens that are to be told, and what they are exchanged for
PAIRS = 0.25  # share of the sentences that are cut into two halves
ORDER = 0.1  # weight of the loss of their order; with 1 the masked tokens are learned far later
HELD_OUT = 1024  # sentences that the validation loss is taken on
CHECKPOINT, EVERY = 500, 50  # steps between two checkpoints; steps that a point of the loss curve is the mean of
POOL = 50  # batches that are sorted by length together
SPECIALS = len(sentences.SPECIAL)
ENDS = "，。！？；：、,!?;: "


@dataclass(frozen=True)
class Batch:
    """`ids`, `types` (B, T); `where` (B, T) tells the masked positions, `told` (M,) what stood there; `swapped` (B,) is 1 where
    the halves are in the wrong order, 0 where they are not, -1 where there are none."""

    ids: Tensor
    types: Tensor
    where: Tensor
    told: Tensor
    swapped: Tensor


def pieces(text: Sequence[str], most: int) -> list[str]:
    """Sentences, longer ones cut behind a mark of punctuation where there is one, into pieces of at most `most` characters."""
    out = []
    for s in text:
        while len(s) > most:
            cut = max((s.rfind(mark, most // 2, most) for mark in ENDS), default=-1) + 1 or most
            out.append(s[:cut])
            s = s[cut:]
        out.append(s)
    return [s for s in out if s.strip()]


def order(lengths: np.ndarray, B: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of one pass over all sentences, like lengths together, in a random order."""
    random = np.random.default_rng([seed, 0, epoch])
    drawn, batches = random.permutation(len(lengths)), []
    for pool in np.array_split(drawn, max(1, len(drawn) // (B * POOL))):
        own = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [own[i : i + B] for i in range(0, len(own), B)]
    return [batches[i] for i in random.permutation(len(batches))]


def batch(rows: list[list[int]], tokens: int, random: np.random.Generator) -> Batch:
    """Sentences (token numbers with [CLS] and [SEP]) as a task: some halves exchanged, some tokens masked."""
    built, types, swapped = [], [], []
    for row in rows:
        inner, half = row[1:-1], (len(row) - 2) // 2
        if half >= 2 and random.random() < PAIRS:
            wrong = int(random.random() < 0.5)
            a, b = (inner[half:], inner[:half]) if wrong else (inner[:half], inner[half:])
            built.append([row[0], *a, row[-1], *b, row[-1]])
            types.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
            swapped.append(wrong)
        else:
            built.append(row)
            types.append([0] * len(row))
            swapped.append(-1)
    T = max(map(len, built))
    ids, kinds = np.zeros((len(built), T), np.int64), np.zeros((len(built), T), np.int64)
    for i, (row, kind) in enumerate(zip(built, types)):
        ids[i, : len(row)], kinds[i, : len(row)] = row, kind
    words = ids >= SPECIALS
    where = words & (random.random(ids.shape) < MASKED)
    for i in np.flatnonzero(~where.any(1) & words.any(1)):
        where[i, random.choice(np.flatnonzero(words[i]))] = True
    told, fate = ids[where], random.random(where.sum())
    ids[where] = np.where(fate < TO_MASK, sentences.MASK, np.where(
        fate < TO_MASK + TO_RANDOM, random.integers(SPECIALS, tokens, len(told)), told))
    return Batch(*map(torch.from_numpy, (ids, kinds, where, told, np.array(swapped))))


def outputs(model: ErnieForPreTraining, task: Batch) -> tuple[Tensor, Tensor]:
    """Last states (B, T, C) and pooled ones (B, C)."""
    return model.ernie(input_ids=task.ids, token_type_ids=task.types, attention_mask=(task.ids != sentences.PAD).long())[:2]


def losses(model: ErnieForPreTraining, task: Batch) -> tuple[Tensor, Tensor]:
    """Mean loss, in nats, of the masked tokens and of the order of the halves (0 where there are no halves)."""
    return losses_of(model, task, *outputs(model, task))


def losses_of(model: ErnieForPreTraining, task: Batch, states: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    masked = F.cross_entropy(model.cls.predictions(states[task.where]), task.told)
    halves = task.swapped >= 0
    if not halves.any():
        return masked, masked.new_zeros(())
    return masked, F.cross_entropy(model.cls.seq_relationship(pooled[halves]), task.swapped[halves])


@dataclass
class State:
    """A model in pretraining; `losses` has the masked loss of every step."""

    model: ErnieForPreTraining
    optimizer: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.LambdaLR
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, spec: ErnieSpec, tokens: int) -> "State":
        torch.manual_seed(spec.seed)
        shape = bases.config(spec.base, tokens) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = ErnieForPreTraining(ErnieConfig(**shape))
        positions = model.ernie.embeddings.position_embeddings.weight
        positions.data.copy_(torch.from_numpy(bases.first_positions(spec.base)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
        warm = round(WARM_UP * spec.base_steps)
        return cls(model, optimizer, get_linear_schedule_with_warmup(optimizer, warm, spec.base_steps))

    def tensors(self) -> dict[str, Tensor]:
        out = {"at": torch.tensor([self.step, self.seconds, self.tokens], dtype=torch.float64),
               "losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, p in self.model.named_parameters():
            out |= {f"weight.{name}": p.detach()} | {f"adam.{name}.{k}": v for k, v in self.optimizer.state[p].items()}
        return out

    def resume(self, saved: dict[str, Tensor]) -> None:
        for name, p in self.model.named_parameters():
            p.data.copy_(saved[f"weight.{name}"])
            self.optimizer.state[p] = {k: saved[f"adam.{name}.{k}"].clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        step, self.seconds, tokens = saved["at"].tolist()
        self.step, self.tokens, self.losses = int(step), int(tokens), saved["losses"].tolist()
        self.schedule.last_epoch = self.step
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs):
            group["lr"] = rate * self.schedule.lr_lambdas[0](self.step)


@contextmanager
def fast_products() -> Iterator[None]:
    """Matrix products of float32 may be taken in bfloat16 meanwhile (the whole process)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@fast_products()
def train(state: State, rows: list[list[int]], tokens: int, spec: ErnieSpec, keep=None) -> State:
    """Train until `base_steps`; `keep` gets the tensors of a checkpoint now and then. Raises
    FloatingPointError when the loss is not finite."""
    lengths, epoch, batches, first = np.array([len(row) for row in rows]), -1, [], 0
    state.model.train()
    while state.step < spec.base_steps:
        while state.step >= first + len(batches):
            first, epoch = first + len(batches), epoch + 1
            batches = order(lengths, spec.batch, spec.seed, epoch)
        began = time.perf_counter()
        task = batch([rows[i] for i in batches[state.step - first]], tokens, np.random.default_rng([spec.seed, 1, state.step]))
        masked, halves = losses(state.model, task)
        state.optimizer.zero_grad()
        (masked + ORDER * halves).backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), CLIP)
        state.optimizer.step()
        state.schedule.step()
        state.losses.append(float(masked.detach()))
        if not state.losses[-1] < float("inf"):
            raise FloatingPointError(f"pretraining loss is {state.losses[-1]} at step {state.step + 1}")
        state.step += 1
        state.tokens += int((task.ids != sentences.PAD).sum())
        state.seconds += time.perf_counter() - began
        if keep and state.step % CHECKPOINT == 0 and state.step < spec.base_steps:
            keep(state.tensors())
    return state


@torch.no_grad()
def evaluate(model: ErnieForPreTraining, rows: list[list[int]], tokens: int, seed: int) -> dict[str, float]:
    """On sentences held out: masked loss, that of the best model that knows frequencies alone, accuracy of the halves'
    order."""
    model.eval()
    random, told, halves, right, total = np.random.default_rng([seed, 2]), [], 0, 0, 0.0
    for i in range(0, len(rows), 64):
        task = batch(rows[i : i + 64], tokens, random)
        states, pooled = outputs(model, task)
        total += float(losses_of(model, task, states, pooled)[0]) * len(task.told)
        told += task.told.tolist()
        chosen = task.swapped >= 0
        predicted = model.cls.seq_relationship(pooled[chosen]).argmax(-1)
        right += int((predicted == task.swapped[chosen]).sum())
        halves += int(chosen.sum())
    share = np.array(list(Counter(told).values())) / len(told)
    return {"masked_loss_nats": total / len(told), "unigram_loss_nats": float(-(share * np.log(share)).sum()),
            "halves_accuracy": right / max(1, halves)}


def folder_of(spec: ErnieSpec) -> Path:
    """Bound to the settings, the architecture, the texts and the code that makes it."""
    return data.cache() / "ernie" / digest([spec.key, bases.config(spec.base), texts_sha256(spec), code_hash(MAKERS)])[:24]


def texts_sha256(spec: ErnieSpec) -> str:
    more = "" if spec.text == headlines.REVIEWS else data.locate(headlines.TEXT).sha256
    return digest([sentences.load(spec.text).sha256, more])


def made(spec: ErnieSpec) -> Path:
    """Folder of the pretrained base of `spec`, which is made now unless it is there."""
    own = pretraining(spec)
    folder = folder_of(own)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not all((folder / name).exists() for name in ("record.json", "model.safetensors", "vocab.txt")):
            _make(own, folder)
    return folder


def record_of(spec: ErnieSpec) -> Record:
    """The record of a pretraining, which is made unless it is there. Raises SeqlibError where it is damaged."""
    folder = made(spec)
    try:
        record = Record.model_validate_json((folder / "record.json").read_bytes())
    except ValueError as error:
        raise SeqlibError(f"base {spec.base}: {folder}/record.json is damaged; delete {folder}") from error
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if record.problem() or record.key != pretraining(spec).key or record.provenance["base_sha256"] != weights:
        raise SeqlibError(f"base {spec.base}: {folder} is damaged or of another base; delete it, and it is made anew")
    return record


def _make(spec: ErnieSpec, folder: Path) -> None:
    keep_freed_memory()
    began, clock = time.time(), time.perf_counter()
    text = sentences.to_pretrain(spec.text)
    vocab = sentences.vocabulary(text)
    drawn = [text[i] for i in np.random.default_rng([spec.seed, 3]).permutation(len(text))]
    held = min(HELD_OUT, len(drawn) // 10)  # whole sentences, of which no piece is trained on
    validation, rows = (sentences.encode(vocab, pieces(part, spec.length - 3), spec.length - 1)  # room for one more [SEP]
                        for part in (drawn[:held], drawn[held:]))
    with torch.random.fork_rng(devices=[]):
        state = State.start(spec, len(vocab))
        path = scratch() / "checkpoints" / f"ernie-{folder.name}.safetensors"
        kept = checkpoint(path)
        if kept:
            state.resume(kept)
        try:
            train(state, rows, len(vocab), spec, lambda tensors: write_atomically(path, save(tensors)))
        except FloatingPointError as error:
            raise SeqlibError(f"{spec.study}/{spec.arm} seed {spec.seed}: {error}") from error
        metrics = evaluate(state.model, validation, len(vocab), spec.seed)
    points = np.array(state.losses[: len(state.losses) // EVERY * EVERY]).reshape(-1, EVERY).mean(1)
    metrics |= {"tokens_seen": state.tokens, "seconds": state.seconds, "step_seconds": state.seconds / spec.base_steps,
                "sentences": len(rows), "characters": len(vocab),
                "parameters": sum(p.numel() for p in state.model.parameters()),
                "train_loss_nats": float(np.mean(state.losses[-EVERY:]))}
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        out = Path(fresh) / folder.name
        out.mkdir()
        state.model.config.save_pretrained(out)
        encoder = {k: v.contiguous() for k, v in state.model.state_dict().items() if k.startswith("ernie.")}
        save_file(encoder, out / "model.safetensors", {"format": "pt"})
        (out / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        base = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        source = provenance(MAKERS, texts_sha256(spec), data=spec.text, base_sha256=base, started_unix=round(began),
                            resumed=bool(kept), wall_seconds=round(time.perf_counter() - clock, 3))
        record = Record.of(spec, metrics, {"train_loss": points.tolist()}, source)
        (out / "record.json").write_text(json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False))
        shutil.rmtree(folder, ignore_errors=True)
        out.rename(folder)
    path.unlink(missing_ok=True)

