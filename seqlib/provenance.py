"""Where a record comes from: code, versions, machine."""

import contextlib
import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from seqlib.processes import cores

PACKAGES = ("torch", "numpy", "numba", "scipy", "statsmodels", "scikit-learn", "pandas",
            "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@functools.cache
def git_state() -> dict[str, str | bool | None]:
    """Commit of the source tree, and whether seqlib/ differs from it; None without a repository."""
    def git(*args):
        done = subprocess.run(["git", "-C", Path(__file__).parent, *args], capture_output=True,
                              text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD")
        dirty = bool(git("status", "--porcelain", ".")) if commit else None
    except FileNotFoundError:  # git is not installed
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


@functools.cache
def machine() -> dict[str, str | int | None]:
    """Processor name as the system gives it, cores usable by this process, accelerator if any."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores(), "gpu": gpu, "system": platform.system(),
            "python": platform.python_version()}


def threads() -> int:
    """Threads that torch computes on here."""
    import torch

    return torch.get_num_threads()


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before this process was executed
        lines = status.read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset / 2**20
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def reset_peak_rss() -> None:
    """Count the peak from here on, where the system can (Linux)."""
    with contextlib.suppress(OSError):  # then it is the peak since the process began
        Path("/proc/self/clear_refs").write_text("5")


def provenance(code_hash: str, **more) -> dict:
    """Where a record comes from, JSON-ready. `code_hash` is the arm's fingerprint; `more` adds
    facts, and `versions` of further packages."""
    versions = {name: version(name) for name in PACKAGES} | more.pop("versions", {})
    return {"git": git_state(), "code_hash": code_hash, "machine": machine(), "versions": versions,
            "threads": threads(), **more}
