"""Statistics over paired seeds: intervals, tests, equivalence. All take one value a seed, (n,).

Sources: BCa bootstrap (Efron 1987, J. Am. Stat. Assoc. 82), sign-flip test (Fisher's randomisation
test on paired differences), probability of improvement (Agarwal et al. 2021, arXiv 2108.13264,
section 4.3), two one-sided tests (Schuirmann 1987), Holm (1979).
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

RESAMPLES = 9999
MINIMUM = 6  # paired seeds: the fewest with which a two-sided sign-flip test can reach p < 0.05


def bca_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean; a point where all values are equal, NaN for fewer than two."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="BCa",
                             rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def run_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's prediction interval for one further run, to compare a single-seed figure with."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    reach = stats.t.ppf(0.5 + confidence / 2, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - reach), float(values.mean() + reach)


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p that paired differences have mean zero; exact up to 13 pairs, then resampled."""
    differences = np.asarray(differences, float)
    if len(differences) < 2 or not differences.any():
        return 1.0
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples",
                                  n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(test.pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm-adjusted p-values, in the sequence given."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


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
