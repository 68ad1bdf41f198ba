"""Where a record comes from: code, versions, machine."""

import ast
import functools
import hashlib
import importlib.util
import io
import os
import platform
import resource
import subprocess
import tokenize
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "numpy", "numba", "scipy", "statsmodels", "scikit-learn", "pandas", "transformers", "peft", "accelerate",
            "tokenizers", "safetensors")


def _without_words(source: bytes) -> bytes:
    """Source without comments, docstrings and empty lines: none of them makes a result. Cut from the text, because a syntax
    tree reads differently from one version of Python to the next."""
    lines = source.decode().splitlines()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            words = node.body[0]
            lines[words.lineno - 1 : words.end_lineno] = [""] * (words.end_lineno - words.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _hash(modules: tuple[str, ...], form) -> str:
    h = hashlib.sha256()
    for name in modules:
        h.update(name.encode() + b"\0" + form(Path(importlib.util.find_spec(name).origin).read_bytes()) + b"\0")
    return h.hexdigest()


@functools.cache  # once a process: what it imported is what it runs, whatever happens to the files later
def code_hash(modules: tuple[str, ...]) -> str:
    """sha256 over the named modules, which are those that determine a study's results; words in them do not count."""
    return _hash(modules, _without_words)


@functools.cache
def made_by(code: str, modules: tuple[str, ...]) -> bool:
    """Whether `code`, of a record, is today's `code_hash`; or that of the very bytes, which earlier records carry."""
    return code in (code_hash(modules), _hash(modules, bytes))


@functools.cache
def git_state() -> dict[str, str | bool | None]:
    """Commit of the source tree, and whether seqlib/ differs from it; None where there is no repository."""
    def git(*args):
        done = subprocess.run(["git", "-C", Path(__file__).parent, *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", ".")) if commit else None}
    except FileNotFoundError:
        return {"commit": None, "dirty": None}


@functools.cache
def machine() -> dict[str, str | int | None]:
    """Processor name as the system gives it, cores usable by this process, accelerator if any."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.system(), "python": platform.python_version()}


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held before this process was executed
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def reset_peak_rss() -> None:
    """Count the peak from here on, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then it is the peak since the process began


def provenance(modules: tuple[str, ...], data_sha256: str, **more) -> dict:
    import torch

    return {"git": git_state(), "code_hash": code_hash(modules), "machine": machine(),
            "versions": {name: version(name) for name in PACKAGES}, "threads": torch.get_num_threads(),
            "data_sha256": data_sha256, **more}
