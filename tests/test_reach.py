"""How far verdicts reach: other units than seeds, bounds, and all settings of the archive."""

import numpy as np
import pandas as pd
import pytest

import seqlib
from seqlib import claims, reach, rules, stats
from seqlib.errors import UsageError
from seqlib.store import ROOT


@pytest.fixture
def archive(monkeypatch):
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))


def runs(**columns):
    """Frame of one experiment; `columns` maps an arm to {metric: values by seed}."""
    rows = [{"experiment": "published", "study": "airline", "arm": arm, "seed": seed,
             "key": f"{arm} {seed}", "current": True,
             **{metric: values[seed] for metric, values in metrics.items()}}
            for arm, metrics in columns.items()
            for seed in range(len(next(iter(metrics.values()))))]
    return pd.DataFrame(rows)


def claim(pairs, metric="test_mse", **more):
    test = {"method": "order", "experiment": "published", "metric": metric, "margin": 0.0,
            "pairs": pairs, "columns": more.pop("columns", {})}
    return claims.Claim(kind="order", says="x", source="document 000", test=test, **more)


def noise(seed, n=10, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, n)


def by_unit(a, b):
    """Runs of two arms with a metric for each unit; a and b are (seeds, units)."""
    units = [f"unit {i}" for i in range(a.shape[1])]
    frame = runs(**{name: {"test_mse": values.mean(1), **dict(zip(units, values.T))}
                    for name, values in (("a", a), ("b", b))})
    population = {"units": "units", "figures": {"test_mse": units}}
    return reach.over_units(claim([["a", "b"]], population=population), frame)["units"]


def test_the_interval_over_units_has_the_variance_of_both_samples():
    rng = np.random.default_rng(0)
    seeds, units = rng.normal(0, 1, (40, 1)), rng.normal(0, 2, (1, 60))
    d = seeds + units
    low, high = by_unit(d, np.zeros_like(d))["ci"]["a - b"]
    assert (low + high) / 2 == pytest.approx(d.mean(), abs=0.1)
    expected = 2 * 1.96 * np.sqrt(seeds.var() / 40 + units.var() / 60)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_units_that_agree_add_nothing_and_those_of_one_sign_are_counted():
    d = np.tile(noise(1, 30)[:, None], (1, 5)) + np.array([-9, -9, -9, 9, 9])
    found = by_unit(d, np.zeros_like(d))
    assert found["n"] == 5 and found["holds"] == {"a - b": 3}
    alike = np.tile(noise(1, 30)[:, None], (1, 5))
    low, high = by_unit(alike, np.zeros_like(alike))["ci"]["a - b"]
    assert high - low == pytest.approx(2 * 1.96 * alike[:, 0].std() / np.sqrt(30), rel=0.1)


def test_a_verdict_that_units_leave_open_says_so():
    row = rules.Verdict("Z01", "airline", "order", "x", ci={"a - b": [-2.0, -1.0]})
    row.populations = {"years": {"n": 6, "ci": {"a - b": [-3.0, 0.5]}, "holds": {"a - b": 4}}}
    [said] = reach._alone(row)
    assert "not over years as well: a - b [-3, 0.5]" in said
    row.populations["years"]["ci"]["a - b"] = [-3.0, -0.5]
    assert not list(reach._alone(row))


def test_the_bounds_not_rejected_are_the_interval_of_what_is_bounded():
    """Of a difference from a number, and of a ratio: there by the verdict on either side."""
    frame = runs(a={"test_mse": noise(2, mean=5)}, b={"test_mse": noise(3, mean=40)})
    plain = claim([["limit", "a"]], columns={"limit": 3.5},
                  bound={"value": 3.5, "columns": ["limit"]})
    [ends] = reach.tipping(plain, frame).values()
    assert ends == pytest.approx(stats.mean_interval(noise(2, mean=5)), abs=1e-6)
    scaled = claim([["a times 6", "b"]], columns={"a times 6": "6 * a"},
                   bound={"value": 6, "columns": ["a times 6"]})
    scaled.test.columns |= {"a": claims.Column(arm="a")}
    [(low, high)] = reach.tipping(scaled, frame).values()
    for factor, rejected in ((low - 1e-3, True), (low + 1e-3, False), (high - 1e-3, False),
                             (high + 1e-3, True)):
        d = factor * noise(2, mean=5) - noise(3, mean=40)
        assert (stats.sign_flip_p(d) < 0.05) == rejected, factor


def test_a_bound_that_stands_nowhere_is_named():
    wrong = claim([["twice", "b"]], columns={"twice": "2 * b"},
                  bound={"value": 3, "columns": ["twice"]})
    with pytest.raises(UsageError, match="bound: 3 does not stand in 'twice'"):
        claims.with_bound(wrong, 1)


def test_columns_behind_a_formula_are_found():
    columns = {"a": claims.Column(arm="a"), "b": claims.Column(arm="b"), "c": "2 * a",
               "d": "c + 1", "e": 0.5}
    assert reach.behind(["d"], columns) == ["a", "c", "d"]


def test_every_setting_of_the_archive_is_one_that_compare_finds_too(archive):
    found = reach.universes("gpt2")
    g04 = found[(found.claim == "G04") & (found.pairs == claims.PUBLISHED)]
    assert {"published-filler", "published-plays", "fair", "long"} <= set(g04.experiment)
    assert not found.duplicated().any() and (found.seeds >= 2).all()
    fair = g04[(g04.experiment == "fair") & (g04.metric == "val_perplexity")].iloc[0]
    effect = seqlib.compare(seqlib.load("gpt2", "fair"), "val_perplexity", "full", "lora")
    lora = seqlib.load("gpt2", "fair").query("arm == 'lora'").val_perplexity.mean()
    assert fair.seeds == effect.n and fair.holds == (effect.mean < 0)
    assert fair.effect_percent == pytest.approx(100 * effect.mean / lora)


def test_claims_with_a_bound_or_other_units_have_them_in_the_ledger(archive):
    rows = seqlib.verdicts("shakespeare")
    for id_, one in claims.read("shakespeare").claims.items():
        assert bool(rows.tipping[id_]) == bool(one.bound), id_
    [(low, high)] = rows.tipping["S06"].values()
    assert 8 < low < high and rows.verdict["S06"] == "reproduced"
