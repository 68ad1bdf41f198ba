"""Texts to fine-tune on, as tokens of a base, with what is held out.

`lorem` repeats a few paragraphs of pseudo-Latin, as the document's book.txt did; `shakespeare` is all plays, whole plays held
out; any other is a file of the user's, the last fifth of it held out.
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
from seqlib.studies.gpt2.specs import LOREM, SHAKESPEARE

WORDS = (  # of the passage of Cicero that printers' filler text is made from, in its garbled spelling
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua "
    "enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis aute irure in "
    "reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint occaecat cupidatat non proident sunt "
    "culpa qui officia deserunt mollit anim id est laborum").split()
PARAGRAPHS, COPIES = 4, 60  # different ones, and how many stand in the text


@dataclass(frozen=True)
class Book:
    """Tokens (N,) of each part; `source` is the data set that the text comes from, `sha256` that of the text."""

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
    """A user's book. Raises UsageError where there is none, or it is a folder, empty or not UTF-8."""
    book = Path(path).expanduser()
    if not path or not book.exists():
        raise UsageError(f"book_path: {path!r} does not exist; name a UTF-8 text file")
    if book.is_dir():
        raise UsageError(f"book_path: {book} is a folder; name a UTF-8 text file in it")
    try:
        content = book.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"book_path: {book} cannot be read ({error.strerror}); name a UTF-8 text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"book_path: {book} is not UTF-8 (byte {error.start}); convert it, e.g. with iconv -t UTF-8"
                         ) from error
    if not content.strip():
        raise UsageError(f"book_path: {book} is empty; name a text file with some pages")
    return content


@functools.lru_cache(maxsize=4)
def load(base: bases.Base, text: str, book_path: str = "") -> Book:
    """Raises UsageError on a book that cannot be read."""
    if text == SHAKESPEARE:
        documents = Path(data.locate(plays.ALL).path).read_text(encoding="utf-8").split(plays.BREAK)
        whole = plays.BREAK.join(documents)
        parts = [[d for i, d in enumerate(documents) if i % 10 in which] for which in ((1, 2, 3, 4, 6, 7, 8, 9), (5,), (0,))]
    else:
        whole = lorem() if text == LOREM else read(book_path)
        cuts = [0, len(whole) * 8 // 10, len(whole) * 9 // 10, len(whole)]
        parts = [[whole[a:b]] for a, b in zip(cuts, cuts[1:])]
    source = plays.ALL if text == SHAKESPEARE else book_path or text
    return Book(text, source, hashlib.sha256(whole.encode()).hexdigest(), *(tokens(base, part) for part in parts))


@functools.lru_cache(maxsize=2)
def elsewhere(base: bases.Base) -> Tensor:
    """Prose from outside every book, to tell what fine-tuning makes a model forget; paragraphs with digits, which are tables
    for the most part, are left out."""
    whole = Path(data.descriptions().path).read_text(encoding="utf-8")
    return tokens(base, ["\n\n".join(p for p in whole.split("\n\n") if not any(c.isdigit() for c in p))])


def tokens(base: bases.Base, documents: list[str]) -> Tensor:
    """Tokens (N,) of documents, one behind the other. One at a time: what the tokenizer keeps of all would weigh more than a
    small model, and count as memory of the training."""
    encode = bases.tokenizer(base).backend_tokenizer.encode
    return torch.cat([torch.tensor(encode(text, add_special_tokens=False).ids, dtype=torch.long) for text in documents])


def starts(count: int, T: int, stride: int, name: str) -> np.ndarray:
    """First tokens of all windows of T + 1 tokens, `stride` apart, of `count` tokens. Raises UsageError below two windows."""
    if count < T + 1 + stride:
        raise UsageError(f"text {name}: {count} tokens are fewer than two windows of {T}; take a longer text or lower "
                         "context")
    return np.arange(0, count - T, stride)


def spread(first: np.ndarray, most: int) -> np.ndarray:
    """At most so many windows, spread evenly over all."""
    return first[np.linspace(0, len(first) - 1, min(len(first), most)).astype(int)]


def windows(part: Tensor, first: np.ndarray, T: int) -> Tensor:
    """Tokens (B, T + 1) of windows that start at `first` (B,): T inputs, and the same moved by one as targets."""
    return part[torch.from_numpy(np.asarray(first)).unsqueeze(1) + torch.arange(T + 1)]


def characters(base: bases.Base, windows: Tensor) -> int:
    """Characters of all targets of windows (N, T + 1)."""
    decode = bases.tokenizer(base).backend_tokenizer.decode_batch
    return sum(map(len, decode(windows[:, 1:].tolist(), skip_special_tokens=False)))
