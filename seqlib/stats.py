"""Statistics over paired seeds: intervals, tests, equivalence. All take one value a seed, (n,).

Sources: sign-flip test (Fisher's randomisation test on paired differences) and its inversion
(Tritchler 1984, J. Am. Stat. Assoc. 79), max-T (Westfall and Young 1993), probability of
improvement (Agarwal et al. 2021, arXiv 2108.13264, section 4.3), two one-sided tests (Schuirmann
1987), Holm (1979), comparisons of several arms (Dunnett 1955, J. Am. Stat. Assoc. 50).
"""

import functools
import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

RESAMPLES = 9999
MINIMUM = 6  # paired seeds: the fewest with which a two-sided sign-flip test can reach p < 0.05


@functools.lru_cache(maxsize=32)
def _signs(n: int) -> np.ndarray:
    """Flips (N, n) of n signs, the identity first: all 2^n up to 13, else RESAMPLES of them."""
    if n <= 13:
        return np.array(list(product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), (RESAMPLES, n))
    return np.vstack((np.ones(n), drawn))


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean: the values that the sign-flip test does not reject. A point where
    all are equal, NaN for fewer than MINIMUM, with which the test can reject none.

    A flip s rejects the mean m where |s (x - m)| is at least |x - m| in the mean; those m lie
    between (D - A) / (1 - B) and (D + A) / (1 + B), with D, A and B the means of x, s x and s."""
    values = np.asarray(values, float)
    if len(values) < MINIMUM:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    signs = _signs(len(values))
    mean, flipped, balance = values.mean(), signs @ values / len(values), signs.mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack(((mean - flipped) / (1 - balance), (mean + flipped) / (1 + balance)))
    ends[:, np.abs(balance) == 1] = np.array([[-np.inf], [np.inf]])  # they never reject
    last = math.ceil(0.05 * len(signs)) - 1  # of p < 0.05
    low, high = np.sort(ends.min(0))[last], np.sort(ends.max(0))[::-1][last]
    return float(low), float(high)


def run_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's prediction interval for one further run, to compare a single-seed figure with."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    reach = stats.t.ppf(0.5 + confidence / 2, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - reach), float(values.mean() + reach)


def max_t_p(differences: np.ndarray) -> np.ndarray:
    """Two-sided p (m,) of m means of paired differences (n, m), adjusted for there being m of them:
    all columns flip together, and each is held against the largest statistic of a flip. The
    statistic |sum| / sqrt(sum of squares) ranks the flips as Student's t does."""
    differences = np.asarray(differences, float)
    scale = np.sqrt((differences**2).sum(0))
    scale[scale == 0] = np.inf
    flipped = np.abs(_signs(len(differences)) @ differences) / scale
    largest = flipped.max(1, keepdims=True)
    return (largest >= flipped[:1] * (1 - 1e-12)).mean(0)


def detectable(differences: np.ndarray) -> float:
    """The smallest mean difference that a paired test at p < 0.05 would find in four cases of five,
    from the spread of these: (t_0.975 + t_0.8) standard errors."""
    differences = np.asarray(differences, float)
    n = len(differences)
    if n < 2:
        return float("nan")
    reach = stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)
    return float(reach * differences.std(ddof=1) / np.sqrt(n))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p that paired differences have mean zero, by the flips that `mean_interval`
    inverts: exact up to 13 pairs."""
    return float(max_t_p(np.asarray(differences, float)[:, None])[0])


class Paired:
    """Tests of differences (n,) between two arms, from these differences alone."""

    least = MINIMUM  # seeds
    p, interval, detectable = map(staticmethod, (sign_flip_p, mean_interval, detectable))

    @staticmethod
    def joint(differences: dict[tuple[str, str], np.ndarray]) -> np.ndarray:
        return max_t_p(np.array([*differences.values()]).T)

    @staticmethod
    def equivalence_p(differences: np.ndarray, margin: float) -> float:
        return tost_p(differences, margin)


PAIRED = Paired()


@dataclass(frozen=True)
class Blocks:
    """As `Paired`, for few seeds of many arms: each seed is a block of a randomized-block design,
    and what neither arm nor seed explains, of all arms together, is the error of a run. Student's
    t, adjusted for several pairs as Dunnett does; wants errors of one size, near normal.

    error: the standard deviation of a run. freedom: degrees of freedom behind it."""

    error: float
    freedom: int
    least = 2

    @classmethod
    def of(cls, wide: pd.DataFrame) -> "Blocks":
        """From a figure of every arm (a column) and seed (a row), without gaps."""
        residual = (wide - wide.mean()).to_numpy()
        residual = residual - residual.mean(1, keepdims=True)
        freedom = (wide.shape[0] - 1) * (wide.shape[1] - 1)
        return cls(float(np.sqrt((residual**2).sum() / freedom)), freedom)

    def _scale(self, differences: np.ndarray) -> float:
        return self.error * math.sqrt(2 / len(differences))

    def p(self, differences: np.ndarray) -> float:
        t = abs(differences.mean()) / self._scale(differences)
        return float(2 * stats.t.sf(t, self.freedom))

    def interval(self, differences: np.ndarray) -> tuple[float, float]:
        reach = stats.t.ppf(0.975, self.freedom) * self._scale(differences)
        return float(differences.mean() - reach), float(differences.mean() + reach)

    def detectable(self, differences: np.ndarray) -> float:
        reach = stats.t.ppf(0.975, self.freedom) + stats.t.ppf(0.8, self.freedom)
        return float(reach * self._scale(differences))

    def joint(self, differences: dict[tuple[str, str], np.ndarray]) -> np.ndarray:
        """p of each pair (names of two arms: differences) among all of them, from 10^5 draws."""
        rng = np.random.default_rng(0)
        names = sorted({name for pair in differences for name in pair})
        arms = dict(zip(names, rng.standard_normal((len(names), 100_000))))
        spread = np.sqrt(2 * rng.chisquare(self.freedom, 100_000) / self.freedom)
        largest = np.max([abs(arms[a] - arms[b]) / spread for a, b in differences], axis=0)
        t = [abs(d.mean()) / self._scale(d) for d in differences.values()]
        return np.array([(largest >= one).mean() for one in t])

    def equivalence_p(self, differences: np.ndarray, margin: float) -> float:
        t = (margin - abs(differences.mean())) / self._scale(differences)
        return float(stats.t.sf(t, self.freedom))


def holm(p_values: list[float]) -> list[float]:
    """Holm-adjusted p-values, in the sequence given. Not by statsmodels, which collects garbage at
    every call: half a second beside a loaded archive."""
    p = np.asarray(p_values, float)
    rising = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[rising] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)[np.argsort(rising)].tolist()


def improvement_probability(a: np.ndarray, b: np.ndarray) -> float:
    """Probability that a run of A has a lower value than a run of B; ties count one half."""
    a, b = np.asarray(a, float)[:, None], np.asarray(b, float)[None]
    return float((a < b).mean() + 0.5 * (a == b).mean())


def tost_p(differences: np.ndarray, margin: float) -> float:
    """p of the two one-sided tests that the mean of paired differences lies within +-margin."""
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return 1.0
    if np.ptp(differences) == 0:
        return 0.0 if abs(differences[0]) < margin else 1.0
    return float(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def over_arms(rows: pd.DataFrame, statistic: str, metric, arms: int) -> pd.Series:
    """One value a seed, over its arms: the `mean` or `sd` (of these arms, not of a sample) of a
    metric, or the `agreement`, Kendall's tau between two metrics' rankings of the arms. `rows` has
    one row an arm and seed; seeds without a value of all `arms` are left out."""
    names = list(metric) if statistic == "agreement" else [metric]
    value = {
        "mean": lambda group: group[metric].mean(),
        "sd": lambda group: group[metric].std(ddof=0),
        "agreement": lambda group: stats.kendalltau(group[names[0]], group[names[-1]]).statistic,
    }[statistic]
    whole = {seed: group for seed, group in rows.groupby("seed")
             if group[names].notna().all(axis=1).sum() == arms}
    return pd.Series({seed: float(value(group)) for seed, group in whole.items()}, dtype=float)
