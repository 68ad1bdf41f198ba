from itertools import product

import numpy as np
import pytest
from scipy import stats as reference

from seqlib import stats


def test_sign_flip_is_exact_for_few_pairs():
    d = np.array([0.3, -0.1, 0.5, 0.2, 0.4, 0.25])
    flips = np.array(list(product([1, -1], repeat=6)))
    means = (flips * d).mean(1)
    assert stats.sign_flip_p(d) == pytest.approx((np.abs(means) >= abs(d.mean()) - 1e-12).mean())
    assert stats.sign_flip_p(np.full(6, 0.5) + np.arange(6) * 0.01) == pytest.approx(2 / 64)
    # why six seeds are the least
    assert stats.sign_flip_p(np.full(5, 0.5) + np.arange(5) * 0.01) > 0.05
    assert stats.sign_flip_p(np.zeros(8)) == 1.0


def test_bca_interval_by_its_definition():
    x = np.random.default_rng(3).lognormal(size=25)
    boot = np.random.default_rng(1).choice(x, (20000, 25)).mean(1)
    z0 = reference.norm.ppf((boot < x.mean()).mean())
    left_out = (x.sum() - x) / 24
    centred = left_out.mean() - left_out
    a = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = reference.norm.ppf([0.025, 0.975])
    expected = np.quantile(boot, reference.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    np.testing.assert_allclose(stats.bca_interval(x), expected, rtol=0.03)
    assert stats.bca_interval(np.ones(5)) == (1.0, 1.0)
    assert np.isnan(stats.bca_interval(np.ones(1))).all()


def test_run_interval_holds_one_further_run_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = stats.run_interval(rng.normal(size=8))
        hits += low <= rng.normal() <= high
    assert 0.935 < hits / 2000 < 0.965


def test_holm_by_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert stats.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []


def test_improvement_probability_is_the_scaled_mann_whitney_statistic():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 9, 12), rng.integers(0, 9, 15)
    u = reference.mannwhitneyu(b, a).statistic
    assert stats.improvement_probability(a, b) == pytest.approx(u / (12 * 15))


def test_tost_agrees_with_the_ninety_percent_interval():
    rng = np.random.default_rng(7)
    for mean in (0.0, 0.15, 0.4):
        d = rng.normal(mean, 0.3, 20)
        low, high = reference.t.interval(0.9, 19, d.mean(), reference.sem(d))
        assert (stats.tost_p(d, 0.3) < 0.05) == (-0.3 < low and high < 0.3)
    assert stats.tost_p(np.full(6, 0.1), 0.2) == 0.0 and stats.tost_p(np.full(6, 0.3), 0.2) == 1.0
