"""Classical one-step forecasts on the networks' protocol: fitted on the training months, rolled
over the later ones with every true value known up to the month before the target."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from statsmodels.tsa.holtwinters import ExponentialSmoothing
from statsmodels.tsa.statespace.sarimax import SARIMAX

from seqlib.studies.airline.protocol import WINDOW, Split


def naive(y: np.ndarray, split: Split) -> np.ndarray:
    return np.r_[np.nan, y[:-1]]


def seasonal_naive(y: np.ndarray, split: Split) -> np.ndarray:
    return np.r_[np.full(12, np.nan), y[:-12]]


def seasonal_ratio(y: np.ndarray, split: Split) -> np.ndarray:
    """y[t-12] * y[t-1] / y[t-13]"""
    return np.r_[np.full(13, np.nan), y[1:-12] * y[12:-1] / y[:-13]]


def seasonal_drift(y: np.ndarray, split: Split) -> np.ndarray:
    """The same month a year ago, times the mean yearly growth of the training months."""
    growth = np.log(y[12:] / y[:-12])  # of months 12, 13, ...
    return np.r_[np.full(12, np.nan), y[:-12] * np.exp(growth[: split.train_end - 12].mean())]


def seasonal_ar1(y: np.ndarray, split: Split) -> np.ndarray:
    """The same month a year ago, times a growth that an autoregression of order 1, by least
    squares, predicts from that of the month before."""
    growth = np.log(y[12:] / y[:-12])
    trained = growth[: split.train_end - 12]
    slope, level = np.polyfit(trained[:-1], trained[1:], 1)
    return np.r_[np.full(13, np.nan), y[1:-12] * np.exp(level + slope * growth[:-1])]


def ridge_ar12(y: np.ndarray, split: Split) -> np.ndarray:
    """Ridge regression of log y[t] on its last 12 values (penalty 1 on unscaled logs)."""
    z = np.log(y)
    x = np.stack([z[t - WINDOW : t] for t in range(WINDOW, len(z))])
    fitted = Ridge(alpha=1.0).fit(x[: split.train_end - WINDOW], z[WINDOW : split.train_end])
    return np.r_[np.full(WINDOW, np.nan), np.exp(fitted.predict(x))]


def holt_winters(y: np.ndarray, split: Split) -> np.ndarray:
    """Additive trend, multiplicative season (Winters 1960); its parameters come from training."""
    form = {"trend": "add", "seasonal": "mul", "seasonal_periods": 12}
    p = ExponentialSmoothing(y[: split.train_end], **form,
                             initialization_method="estimated").fit().params
    rolled = ExponentialSmoothing(
        y, **form, initialization_method="known", initial_level=p["initial_level"],
        initial_trend=p["initial_trend"], initial_seasonal=p["initial_seasons"])
    return rolled.fit(smoothing_level=p["smoothing_level"], smoothing_trend=p["smoothing_trend"],
                      smoothing_seasonal=p["smoothing_seasonal"], optimized=False).fittedvalues


def sarima(y: np.ndarray, split: Split) -> np.ndarray:
    """(0,1,1)(0,1,1)12 on logs, the "airline model" (Box and Jenkins 1976, chapter 9)."""
    z, form = np.log(y), {"order": (0, 1, 1), "seasonal_order": (0, 1, 1, 12)}
    fitted = SARIMAX(z[: split.train_end], **form).fit(disp=False)
    return np.exp(fitted.apply(z).predict())


FORECASTS = (naive, seasonal_naive, seasonal_ratio, seasonal_drift, seasonal_ar1, ridge_ar12,
             holt_winters, sarima)


@dataclass(frozen=True)
class Baseline:
    """A classical forecast, as an arm: `method` takes the series and a split."""

    method: Callable[[np.ndarray, Split], np.ndarray]

    def forecast(self, y: np.ndarray, split: Split) -> np.ndarray:
        """One-step forecasts (144,) in thousands of passengers, NaN where history is too short."""
        with warnings.catch_warnings():  # short series: the optimisers warn, and find the optimum
            warnings.simplefilter("ignore")
            return np.asarray(self.method(np.asarray(y, float), split), float)
