"""Pretraining of a small ERNIE: masked language modelling (Devlin et al., arXiv 1810.04805, section
3.1) and the order of a sentence's two halves (sentence reordering, ERNIE 2.0, arXiv 1907.12412,
section 4.2.2), which trains the pooler as well.

In torch, where a step is faster than in Paddle on a processor: Hugging Face's ErnieForPreTraining,
which has Paddle's layers. No dropout; batches of like lengths; the output layer at masked positions
alone; products of bfloat16, summed in float32, where the processor multiplies those faster.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import ErnieConfig, ErnieForPreTraining

from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError
from seqlib.studies.ernie import bases, sentences
from seqlib.studies.ernie.specs import ErnieSpec
from seqlib.study import Run
from seqlib.training import Checkpoint, pack, unpack

LR, DECAY, WARM_UP, CLIP = 5e-4, 0.01, 0.03, 1.0
MASKED, TO_MASK, TO_RANDOM = 0.15, 0.8, 0.1  # share of tokens to predict; what replaces them
PAIRS = 0.25  # share of the sentences that are cut into two halves
ORDER = 0.1  # weight of the loss of their order; with 1 the masked tokens are learned far later
VALIDATED = 1024  # sentences of the validation loss
CHECKPOINT, EVERY = 500, 50  # steps between two checkpoints, and of a point of the loss curve
POOL = 50  # batches that are sorted by length together
SPECIALS = len(sentences.SPECIAL)
ENDS = "，。！？；：、,!?;: "


@dataclass(frozen=True)
class Batch:
    """`ids`, `types` (B, T). `where` (B, T): the masked positions; `hidden` (M,): what stood there.
    `swapped` (B,): 1 for halves in the wrong order, 0 in the right one, -1 where there are none."""

    ids: Tensor
    types: Tensor
    where: Tensor
    hidden: Tensor
    swapped: Tensor


def pieces(text: Sequence[str], most: int) -> list[str]:
    """Sentences, longer ones cut into pieces of at most `most` characters, behind a mark of
    punctuation where there is one."""
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


def halved(rows: list[list[int]], random: np.random.Generator) -> tuple[list, list, list]:
    """Sentences (token numbers with [CLS] and [SEP]), some cut into two halves that are exchanged
    or not: the rows, the types of their tokens, and `swapped`."""
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
    return built, types, swapped


def mask(ids: np.ndarray, tokens: int, random: np.random.Generator) -> tuple:
    """Choose 15% of the tokens `ids` (B, T), at least one a row: 80% of them become [MASK], 10% one
    of all `tokens` at random, 10% stay. Changes `ids`; returns where, and what stood there."""
    words = ids >= SPECIALS
    where = words & (random.random(ids.shape) < MASKED)
    for i in np.flatnonzero(~where.any(1) & words.any(1)):
        where[i, random.choice(np.flatnonzero(words[i]))] = True
    hidden, fate = ids[where], random.random(where.sum())
    drawn = random.integers(SPECIALS, tokens, len(hidden))
    shown = np.where(fate < TO_MASK + TO_RANDOM, drawn, hidden)
    ids[where] = np.where(fate < TO_MASK, sentences.MASK, shown)
    return where, hidden


def batch(rows: list[list[int]], tokens: int, random: np.random.Generator) -> Batch:
    """Sentences as a task: some halves exchanged, some tokens masked."""
    built, types, swapped = halved(rows, random)
    T = max(map(len, built))
    ids, kinds = np.zeros((len(built), T), np.int64), np.zeros((len(built), T), np.int64)
    for i, (row, kind) in enumerate(zip(built, types)):
        ids[i, : len(row)], kinds[i, : len(row)] = row, kind
    where, hidden = mask(ids, tokens, random)
    return Batch(*map(torch.from_numpy, (ids, kinds, where, hidden, np.array(swapped))))


def outputs(model: ErnieForPreTraining, task: Batch) -> tuple[Tensor, Tensor]:
    """Last states (B, T, C) and pooled ones (B, C)."""
    seen = (task.ids != sentences.PAD).long()
    return model.ernie(input_ids=task.ids, token_type_ids=task.types, attention_mask=seen)[:2]


def losses(model: ErnieForPreTraining, task: Batch, states: Tensor, pooled: Tensor):
    """Mean loss, in nats, of the masked tokens and of the order of the halves, 0 without halves."""
    tokens = F.cross_entropy(model.cls.predictions(states[task.where]), task.hidden)
    halves = task.swapped >= 0
    if not halves.any():
        return tokens, tokens.new_zeros(())
    return tokens, F.cross_entropy(model.cls.seq_relationship(pooled[halves]), task.swapped[halves])


def rate(step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0: it rises over a warm-up, then falls to 0."""
    warm = round(WARM_UP * steps)
    return LR * (step / warm if step < warm else (steps - step) / max(1, steps - warm))


@dataclass
class State:
    """A model in pretraining; `losses`: of the masked tokens by step; `tokens`: seen so far."""

    model: ErnieForPreTraining
    optimizer: torch.optim.AdamW
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @classmethod
    def start(cls, spec: ErnieSpec, tokens: int) -> "State":
        torch.manual_seed(spec.seed)
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = ErnieForPreTraining(ErnieConfig(**bases.config(spec.base, tokens) | no_dropout))
        positions = model.ernie.embeddings.position_embeddings.weight
        positions.data.copy_(torch.from_numpy(bases.first_positions(spec.base)))
        return cls(model, torch.optim.AdamW(model.parameters(), LR, weight_decay=DECAY, fused=True))

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed pretraining needs."""
        return pack(dict(self.model.named_parameters()), self.optimizer, {"losses": self.losses},
                    seconds=self.seconds, tokens=self.tokens)

    def resume(self, saved: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        curves, numbers = unpack(saved, parameters, self.optimizer)
        self.losses, self.seconds = curves["losses"], numbers["seconds"]
        self.tokens = int(numbers["tokens"])

    def step(self, task: Batch, lr: float) -> float:
        """One step of gradient descent; returns the mean loss of the masked tokens."""
        tokens, halves = losses(self.model, task, *outputs(self.model, task))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        (tokens + ORDER * halves).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return float(tokens.detach())


def train(state: State, rows: list[list[int]], tokens: int, spec: ErnieSpec,
          checkpoint: Checkpoint | None = None) -> State:
    """Train until `base_steps` on `rows` of numbers below `tokens`, with a checkpoint now and then.
    Raises SeqlibError when the loss is not finite."""
    lengths, epoch, batches, first = np.array([len(row) for row in rows]), -1, [], 0
    state.model.train()
    for step in range(len(state.losses), spec.base_steps):
        while step >= first + len(batches):
            first, epoch = first + len(batches), epoch + 1
            batches = order(lengths, spec.batch, spec.seed, epoch)
        began, random = time.perf_counter(), np.random.default_rng([spec.seed, 1, step])
        task = batch([rows[i] for i in batches[step - first]], tokens, random)
        loss = state.step(task, rate(step, spec.base_steps))
        if not loss < float("inf"):
            raise SeqlibError(f"ernie/{spec.arm} seed {spec.seed}: loss is {loss} at step "
                              f"{step + 1}")
        state.losses.append(loss)
        state.tokens += int((task.ids != sentences.PAD).sum())
        state.seconds += time.perf_counter() - began
        if checkpoint and (step + 1) % CHECKPOINT == 0 and step + 1 < spec.base_steps:
            checkpoint.save(state.tensors())
    return state


@torch.no_grad()
def evaluate(model: ErnieForPreTraining, rows: list[list[int]], tokens: int, seed: int) -> dict:
    """On held-out sentences: masked loss, that of the best model that knows frequencies alone,
    accuracy of the halves' order."""
    model.eval()
    random, hidden, halves, right, total = np.random.default_rng([seed, 2]), [], 0, 0, 0.0
    for i in range(0, len(rows), 64):
        task = batch(rows[i : i + 64], tokens, random)
        states, pooled = outputs(model, task)
        total += float(losses(model, task, states, pooled)[0]) * len(task.hidden)
        hidden += task.hidden.tolist()
        cut = task.swapped >= 0
        predicted = model.cls.seq_relationship(pooled[cut]).argmax(-1)
        right += int((predicted == task.swapped[cut]).sum())
        halves += int(cut.sum())
    share = np.array(list(Counter(hidden).values())) / len(hidden)
    return {"masked_loss_nats": total / len(hidden), "halves_accuracy": right / max(1, halves),
            "unigram_loss_nats": float(-(share * np.log(share)).sum())}


def pretrain(spec: ErnieSpec, run: Run) -> tuple[dict, dict]:
    """Metrics and curves of the making of a base, which is pretrained now unless it lies in the
    cache. Raises SeqlibError where what lies there is damaged."""
    folder = bases.folder(spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not bases.is_made(spec):
            make(spec, run, folder)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    made = json.loads((folder / "made.json").read_bytes())
    if made["facts"]["base_sha256"] != weights:
        raise bases.damaged(spec, folder, "its weights are others")
    run.facts |= made["facts"]
    return made["metrics"], made["curves"]


def make(spec: ErnieSpec, run: Run, folder: Path) -> None:
    """Pretrain a base into `folder`: its weights, its vocabulary, and how it was made."""
    keep_freed_memory()
    text, sha256 = sentences.to_pretrain(spec.text), bases.texts_sha256(spec)
    vocab = sentences.vocabulary(text)
    drawn = [text[i] for i in np.random.default_rng([spec.seed, 3]).permutation(len(text))]
    held = min(VALIDATED, len(drawn) // 10)  # whole sentences, of which no piece is trained on
    most = spec.length - 1  # room for one more [SEP]
    validation, rows = (sentences.encode(vocab, pieces(part, most - 2), most)
                        for part in (drawn[:held], drawn[held:]))
    with torch.random.fork_rng(devices=[]):
        state, checkpoint = State.start(spec, len(vocab)), run.checkpoint(sha256)
        if (saved := run.resume(checkpoint)) is not None:
            state.resume(saved)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # of the whole process: bfloat16 where fast
        try:
            train(state, rows, len(vocab), spec, checkpoint)
        finally:
            torch.set_float32_matmul_precision(precision)
        metrics = evaluate(state.model, validation, len(vocab), spec.seed)
    metrics |= {"tokens_seen": state.tokens, "seconds": state.seconds,
                "step_seconds": state.seconds / spec.base_steps, "sentences": len(rows),
                "characters": len(vocab), "train_loss_nats": float(np.mean(state.losses[-EVERY:])),
                "parameters": sum(p.numel() for p in state.model.parameters())}
    whole = np.array(state.losses[: len(state.losses) // EVERY * EVERY])
    curves = {"train_loss": whole.reshape(-1, EVERY).mean(1).tolist()}
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        out = Path(fresh) / folder.name
        out.mkdir()
        encoder = {f"ernie.{k}": v.contiguous() for k, v in state.model.ernie.state_dict().items()}
        save_file(encoder, out / "model.safetensors", {"format": "pt"})
        (out / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        base = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        facts = {"data_sha256": sha256, "data": spec.text, "base_sha256": base}
        made = {"metrics": metrics, "curves": curves, "facts": facts}
        (out / "made.json").write_text(json.dumps(made, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        out.rename(folder)
