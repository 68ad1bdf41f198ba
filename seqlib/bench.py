"""Benchmarks: ours and a reference in one process, alternating, so that drift hits both alike."""

import ast
import os
import pkgutil
import statistics
import tempfile
import time
import timeit
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch

from seqlib import study as studies
from seqlib.errors import SeqlibError, nearest
from seqlib.provenance import machine


@dataclass(frozen=True)
class Case:
    """Two calls that do the same work. `ours_units` and `reference_units` divide their times (seeds
    per call); `flop` is one unit's arithmetic: utilisation is its share of the fastest product."""

    name: str
    ours: Callable[[], object]
    reference: Callable[[], object]
    ours_units: float = 1
    reference_units: float = 1
    flop: float | None = None
    memory: Callable[[], dict[str, float]] | None = None  # further figures, from other processes
    tells_seconds: bool = False  # the calls start processes and return what these have measured


def product_gflops(m: int = 1024, k: int = 1024, n: int = 1024) -> dict[str, float]:
    """Rates of a float32 product (m, k) x (k, n) on all threads, GFLOP/s, of the library behind
    torch (MKL in its wheels), of oneDNN inside torch, and of numpy's OpenBLAS."""
    a, b = torch.randn(m, k), torch.randn(n, k)
    calls = {"torch": lambda: a @ b.T, "numpy": lambda: a.numpy() @ b.T.numpy()}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        calls["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    times = {name: statistics.median(timeit.repeat(call, number=1, repeat=10))
             for name, call in calls.items()}
    return {name: 2 * m * k * n / seconds / 1e9 for name, seconds in times.items()}


def measure(case: Case) -> dict:
    """Medians over alternations after a warm-up: 3 of long calls, up to 15 of short ones."""
    ours, reference, rates = [], [], []
    case.ours()
    started = time.perf_counter()
    case.reference()
    rounds = max(3, min(15, int(10 / (time.perf_counter() - started))))
    for _ in range(rounds):
        rates.append(product_gflops())
        for call, times, units in ((case.ours, ours, case.ours_units),
                                   (case.reference, reference, case.reference_units)):
            started = time.perf_counter()
            told = call()
            times.append((told if case.tells_seconds else time.perf_counter() - started) / units)
    ours_s, reference_s = map(statistics.median, (ours, reference))
    rate = {name: statistics.median(one[name] for one in rates) for name in rates[0]}
    limit = max(rate, key=rate.get)
    row = {"name": case.name, "ours_s": round(ours_s, 6), "reference_s": round(reference_s, 6),
           "ratio": round(reference_s / ours_s, 2), "rounds": rounds,
           "threads": torch.get_num_threads(), "processor": machine()["cpu"], "limit": limit,
           "matmul_gflops": round(rate["torch"], 1), "limit_gflops": round(rate[limit], 1)}
    if case.flop:
        achieved = case.flop / ours_s / 1e9
        row |= {"ours_gflops": round(achieved, 1), "utilisation": round(achieved / rate[limit], 3)}
    return row | (case.memory() if case.memory else {})


def benches() -> dict[str, str]:
    """Name (`lora-step`) and place (`seqlib.studies.gpt2.bench:lora_step`) of the functions without
    arguments in seqlib/studies/NAME/bench.py that return `list[Case]`; none is imported."""
    found = {}
    for study in studies.names():
        path = studies.folder(study) / "bench.py"
        for node in ast.parse(path.read_bytes()).body if path.exists() else ():
            if (isinstance(node, ast.FunctionDef) and not node.args.args and node.returns
                    and ast.unparse(node.returns) == "list[Case]"):
                found[node.name.replace("_", "-")] = f"seqlib.studies.{study}.bench:{node.name}"
    return found


def run_benches(name: str | None = None) -> list[dict]:
    """Rows of one group of benches or of all. Raises UsageError on an unknown name."""
    known = benches()
    if name is not None and name not in known:
        raise nearest("bench", name, known)
    # in a folder of its own, so that scratch stays as it is
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, SEQLIB_RUNS=folder):
        return [measure(case) for key, function in known.items() if name in (None, key)
                for case in cases_of(key, function, wanted=name is not None)]


def cases_of(key: str, function: str, wanted: bool) -> list[Case]:
    """Of one group. A missing package is an error if they are `wanted` alone, else a warning."""
    try:
        return pkgutil.resolve_name(function)()
    except SeqlibError as error:
        if wanted:
            raise
        warnings.warn(f"bench {key} is left out: {error}", stacklevel=2)
        return []
