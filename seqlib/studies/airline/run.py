"""How a group of airline specs becomes records."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from seqlib.data import AIRLINE_SHA256
from seqlib.store import write_atomically
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.baselines import Baseline
from seqlib.studies.airline.reference import predict_loop, train_loop
from seqlib.studies.airline.specs import AirlineSpec, group
from seqlib.studies.airline.train import Stack, predict, train_stack
from seqlib.study import Run, count_parameters, study, weights


def count(arm: str) -> dict[str, int]:
    """Trainable and total parameters; a classical forecast has none that a gradient trains."""
    return ({"trainable": 0, "total": 0} if isinstance(ARMS[arm], Baseline)
            else count_parameters(ARMS[arm].build))


@study(AirlineSpec, arms=ARMS, group=group, count=count,
       data=lambda specs: ["airline"] if specs else [])
def run(specs: list[AirlineSpec], run: Run) -> list[tuple[dict, dict]]:
    """Metrics and curves of one group, in the order of its specs."""
    run.facts["data_sha256"] = AIRLINE_SHA256
    engine = {"stacked": run_stacked, "loop": run_loop, "classical": run_classical}[specs[0].engine]
    return engine(specs, run)


def _forecast_metrics(y, split, forecasts: dict[str, np.ndarray], months: dict[str, np.ndarray],
                      suffix="") -> dict:
    out = {}
    for part, values in forecasts.items():
        errors = protocol.error_metrics(y, values, months[part], split.train_end, part)
        out |= {name + suffix: value for name, value in errors.items()}
    return out


def _collect(spec: AirlineSpec, y: np.ndarray, folds: list[tuple]) -> tuple[dict, dict]:
    """Metrics and curves of one run from its folds (split, months, {part: forecast})."""
    if spec.protocol == "published":
        split, months, forecasts = folds[0]
        return (_forecast_metrics(y, split, forecasts, months),
                {f"forecast_{p}": v for p, v in forecasts.items()})
    metrics = {}
    for split, months, forecasts in folds:
        metrics |= _forecast_metrics(y, split, {"test": forecasts["test"]}, months,
                                     f"_{split.name}")
    for name in ("test_mse", "test_mae", "test_mape_percent", "test_mase"):  # years equally long
        metrics[name] = float(np.mean([metrics[f"{name}_{split.name}"] for split, _, _ in folds]))
    metrics["test_rmse"] = metrics["test_mse"] ** 0.5
    return metrics, {"forecast_test": np.concatenate([f["test"] for _, _, f in folds])}


def run_classical(specs, run) -> list[tuple[dict, dict]]:
    y = protocol.load_series().to_numpy()
    out = []
    for spec in specs:
        folds = []
        for split in protocol.splits(spec.protocol):
            values = ARMS[spec.arm].forecast(y, split)
            months = {"validation": np.arange(split.train_end, split.validation_end),
                      "test": np.arange(split.validation_end, split.test_end)}
            folds.append((split, months,
                          {part: values[index] for part, index in months.items()}))
        out.append(_collect(spec, y, folds))
    return out


def run_loop(specs, run) -> list[tuple[dict, dict]]:
    y, out = protocol.load_series().to_numpy(), []
    for spec in specs:
        split, arm = protocol.splits("published")[0], ARMS[spec.arm]
        windows = protocol.make_windows(y, split, arm.representation)
        model, curves, seconds = train_loop(
            arm.build, windows, spec.seed, epochs=spec.epochs, batch=spec.batch, lr=spec.lr,
            weight_decay=spec.weight_decay, device=run.device)
        forecasts = {p: windows.passengers(predict_loop(model, windows.x[p]), p)
                     for p in ("validation", "test")}
        metrics, more = _collect(spec, y, [(split, windows.months, forecasts)])
        metrics |= {"seconds": seconds, "train_loss": curves["train_loss"][-1],
                    "val_loss": curves["val_loss"][-1]}
        out.append((metrics, curves | more))
    return out


def run_stacked(specs, run) -> list[tuple[dict, dict]]:
    """One stack of seeds per thread: products overlap, no thread waits inside an operation."""
    threads = max(1, min(torch.get_num_threads(), len(specs) // 2))
    if specs[0].device != "cpu":
        threads = 1  # a card takes all seeds at once
    parts = [list(p) for p in np.array_split(np.array(specs, dtype=object), threads)]
    if threads == 1:
        return run_part(parts[0], run)
    stop, before = threading.Event(), torch.get_num_threads()

    def work(part):
        torch.set_num_threads(1)
        return run_part(part, run, stop)

    try:
        with ThreadPoolExecutor(threads) as executor:
            futures = [executor.submit(work, part) for part in parts]
            try:
                return [result for future in futures for result in future.result()]
            except BaseException:
                stop.set()  # Ctrl-C reaches the main thread alone
                raise
    finally:
        torch.set_num_threads(before)


def run_part(specs, run: Run, stop: threading.Event | None = None) -> list[tuple[dict, dict]]:
    """One stack: all folds of the protocol for the seeds of `specs`."""
    spec, arm, y = specs[0], ARMS[specs[0].arm], protocol.load_series().to_numpy()
    folds, metrics, curves = [], [{} for _ in specs], [{} for _ in specs]
    for split in protocol.splits(spec.protocol):
        windows = protocol.make_windows(y, split, arm.representation)
        checkpoint = run.checkpoint(f"{split.name} {specs[0].seed}")

        model, stack = train_stack(
            arm.build, windows, [s.seed for s in specs], epochs=spec.epochs, batch=spec.batch,
            lr=spec.lr, weight_decay=spec.weight_decay, resume=run.resume(checkpoint), stop=stop,
            checkpoint=checkpoint.save, device=run.device)
        folds.append((split, windows.months,
                      {part: windows.passengers(predict(model, stack, windows.x[part]), part)
                       for part in ("validation", "test")}))
        if spec.protocol == "published":
            describe(model, stack, windows, metrics, curves)
            for i, s in enumerate(specs):
                fitted = {name: p[i].detach().cpu().contiguous()
                          for name, p in stack.params.items()}
                write_atomically(weights_path(s), save(fitted))
    out = []
    for i, s in enumerate(specs):
        own = [(split, months, {part: v[i] for part, v in values.items()})
               for split, months, values in folds]
        m, c = _collect(s, y, own)
        out.append((m | metrics[i], c | curves[i]))
    return out


def describe(model, stack: Stack, windows, metrics: list[dict], curves: list[dict]) -> None:
    """Losses, parameter count and (for attention) where the last query looks.

    Mass, entropy and centre are those of the profile averaged over heads and validation windows.
    `attention_head_entropy_nats` averages entropies: less where heads look at different months.
    """
    keep: dict = {}
    train = ((predict(model, stack, windows.x["train"]) - windows.target["train"]) ** 2).mean(1)
    predict(model, stack, windows.x["validation"], keep)
    for i in range(len(metrics)):
        own = {name: [float(epoch[i]) for epoch in values]
               for name, values in stack.curves.items()}
        curves[i].update(own)
        train_loss, val_loss = own["train_loss"][-1], own["val_loss"][-1]
        metrics[i].update(train_loss=train_loss, val_loss=val_loss,
                          train_loss_eval=float(train[i]), generalisation_gap=val_loss - train_loss,
                          parameters=sum(p[0].numel() for p in stack.params.values()))
    if "weights" in keep:
        w = keep["weights"].cpu().double()  # (K, B, H, T)
        entropy = -(w * w.clamp_min(1e-300).log()).sum(-1).mean((1, 2))
        profile = w.mean((1, 2))  # (K, T), oldest month first
        averaged = -(profile * profile.clamp_min(1e-300).log()).sum(-1)
        centre = (profile * torch.arange(w.shape[-1])).sum(-1)
        for i in range(len(metrics)):
            metrics[i].update(attention_mass_last3=float(profile[i, -3:].sum()),
                              attention_entropy_nats=float(averaged[i]),
                              attention_head_entropy_nats=float(entropy[i]),
                              attention_centre_month=float(centre[i]))
            curves[i]["attention_profile"] = profile[i]


def weights_path(spec: AirlineSpec) -> Path:
    """The fitted weights that a run on the published split leaves in scratch."""
    return weights(spec).with_suffix(".safetensors")
