from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference
from statsmodels.formula import api as smf
from statsmodels.stats.multitest import multipletests

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


def test_the_interval_is_what_the_sign_flip_test_does_not_reject():
    x = np.random.default_rng(3).lognormal(size=9)
    low, high = stats.mean_interval(x)
    assert low < x.mean() < high
    for inside, outside in ((low, low - 1e-9), (high, high + 1e-9)):
        nudged = inside + (x.mean() - inside) * 1e-9
        assert stats.sign_flip_p(x - nudged) >= 0.05 > stats.sign_flip_p(x - outside)
    assert stats.mean_interval(np.ones(6)) == (1.0, 1.0)
    assert np.isnan(stats.mean_interval(np.arange(5.0))).all(), "with five nothing is rejected"


@pytest.mark.parametrize("n", [6, 9, 13, 14, 30])
def test_p_and_interval_agree_and_p_is_that_of_scipy(n):
    rng = np.random.default_rng(n)
    for _ in range(40):
        d = rng.normal(rng.uniform(0.2, 0.9), 1, n)
        low, high = stats.mean_interval(d)
        assert (stats.sign_flip_p(d) < 0.05) == (low > 0 or high < 0)
    by_scipy = reference.permutation_test((d,), np.mean, permutation_type="samples", rng=rng)
    assert stats.sign_flip_p(d) == pytest.approx(by_scipy.pvalue, abs=0 if n <= 13 else 0.015)


@pytest.mark.parametrize("seeds", [6, 8, 30])
def test_the_interval_covers_as_often_as_it_says(seeds):
    """A bootstrap of as few covers 81 to 89 times in a hundred."""
    rng = np.random.default_rng(seeds)
    spans = [stats.mean_interval(rng.normal(size=seeds)) for _ in range(400)]
    assert np.mean([low <= 0 <= high for low, high in spans]) > 0.925


def test_joint_p_values_by_their_definition():
    d = np.random.default_rng(1).normal(0.5, 1, (7, 3))
    t = np.abs(reference.ttest_1samp(d, 0).statistic)
    flips = np.array(list(product([1, -1], repeat=7)))
    largest = [np.abs(reference.ttest_1samp(s[:, None] * d, 0).statistic).max() for s in flips]
    expected = [(np.array(largest) >= one - 1e-9).mean() for one in t]
    assert stats.max_t_p(d) == pytest.approx(expected)
    alone = [stats.max_t_p(column[:, None])[0] for column in d.T]
    assert alone == pytest.approx([stats.sign_flip_p(column) for column in d.T])
    assert (stats.max_t_p(d) >= np.array(alone) - 1e-12).all()


def test_a_difference_that_is_called_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(2)
    size = np.mean([stats.detectable(rng.normal(size=12)) for _ in range(300)])
    found = [reference.ttest_1samp(rng.normal(size, 1, 12), 0).pvalue < 0.05 for _ in range(2000)]
    assert 0.76 < np.mean(found) < 0.84


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
    p = np.random.default_rng(0).uniform(0, 0.2, 30).tolist()
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


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


def blocks(seeds=3, arms=8, spread=1.0, seed=0):
    """A figure of every arm and seed, with effects of both."""
    rng = np.random.default_rng(seed)
    figures = rng.normal(size=(seeds, 1)) * 5 + rng.normal(size=arms) * 3
    columns = [f"arm {i}" for i in range(arms)]
    return pd.DataFrame(figures + rng.normal(0, spread, (seeds, arms)), columns=columns)


def test_blocks_are_the_two_way_analysis_of_variance():
    wide = blocks()
    long = wide.melt(ignore_index=False, var_name="arm", value_name="y").reset_index(names="seed")
    fit = smf.ols("y ~ C(arm) + C(seed)", long).fit()
    found, d = stats.Blocks.of(wide), (wide["arm 3"] - wide["arm 0"]).to_numpy()
    assert found.freedom == fit.df_resid == 14
    assert found.error**2 == pytest.approx(fit.mse_resid)
    assert found.p(d) == pytest.approx(fit.pvalues["C(arm)[T.arm 3]"])
    assert found.interval(d) == pytest.approx(fit.conf_int().loc["C(arm)[T.arm 3]"].to_list())


def test_blocks_adjust_for_several_pairs_as_dunnett_does():
    wide = blocks(seeds=6, arms=4, spread=2.0)
    wide = wide.sub(wide.mean(axis=1), axis=0)
    found = stats.Blocks(error=2.0, freedom=20)
    pairs = {(arm, "arm 0"): (wide[arm] - wide["arm 0"]).to_numpy() for arm in list(wide)[1:]}
    t = np.array([abs(d.mean()) / (2.0 * np.sqrt(2 / 6)) for d in pairs.values()])
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    joint = reference.multivariate_t(shape=shape, df=20)
    expected = [1 - joint.cdf(np.full(3, one), lower_limit=np.full(3, -one)) for one in t]
    assert found.joint(pairs) == pytest.approx(expected, abs=0.006)
    assert (found.joint(pairs) >= [found.p(d) - 0.006 for d in pairs.values()]).all()


def test_blocks_find_equivalence_and_say_what_they_can_find():
    found = stats.Blocks(error=1.0, freedom=24)
    d, scale = np.array([0.1, -0.1, 0.0]), np.sqrt(2 / 3)
    assert found.equivalence_p(d, 3 * scale) == pytest.approx(reference.t.sf(3, 24))
    assert found.equivalence_p(d + 5, 1.0) > 0.95
    rng = np.random.default_rng(0)
    means = rng.normal(found.detectable(d), scale, 4000)
    errors = np.sqrt(rng.chisquare(24, 4000) / 24)
    assert 0.77 < np.mean(reference.t.sf(means / scale / errors, 24) < 0.025) < 0.83
