"""Texts to fine-tune on, as tokens of a base, and the windows to train and to evaluate on.

`lorem` repeats a few paragraphs of pseudo-Latin, as the document's book.txt did; `shakespeare` is
all plays, some of which are kept for validation and test; any other is a file of the user's, whose
last fifth is kept for these.
"""

import functools
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqlib import data, plays
from seqlib.errors import UsageError
from seqlib.studies.gpt2 import bases
from seqlib.studies.gpt2.specs import LOREM, SHAKESPEARE, TuneSpec

WORDS = (  # of the passage of Cicero that printers' filler text is made from, garbled as there
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris "
    "nisi aliquip ex ea commodo consequat duis aute irure in reprehenderit voluptate velit esse "
    "cillum eu fugiat nulla pariatur excepteur sint occaecat cupidatat non proident sunt culpa qui "
    "officia deserunt mollit anim id est laborum").split()
PARAGRAPHS, COPIES = 4, 60  # different ones, and how many the text has
DIGITS = ((1, 2, 3, 4, 6, 7, 8, 9), (5,), (0,))  # last of plays for training, validation, test
VALIDATION, TEST, ELSEWHERE = 2048, 4096, 2048  # tokens of the evaluations


@dataclass(frozen=True)
class Book:
    """Tokens (N,) of each part; `source` is the data set that the text comes from, `sha256` that of
    the text."""

    name: str
    source: str
    sha256: str
    train: Tensor
    validation: Tensor
    test: Tensor


def lorem() -> str:
    """The same text everywhere: paragraphs in an order drawn once, each of them many times."""
    draw = random.Random(0)

    def sentence() -> str:
        words = draw.choices(WORDS, k=draw.randint(6, 14))
        return " ".join(words).capitalize() + "."

    different = [" ".join(sentence() for _ in range(4)) for _ in range(PARAGRAPHS)]
    different[0] = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " + different[0]
    return "\n\n".join(draw.choice(different) for _ in range(COPIES))


def read(path: str) -> str:
    """A user's book. Raises UsageError where there is none, or it is a folder, empty or not
    UTF-8."""
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8")
        problem = "" if content.strip() else "is empty"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}; iconv -t UTF-8 converts it)"
    except FileNotFoundError:
        problem = "does not exist"
    except IsADirectoryError:
        problem = "is a folder"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        raise UsageError(f"book_path: {path!r} {problem}; name a UTF-8 text file")
    return content


@functools.lru_cache(maxsize=4)
def load(base: bases.Base, text: str, book_path: str = "") -> Book:
    """A text by name, or a user's file. Raises UsageError on a book that cannot be read."""
    if text == SHAKESPEARE:
        source, path = plays.ALL, Path(data.locate(plays.ALL).path)
        whole = path.read_text(encoding="utf-8")
        documents = whole.split(plays.BREAK)
        parts = [[play for i, play in enumerate(documents) if i % 10 in own] for own in DIGITS]
    else:
        source = book_path or text
        whole = lorem() if text == LOREM else read(book_path)
        cuts = [0, len(whole) * 8 // 10, len(whole) * 9 // 10, len(whole)]
        parts = [[whole[a:b]] for a, b in zip(cuts, cuts[1:])]
    sha256 = hashlib.sha256(whole.encode()).hexdigest()
    return Book(text, source, sha256, *(tokens(base, part) for part in parts))


@functools.lru_cache(maxsize=2)
def elsewhere(base: bases.Base, T: int) -> Tensor:
    """Windows (N, T + 1) of prose from outside every book, on which to measure what fine-tuning
    makes a model forget; paragraphs with digits, most of them tables, are left out."""
    whole = Path(data.descriptions().path).read_text(encoding="utf-8")
    prose = (p for p in whole.split("\n\n") if not any(c.isdigit() for c in p))
    return apart(tokens(base, ["\n\n".join(prose)]), T, "elsewhere", ELSEWHERE)


def tokens(base: bases.Base, documents: list[str]) -> Tensor:
    """Tokens (N,) of documents, one behind the other. One at a time: what the tokenizer keeps of
    all would weigh more than a small model, and count as memory of the training."""
    encode = bases.tokenizer(base).backend_tokenizer.encode
    ids = (encode(text, add_special_tokens=False).ids for text in documents)
    return torch.cat([torch.tensor(own, dtype=torch.long) for own in ids])


def starts(count: int, T: int, stride: int, name: str) -> np.ndarray:
    """First tokens of all windows of T + 1 tokens, `stride` apart, of `count` tokens. Raises
    UsageError below two windows."""
    if count < T + 1 + stride:
        raise UsageError(f"text {name}: {count} tokens are fewer than two windows of {T}; take a "
                         "longer text or lower context")
    return np.arange(0, count - T, stride)


def windows(part: Tensor, first: np.ndarray, T: int) -> Tensor:
    """Tokens (B, T + 1) of windows that start at `first` (B,): T inputs, and the same moved by one
    as targets."""
    return part[torch.from_numpy(np.asarray(first)).unsqueeze(1) + torch.arange(T + 1)]


def apart(part: Tensor, T: int, name: str, most: int) -> Tensor:
    """Windows (N, T + 1) that do not overlap, of at most `most` tokens, evenly over a part."""
    first = starts(len(part), T, T, name)
    spread = np.linspace(0, len(first) - 1, min(len(first), max(1, most // T))).astype(int)
    return windows(part, first[spread], T)


def characters(base: bases.Base, windows: Tensor) -> int:
    """Characters of all targets of windows (N, T + 1)."""
    decode = bases.tokenizer(base).backend_tokenizer.decode_batch
    return sum(map(len, decode(windows[:, 1:].tolist(), skip_special_tokens=False)))


@dataclass(frozen=True)
class Texts:
    """What a run trains and is evaluated on.

    train: first tokens of the windows, in the book's training part, that batches are drawn from.
    validation, test: windows (N, T + 1), in order; a run that chooses a rate has no test.
    """

    book: Book
    train: np.ndarray
    validation: Tensor
    test: Tensor | None


def texts_of(spec: TuneSpec, base: bases.Base) -> Texts:
    """Raises UsageError on a text that is too short."""
    book, T, N = load(base, spec.text, spec.book_path), spec.context, spec.slice_tokens
    final = spec.stage == "final"
    test = apart(book.test, T, f"{book.name}, test", TEST) if final else None
    if spec.protocol == "fair":
        held = apart(book.validation, T, f"{book.name}, validation", VALIDATION)
        return Texts(book, starts(len(book.train), T, T, book.name), held, test)
    if N > len(book.train):
        raise UsageError(f"slice_tokens: {N} is more than the {len(book.train)} tokens of "
                         f"{book.name}; lower it")
    cut = N - N // 10
    first = cut + starts(N - cut, T, 1, "a tenth of the slice")
    overlapping = windows(book.train, first, T)
    return Texts(book, starts(cut, T, 1, "the slice"), overlapping, test)


def order(spec: TuneSpec, texts: Texts) -> np.ndarray:
    """First tokens of every step's windows (steps, B): a run goes through all windows before it
    sees one again. The same tokens in the same order for all arms of a seed, whatever their
    batch."""
    random, needed, parts = np.random.default_rng([spec.seed, 0]), spec.steps * spec.batch, []
    while sum(map(len, parts)) < needed:
        parts.append(random.permutation(texts.train))
    return np.concatenate(parts)[:needed].reshape(spec.steps, spec.batch)
