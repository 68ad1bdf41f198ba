"""Benchmarks: ours and a reference in one process, alternating, so that the machine's drift hits both alike."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from unittest.mock import patch

import torch

from seqlib.errors import nearest
from seqlib.provenance import peak_rss_mb


@dataclass(frozen=True)
class Case:
    """Two calls that do the same work. `ours_units` and `reference_units` divide their times (seeds a call); `flop` is
    the arithmetic of one unit, for utilisation."""

    name: str
    ours: Callable[[], object]
    reference: Callable[[], object]
    ours_units: float = 1
    reference_units: float = 1
    flop: float | None = None
    memory: Callable[[], dict[str, float]] | None = None  # further figures, measured in processes of their own


def matmul_gflops(size: int = 1024, repeats: int = 10) -> float:
    """Rate of a square float32 product on all threads, GFLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times) / 1e9


def measure(case: Case) -> dict:
    """Medians over alternations after a warm-up of each: 3 of long calls, up to 15 of short ones."""
    ours, reference, rates = [], [], []
    case.ours()
    started = time.perf_counter()
    case.reference()
    rounds = max(3, min(15, int(10 / (time.perf_counter() - started))))
    for _ in range(rounds):
        rates.append(matmul_gflops())
        for call, times, units in ((case.ours, ours, case.ours_units),
                                   (case.reference, reference, case.reference_units)):
            started = time.perf_counter()
            call()
            times.append((time.perf_counter() - started) / units)
    ours_s, reference_s, rate = map(statistics.median, (ours, reference, rates))
    row = {"name": case.name, "ours_s": round(ours_s, 6), "reference_s": round(reference_s, 6),
           "ratio": round(reference_s / ours_s, 2), "rounds": rounds, "threads": torch.get_num_threads(),
           "matmul_gflops": round(rate, 1)}
    if case.flop:
        achieved = case.flop / ours_s / 1e9
        row |= {"ours_gflops": round(achieved, 1), "utilisation": round(achieved / rate, 3)}
    return row | (case.memory() if case.memory else {})


def airline_cases() -> list[Case]:
    """Seconds a seed for the published 150 epochs: K = 30 stacked against the plain loop over one seed."""
    from seqlib.studies.airline import protocol
    from seqlib.studies.airline.arms import ARMS, PUBLISHED
    from seqlib.studies.airline.reference import train_loop
    from seqlib.studies.airline.specs import AirlineSpec, parameter_counts
    from seqlib.sweep import run_group

    y, split, epochs = protocol.load_series().to_numpy(), protocol.splits("published")[0], 50
    cases = []
    for name in PUBLISHED:
        arm, windows = ARMS[name], protocol.make_windows(y, split, "level")
        specs = [AirlineSpec(arm=name, seed=seed, epochs=epochs) for seed in range(30)]
        share = epochs / 150
        # Forward and twice that backward, 2 flop a weight and month, for the module as published: it runs all months
        # through every layer. Ours computes what the head reads, so its utilisation may pass 1 in the attention arms.
        flop = 3 * 2 * parameter_counts(name)["trainable"] * len(windows.x["train"]) * protocol.WINDOW * 150
        cases.append(Case(
            f"airline-{name}", lambda specs=specs: run_group(specs),
            lambda arm=arm, windows=windows: train_loop(arm.build, windows, 0, epochs=epochs, batch=16, lr=1e-3,
                                                        weight_decay=1e-5), 30 * share, share, flop))
    return cases


def additive_call(kind: str, B: int = 32, T: int = 128, C: int = 256) -> Callable[[], object]:
    """Causal additive scores forward and backward on fixed inputs, `ours` or by the plain broadcast formula."""
    from seqlib.models.additive import additive_scores

    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(B, T, C, generator=generator, requires_grad=True) for _ in range(2))
    v = torch.randn(C, generator=generator, requires_grad=True)
    upstream, future = torch.randn(B, T, T, generator=generator).tril(), torch.ones(T, T, dtype=torch.bool).triu(1)

    def plain(q, k, v):
        return (torch.tanh(q[:, :, None] + k[:, None]) @ v).masked_fill(future, float("-inf"))

    function = additive_scores if kind == "ours" else plain
    return lambda: torch.autograd.grad(function(q, k, v), (q, k, v), upstream)


def extra_memory(kind: str) -> float:
    """Peak resident memory that one full-size call adds to a small one, MiB; run it in a fresh process."""
    additive_call(kind, B=2, T=16)()
    call, before = additive_call(kind), peak_rss_mb()
    call()
    return peak_rss_mb() - before


def additive_memory() -> dict[str, float]:
    figures = {}
    for kind in ("ours", "reference"):
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            figures[f"{kind}_extra_mb"] = round(executor.submit(extra_memory, kind).result(), 1)
    return figures | {"memory_ratio": round(figures["reference_extra_mb"] / figures["ours_extra_mb"], 1)}


def additive_cases() -> list[Case]:
    return [Case("additive-scores", additive_call("ours"), additive_call("reference"), memory=additive_memory)]


def character_cases(name: str) -> list[Case]:
    from seqlib.studies.shakespeare import bench

    return getattr(bench, name)()


BENCHES: dict[str, Callable[[], list[Case]]] = {
    "airline": airline_cases, "additive-scores": additive_cases,
    **{name: partial(character_cases, name.replace("-", "_")) for name in ("additive-step", "transformer-step", "lstm-step")}}


def run_benches(name: str | None = None) -> list[dict]:
    """Rows of one group of benches or of all. Raises UsageError on an unknown name."""
    if name is not None and name not in BENCHES:
        raise nearest("bench", name, BENCHES)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, SEQLIB_RUNS=folder):  # keeps scratch clean
        return [measure(case) for key, cases in BENCHES.items() if name in (None, key) for case in cases()]
