"""The airline protocol: representations, windows, splits and error metrics.

The series has 144 monthly totals in thousands of passengers. A window holds 12 months of the
representation; its target is the next. A split names target months by index (0: January 1949).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from seqlib.data import AIRLINE

WINDOW = 12
ROLLING_YEARS = tuple(range(1955, 1961))


def load_series() -> pd.Series:
    """Monthly passengers in thousands, indexed by month."""
    frame = pd.read_csv(AIRLINE)
    return pd.Series(frame.passengers.to_numpy(float),
                     index=pd.PeriodIndex(frame.month, freq="M"), name="passengers")


@dataclass(frozen=True)
class Split:
    """Target indices: training [first usable, train_end), validation, then test up to test_end."""

    name: str
    train_end: int
    validation_end: int
    test_end: int


def splits(protocol: str) -> list[Split]:
    """`published`: 115 / 14 / 15 months. `rolling`: ROLLING_YEARS, each after one of validation."""
    if protocol == "published":
        return [Split("published", 115, 129, 144)]
    start = {year: 12 * (year - 1949) for year in ROLLING_YEARS}
    return [Split(str(year), s - 12, s, s + 12) for year, s in start.items()]


def represent(y: np.ndarray, representation: str) -> np.ndarray:
    """The series that a model sees, same length as y, NaN where it does not exist yet.

    `level` is y itself; `logdiff` the seasonal difference of log y; `logdiff2` its month-to-month
    difference as well (the differencing of the "airline model", Box and Jenkins 1976, chapter 9).
    """
    if representation == "level":
        return y.copy()
    z = np.full_like(y, np.nan)
    z[12:] = np.log(y[12:] / y[:-12])
    if representation == "logdiff2":
        z[1:] -= z[:-1].copy()
    return z


def restore(z: np.ndarray, y: np.ndarray, targets: np.ndarray, representation: str) -> np.ndarray:
    """Passengers from a predicted representation z (..., n) of months `targets` and earlier y."""
    if representation == "level":
        return z
    base = y[targets - 12]
    if representation == "logdiff2":
        base = base * y[targets - 1] / y[targets - 13]
    return base * np.exp(z)


@dataclass(frozen=True)
class Windows:
    """Standardised inputs (n, 12) and targets (n,) of the parts, and what undoes the scaling."""

    x: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    months: dict[str, np.ndarray]
    mean: float
    std: float
    y: np.ndarray
    representation: str

    def passengers(self, predicted: np.ndarray, part: str) -> np.ndarray:
        """Forecasts in thousands of passengers from standardised predictions (..., n)."""
        return restore(predicted * self.std + self.mean, self.y, self.months[part],
                       self.representation)


def make_windows(y: np.ndarray, split: Split, representation: str, window: int = WINDOW) -> Windows:
    z = represent(y, representation)
    first = int(np.isfinite(z).argmax()) + window
    months = {"train": np.arange(first, split.train_end),
              "validation": np.arange(split.train_end, split.validation_end),
              "test": np.arange(split.validation_end, split.test_end)}
    x = {part: np.stack([z[t - window : t] for t in index]) for part, index in months.items()}
    mean, std = float(x["train"].mean()), float(x["train"].std())
    inputs = {part: (v - mean) / std for part, v in x.items()}
    targets = {part: (z[index] - mean) / std for part, index in months.items()}
    return Windows(inputs, targets, months, mean, std, y, representation)


def error_metrics(y: np.ndarray, forecast: np.ndarray, months: np.ndarray, train_end: int,
                  prefix: str) -> dict[str, float]:
    """Errors of forecasts (n,) at `months` in thousands of passengers; MASE by the 12-month
    seasonal scale of training (Hyndman and Koehler 2006, section 3)."""
    error = forecast - y[months]
    scale = np.abs(y[12:train_end] - y[: train_end - 12]).mean()
    mse, mae, mape = (error**2).mean(), np.abs(error).mean(), 100 * np.abs(error / y[months]).mean()
    values = {"mse": mse, "rmse": mse**0.5, "mae": mae, "mape_percent": mape, "mase": mae / scale}
    return {f"{prefix}_{name}": float(value) for name, value in values.items()}
