import numpy as np
import pandas as pd
import pytest

from seqlib import claims
from seqlib.errors import SeqlibError, UsageError

SEEDS = 12


def table(**columns):
    """Archive-like frame: `columns` maps an arm to its values."""
    rows = [{"arm": arm, "seed": s, "test_mse": v, "engine": "stacked", "protocol": "published", "older_code": True}
            for arm, values in columns.items() for s, v in enumerate(values)]
    return pd.DataFrame(rows)


def noise(mean, spread=1.0, seed=0, n=SEEDS):
    return np.random.default_rng(seed).normal(mean, spread, n)


def verdict(data, test, kind="order", seed=None):
    claim = {"kind": kind, "says": "x", "seed": seed, "test": {"metric": "test_mse", "margin": 0.05, **test}}
    return claims.study_verdicts("airline", {"Z01": claim}, data)[0]


def order(pairs, **more):
    return {"method": "order", "pairs": pairs, **more}


def test_the_ledger_has_every_claim_of_the_five_documents():
    expected = {"airline": ("A", 13), "shakespeare": ("S", 11), "attention_search": ("X", 10), "ernie": ("E", 6),
                "gpt2": ("G", 6)}
    loaded = claims.load()
    assert {n: list(e["claims"]) for n, e in loaded.items()} == {
        n: [f"{letter}{i:02d}" for i in range(1, count + 1)] for n, (letter, count) in expected.items()}
    kinds = {"exact", "value", "order", "gap", "mechanism", "pending"}
    assert all(c["kind"] in kinds and c["says"] for e in loaded.values() for c in e["claims"].values())


def test_a_ranking_is_reproduced_contradicted_inconclusive_or_equivalent():
    low, high, same = noise(10), noise(14, seed=1), noise(10, 3.0, seed=2)
    assert verdict(table(a=low, b=high), order([["a", "b"]])).verdict == "reproduced"
    assert verdict(table(a=high, b=low), order([["a", "b"]])).verdict == "contradicted"
    assert verdict(table(a=low, b=same), order([["a", "b"]])).verdict == "inconclusive"
    assert verdict(table(a=low, b=low + noise(0, 0.05, 3)), order([["a", "b"]])).verdict == "equivalent"
    assert verdict(table(a=low[:5], b=high[:5]), order([["a", "b"]])).verdict == "inconclusive"  # five seeds cannot
    assert verdict(table(a=low), order([["a", "b"]])).verdict == "not run"


def test_one_reversed_pair_refutes_a_ranking_and_one_unclear_pair_leaves_it_open():
    a, b, c = noise(10), noise(14, seed=1), noise(18, seed=2)
    assert verdict(table(a=a, b=b, c=c), order([["a", "b"], ["b", "c"]])).verdict == "reproduced"
    assert verdict(table(a=a, b=b, c=c), order([["a", "b"], ["c", "b"]])).verdict == "contradicted"
    assert verdict(table(a=a, b=b, c=noise(14.3, 6, 3)), order([["a", "b"], ["b", "c"]])).verdict == "inconclusive"


def test_a_ranking_that_a_repair_removes_is_confounded_and_lost_significance_is_not_enough():
    a, b = noise(10), noise(14, seed=1)
    unclear = table(a=a, b=b, a2=noise(10, 8, 4).clip(1), b2=noise(14, 8, 5).clip(1))
    row = verdict(unclear, order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}}))
    assert row.repairs["equal dropout"]["verdict"] == "inconclusive" and row.verdict == "reproduced" and row.reason
    data = table(a=a, b=b, a2=noise(10, 0.9, 4), b2=noise(10, 0.9, 5))
    row = verdict(data, order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}}))
    assert row.verdict == "confounded" and "equal dropout" in row.reason
    kept = verdict(table(a=a, b=b, a2=a, b2=b), order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}}))
    assert kept.verdict == "reproduced"
    gap = verdict(table(a=a, b=b, a2=a, b2=b), order([["a", "b"]], repairs={"none": {"pairs": [["a2", "b2"]]}}), "gap",
                  {"a": 1.0, "b": 90.0})
    assert gap.verdict == "same direction"


def test_a_repair_without_runs_is_named_and_leaves_the_published_comparison():
    repairs = {"equal dropout": {"pairs": [["a2", "b"]]}, "none": {"pairs": [["a", "b"]]}}
    row = verdict(table(a=noise(10), b=noise(14, seed=1)), order([["a", "b"]], repairs=repairs))
    assert row.verdict == "reproduced" and row.reason == "with equal dropout: not run" and row.seeds == SEEDS
    assert row.repairs["equal dropout"] == {"verdict": "not run"} and row.repairs["none"]["verdict"] == "reproduced"
    assert verdict(table(a2=noise(10), b=noise(14)), order([["a", "b"]], repairs=repairs)).verdict == "not run"


def test_a_figure_of_one_run_is_held_against_single_runs():
    data = table(a=noise(10), b=noise(20, seed=1))
    values = {"method": "values"}
    assert verdict(data, values, "value", {"a": 11.5, "b": 19.0}).verdict == "reproduced"
    assert verdict(data, values, "value", {"a": 11.5, "b": 40.0}).verdict == "same direction"
    assert verdict(data, values, "value", {"a": 50.0, "b": 19.0}).verdict == "contradicted"
    row = verdict(data, values, "value", {"a": 11.5, "b": 19.0})
    assert row.ours["a"] == pytest.approx(noise(10).mean()) and row.ci["a"][0] < row.ours["a"] < row.ci["a"][1]


def test_a_gap_tells_direction_from_size():
    data, test = table(fast=noise(10), slow=noise(14, seed=1)), order([["fast", "slow"]])
    mean = noise(10).mean() - noise(14, seed=1).mean()
    assert verdict(data, test, "gap", {"fast": mean, "slow": 0.0}).verdict == "reproduced"
    assert verdict(data, test, "gap", {"fast": 5.0, "slow": 60.0}).verdict == "same direction"
    assert verdict(data, order([["slow", "fast"]]), "gap", {"fast": 5.0, "slow": 6.0}).verdict == "contradicted"


def test_p_values_are_adjusted_over_all_comparisons_of_a_study():
    a, b = noise(10), noise(12, 2.5, seed=1)
    one = {"kind": "order", "says": "x", "test": {"metric": "test_mse", "margin": 0.0, **order([["a", "b"]])}}
    rows = claims.study_verdicts("airline", {f"Z0{i}": one for i in range(5)}, table(a=a, b=b))
    assert rows[0].p_holm == pytest.approx(min(1, 5 * rows[0].p))


def test_columns_compare_other_figures_and_settings_and_formulas():
    data = pd.concat([table(a=noise(10), b=noise(14, seed=1)), table(a=noise(30, seed=2)).assign(protocol="rolling")],
                     ignore_index=True)
    columns = {"again": {"arm": "a", "where": {"protocol": "rolling"}}, "twice_a": {"arm": "a", "metric": "2 * test_mse"},
               "above": "again - twice_a"}
    row = verdict(data, order([["twice_a", "again"], ["b", "above"]], columns=columns))
    assert row.ours["twice_a - again"] == pytest.approx(2 * noise(10).mean() - noise(30, seed=2).mean())
    assert row.ours["b - above"] == pytest.approx(noise(14, seed=1).mean() - (noise(30, seed=2) - 2 * noise(10)).mean())
    assert row.verdict == "contradicted" and row.older_code == 3 * SEEDS
    with pytest.raises(SeqlibError, match="column 'a' matches several records of one seed"):
        verdict(pd.concat([data, data], ignore_index=True), order([["a", "b"]]))


def test_a_comparison_that_too_few_seeds_cannot_decide_takes_no_part_in_the_adjustment():
    a, b = noise(10), noise(14, seed=1)
    claim = {"kind": "order", "says": "x", "test": {"metric": "test_mse", "margin": 0.0, **order([["a", "b"]])}}
    few = {**claim, "test": {**claim["test"], "pairs": [["c", "b"]]}}
    rows = claims.study_verdicts("airline", {"Z01": claim, "Z02": few}, table(a=a, b=b, c=a[:3]))
    assert rows[0].p_holm == rows[0].p and rows[1].verdict == "inconclusive"


def test_records_of_older_code_are_counted():
    assert verdict(table(a=noise(10), b=noise(14, seed=1)), order([["a", "b"]])).older_code == 2 * SEEDS


def test_a_study_without_records_is_not_run_but_for_its_counts_and_unknown_ones_are_refused():
    rows = claims.ledger(["ernie"])
    assert [r.verdict for r in rows] == ["not run", "not run", "reproduced", "not run", "not run", "not run"]
    with pytest.raises(UsageError, match="unknown study"):
        claims.ledger(["nope"])


def test_exact_counts_are_compared_to_the_unit():
    entry = claims.load()["airline"]["claims"]["A01"]
    assert claims.study_verdicts("airline", {"A01": entry}, pd.DataFrame())[0].verdict == "reproduced"
    wrong = {**entry, "seed": {**entry["seed"], "gru": 37890}}
    assert claims.study_verdicts("airline", {"A01": wrong}, pd.DataFrame())[0].verdict == "contradicted"


def test_all_counts_of_one_arm_are_compared_to_the_unit():
    entry = claims.load()["gpt2"]["claims"]["G01"]
    row = claims.study_verdicts("gpt2", {"G01": entry}, pd.DataFrame())[0]
    assert row.verdict == "reproduced" and row.ours == entry["seed"]
    assert row.ours == {"trainable": 294_912, "total": 124_734_720, "percent": 0.2364}
    wrong = {**entry, "seed": {**entry["seed"], "total": 124734721}}
    row = claims.study_verdicts("gpt2", {"G01": wrong}, pd.DataFrame())[0]
    assert row.verdict == "contradicted" and row.reason == "differs for total"


def test_counts_are_held_against_bounds():
    entry = claims.load()["ernie"]["claims"]["E03"]
    row = claims.study_verdicts("ernie", {"E03": entry}, pd.DataFrame())[0]
    assert row.verdict == "reproduced" and row.ours == {"trainable": 601_359, "total": 76_028_943, "percent": 0.791}
    narrow = {**entry, "test": {**entry["test"], "between": {"percent": [0.8, 1.0]}}}
    row = claims.study_verdicts("ernie", {"E03": narrow}, pd.DataFrame())[0]
    assert row.verdict == "contradicted" and "percent is 0.791" in row.reason


def test_what_a_comparison_requires_is_looked_at_first():
    low, high = noise(10), noise(14, seed=1)
    test = {"metric": "test_mse", "margin": 0.0, **order([["a", "b"]]), "requires": {"pairs": [["a", "b"], ["c", "d"]]}}
    test["requires"]["otherwise"] = "no use"
    claim = {"Z01": {"kind": "order", "says": "x", "test": test}}
    met = claims.study_verdicts("airline", claim, table(a=low, b=high, c=low, d=high))[0]
    assert met.verdict == "reproduced"
    unmet = claims.study_verdicts("airline", claim, table(a=low, b=high, c=high, d=low))[0]
    assert unmet.verdict == "inconclusive" and unmet.reason == "no use" and unmet.p is None


def test_figures_that_the_document_left_empty_are_filled_and_not_compared():
    test = {"method": "values", "metric": "test_mse", "columns": {"loss": {"arm": "a"}}}
    row = claims.study_verdicts("airline", {"Z01": {"kind": "pending", "says": "x", "test": test}}, table(a=noise(10)))[0]
    assert row.verdict == "not comparable" and "left its figures empty" in row.reason
    assert row.seeds == SEEDS and row.ours["loss"] == pytest.approx(noise(10).mean()) and len(row.ci["loss"]) == 2


def test_a_fixed_size_holds_only_where_all_counts_are_the_same():
    claim = {"kind": "mechanism", "says": "x", "seed": {"rope": 33665, "sinusoidal": 33665}, "test": {"method": "same size"}}
    claim["test"]["within"] = 0.01
    same = claims.study_verdicts("airline", {"Z01": claim}, table())[0]
    assert same.verdict == "reproduced" and same.ci == {"rope": [33665, 33665], "sinusoidal": [33665, 33665]}
    claim["seed"]["lstm"] = 50497
    other = claims.study_verdicts("airline", {"Z01": claim}, table())[0]
    assert other.verdict == "contradicted" and other.reason == "the largest has 50.0% more parameters than the smallest"
