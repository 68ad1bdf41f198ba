"""A text as one tensor of token numbers: vocabulary, split, batches."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqlib import data, plays
from seqlib.errors import SeqlibError, UsageError

CORPORA = ("tiny_shakespeare", plays.NAME, data.DESCRIPTIONS)


@dataclass(frozen=True)
class Corpus:
    """`train` is the first 90% of the characters, `validation` the rest; tokens are numbers of
    characters in `alphabet`."""

    name: str
    source: str
    sha256: str
    alphabet: str
    train: Tensor
    validation: Tensor

    @property
    def V(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> Tensor:
        """Tokens (T,) of a prompt. Raises UsageError on an empty one and on a character that the
        corpus does not have."""
        unknown = "".join(sorted(set(text) - set(self.alphabet)))
        if unknown or not text:
            wrong = f"has characters outside the vocabulary: {unknown!r}" if unknown else "is empty"
            raise UsageError(f"prompt {wrong}; the {self.V} characters of {self.name} are "
                             f"{self.alphabet!r}")
        return torch.tensor([self.alphabet.index(c) for c in text])

    def decode(self, tokens) -> str:
        return "".join(self.alphabet[t] for t in tokens)


def from_text(text: str, name: str, source: str = "", sha256: str = "") -> Corpus:
    """A corpus of any text; tokens are int64. Raises SeqlibError where it is too short to split."""
    if len(text) < 20:
        raise SeqlibError(f"corpus {name}: {len(text)} characters are too few for a split; use a "
                          "longer text")
    alphabet = "".join(sorted(set(text)))
    number = {c: i for i, c in enumerate(alphabet)}
    tokens, end = torch.tensor([number[c] for c in text]), int(0.9 * len(text))
    return Corpus(name, source, sha256, alphabet, tokens[:end], tokens[end:])


@functools.cache
@torch.inference_mode(False)  # what it keeps is trained with later
def load(name: str) -> Corpus:
    """Raises SeqlibError where the file is absent or has another hash."""
    found = data.locate(name)
    text = Path(found.path).read_text(encoding="utf-8")
    return from_text(text, found.name, found.source, found.sha256)


@functools.cache
def choose() -> str:
    """The first corpus that can be had: Tiny Shakespeare, else another edition of its plays. Raises
    SeqlibError where neither can, and where a file is there but is not the right one."""
    try:
        return data.locate(CORPORA[0]).name
    except data.WrongFile:  # an error, not a reason for another text
        raise
    except SeqlibError:
        return data.locate(CORPORA[1]).name


def check_length(corpus: Corpus, context: int) -> None:
    """Raises SeqlibError when a part of the text is shorter than one window with its target."""
    shortest = min(len(corpus.train), len(corpus.validation))
    if shortest < context + 1:
        raise SeqlibError(f"corpus {corpus.name}: {shortest} characters in its shorter part, but a "
                          f"context of {context} needs {context + 1}; lower the context or use a "
                          "longer text")


def starts(seed: int, epoch: int, steps: int, batch: int, last: int) -> Tensor:
    """First characters (steps, batch) of an epoch's windows, uniform over 0 .. last: a pure
    function of seed and epoch, the same for every arm."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    return torch.from_numpy(generator.integers(0, last + 1, (steps, batch)))


def gather(tokens: Tensor, first: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), both contiguous, of windows that start at `first` (B,)."""
    at = first.unsqueeze(1) + torch.arange(T)
    return tokens[at], tokens[at + 1]
