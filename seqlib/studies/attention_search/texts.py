"""Texts of documents as token numbers, their splits and the batches drawn from them.

Three protocols. `published`: one stream of tokens, a random tenth of all windows (which overlap
with those trained on) for validation, and each arm at another place of one stream of random
numbers. `shared`: the same windows, but the same seed of the weights and the same batches for every
arm. `repaired`: as `shared`, with whole documents held out.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from seqlib import data, plays, smollm
from seqlib.errors import SeqlibError
from seqlib.store import write_atomically
from seqlib.studies.attention_search.arms import PUBLISHED

TEXTS = (smollm.CORPUS, plays.ALL)
PROTOCOLS = ("published", "shared", "repaired")
LIMIT = {smollm.CORPUS: 1_000_000}  # tokens, as published
VALIDATION = 20_480  # tokens; the document has four times as many


@dataclass(frozen=True)
class Text:
    """`tokens` (N,) of all documents; document i is tokens[bounds[i] : bounds[i + 1]]."""

    name: str
    tokenizer: str
    sha256: str
    tokens: Tensor
    bounds: np.ndarray


def choose() -> str:
    """The published text where it can be had, else the stand-in."""
    return data.first(*TEXTS).name


def needed(specs: Iterable) -> list[str]:
    """Names of the texts that some specs want, and of the tokenizer of the published vocabulary."""
    names = sorted({spec.text for spec in specs})
    large = any(spec.vocabulary == PUBLISHED.V for spec in specs)
    return names + ([smollm_tokenizer().name] if large else [])


def smollm_tokenizer() -> data.Located:
    """SmolLM's tokenizer where it can be had, else SmolLM2's."""
    return data.first(smollm.TOKENIZER, smollm.STAND_IN)


@functools.cache
def load(name: str, V: int) -> Text:
    """A text in V tokens: SmolLM's vocabulary at V 49,152, else byte-level BPE trained on its
    training documents."""
    documents = Path(data.locate(name).path).read_text(encoding="utf-8").split(smollm.BREAK)
    if V == PUBLISHED.V:
        found = smollm_tokenizer()
        label, tokenizer = found.name, Tokenizer.from_file(found.path)
    else:
        label, tokenizer = f"BPE of {V}", own_tokenizer(name, documents, V)
    parts = [np.array(encoded.ids, np.int32) for encoded in tokenizer.encode_batch(documents)]
    bounds = np.cumsum([0, *map(len, parts)])
    bounds = np.minimum(bounds, LIMIT.get(name, bounds[-1]))
    bounds = bounds[: np.searchsorted(bounds, bounds[-1]) + 1]  # documents beyond it fall away
    tokens = np.concatenate(parts)[: bounds[-1]]
    sha256 = hashlib.sha256(tokens.tobytes()).hexdigest()
    return Text(name, label, sha256, torch.from_numpy(tokens.astype(np.int64)), bounds)


def own_tokenizer(name: str, documents: list[str], V: int) -> Tokenizer:
    """Kept in the cache under the hash of what it was trained on."""
    held = held_out(len(documents))  # of all; those beyond the limit are not in any split
    training = [text for i, text in enumerate(documents) if i not in held]
    key = hashlib.sha256("\f".join([str(V), *training]).encode()).hexdigest()[:16]
    path = data.cache() / "tokenizers" / f"{name}-{key}.json"
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=V, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training, trainer)
    write_atomically(path, tokenizer.to_str().encode())
    return tokenizer


def held_out(documents: int) -> set[int]:
    """Every tenth document, the same for every seed and arm, however many follow. Raises
    SeqlibError on fewer than two."""
    if documents < 2:
        raise SeqlibError("the text has one document, and a split wants two; use another text")
    return set(range(0, documents, 10))


@dataclass(frozen=True)
class Split:
    """First tokens of the windows to train on, and of those to validate on: some VALIDATION tokens
    of them, in order."""

    train: np.ndarray
    validation: np.ndarray


@functools.lru_cache(maxsize=4)
def split(name: str, V: int, protocol: str, seed: int, T: int) -> Split:
    """Raises SeqlibError where the text is too short for windows of T + 1 tokens."""
    text, count = load(name, V), max(1, VALIDATION // T)
    if protocol != "repaired":
        starts = np.random.default_rng([seed, 1]).permutation(max(0, len(text.tokens) - T))
        cut = len(starts) // 10
        train, validation = starts[cut:], starts[: min(cut, count)]
    else:
        held = held_out(len(text.bounds) - 1)
        spans = [np.arange(a, max(a, b - T)) for a, b in zip(text.bounds, text.bounds[1:])]
        train = np.concatenate([starts for i, starts in enumerate(spans) if i not in held])
        apart = np.concatenate([spans[i][::T] for i in sorted(held)])  # windows do not overlap
        validation = apart[np.linspace(0, len(apart) - 1, min(len(apart), count)).astype(int)]
    if not len(train) or not len(validation):
        raise SeqlibError(f"text {name}: too short for windows of {T + 1} tokens; "
                          "lower the context")
    return Split(train, validation)


def windows(tokens: Tensor, first: np.ndarray, T: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of windows that start at `first` (B,)."""
    at = torch.from_numpy(first).unsqueeze(1) + torch.arange(T)
    return tokens[at], tokens[at + 1]
