"""Claims as data: the grammar and its errors, the rules, and the claims of the studies."""

import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import seqlib
from seqlib import claims, ledger, plan, reach, study
from seqlib.errors import UsageError
from seqlib.rules import VERDICTS
from seqlib.store import ROOT, Store
from seqlib.sweep import sweep

SEEDS = 12
FIELDS = ["experiment", "arm", "seed", "test_mse", "engine", "protocol", "current", "key"]


def table(**columns):
    """Archive-like frame: `columns` maps an arm to its values."""
    rows = [
        ("published", arm, s, v, "stacked", "published", False, f"{arm} {s}")
        for arm, values in columns.items()
        for s, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=FIELDS)


def noise(mean, spread=1.0, seed=0, n=SEEDS):
    return np.random.default_rng(seed).normal(mean, spread, n)


def claim(test, kind="order", figures=None):
    test = test and {"experiment": "published", **test}
    return claims.Claim(kind=kind, says="x", source="document 000", figures=figures, test=test)


def verdict(data, test, kind="order", figures=None):
    [row] = claims.judge(
        "airline", {"Z01": claim({"metric": "test_mse", **test}, kind, figures)}, data
    )
    return row


def order(pairs, **more):
    return {"method": "order", "metric": "test_mse", "margin": 0.05, "pairs": pairs, **more}


def exact(name, test, figures=None):
    """The verdict on counts, for which no record is needed."""
    counted = claims.Claim(
        kind="exact", says="x", source="document 000", figures=figures, test=test
    )
    return claims.judge(name, {"Z01": counted}, pd.DataFrame())[0]


def test_the_ledger_has_every_claim_of_the_five_documents():
    expected = {
        "airline": ("A", 13),
        "shakespeare": ("S", 17),
        "attention_search": ("X", 28),
        "ernie": ("E", 7),
        "gpt2": ("G", 9),
    }
    assert {name: list(claims.read(name).claims) for name in study.names()} == {
        name: [f"{letter}{i:02d}" for i in range(1, count + 1)]
        for name, (letter, count) in expected.items()
    }
    documents = [claims.read(name) for name in study.names()]
    assert all(d.document and d.title and d.flaws for d in documents)
    assert all(c.says and c.source and c.changes for d in documents for c in d.claims.values())
    declared = [id_ for d in documents for id_, c in d.claims.items() if not c.post_hoc]
    assert len(declared) == 46 and all(
        c.test for d in documents for c in d.claims.values() if not c.post_hoc
    )


def cited(quoted):
    """Text without Markdown's marks, and with single spaces."""
    return " ".join(re.sub("[*`]", "", quoted).replace("|", " ").split())


@pytest.mark.parametrize("name", study.names())
def test_every_quote_stands_on_the_line_that_is_named(name):
    seeds = ROOT.parent / "shared" / "seeds"
    if not seeds.exists():
        pytest.skip(f"the documents are not in {seeds}")
    for id_, one in claims.read(name).claims.items():
        found = re.match(r"document (\d{3}), line (\d+)", one.source)
        assert bool(found) == bool(one.quote), (
            f"{id_}: a quote, and only that, wants a document and a line"
        )
        if found:
            [document] = seeds.glob(f"{found[1]}_*.txt")
            line = int(found[2])
            said = "\n".join(document.read_text().split("\n")[line - 1 : line + 1])
            assert cited(one.quote) in cited(said), (
                f"{id_}: {one.quote!r} is not on line {line} of {document.name}"
            )


def test_a_ranking_is_reproduced_contradicted_inconclusive_or_equivalent():
    low, high, same = noise(10), noise(14, seed=1), noise(10, 3.0, seed=2)
    assert verdict(table(a=low, b=high), order([["a", "b"]])).verdict == "reproduced"
    assert verdict(table(a=high, b=low), order([["a", "b"]])).verdict == "contradicted"
    assert verdict(table(a=low, b=same), order([["a", "b"]])).verdict == "inconclusive"
    assert (
        verdict(table(a=low, b=low + noise(0, 0.05, 3)), order([["a", "b"]])).verdict
        == "equivalent"
    )
    assert (
        verdict(table(a=low[:5], b=high[:5]), order([["a", "b"]])).verdict == "inconclusive"
    )  # five seeds cannot
    assert verdict(table(a=low), order([["a", "b"]])).verdict == "not run"


def test_one_reversed_pair_refutes_a_ranking_and_one_unclear_pair_leaves_it_open():
    a, b, c = noise(10), noise(14, seed=1), noise(18, seed=2)
    assert verdict(table(a=a, b=b, c=c), order([["a", "b"], ["b", "c"]])).verdict == "reproduced"
    assert verdict(table(a=a, b=b, c=c), order([["a", "b"], ["c", "b"]])).verdict == "contradicted"
    assert (
        verdict(table(a=a, b=b, c=noise(14.3, 6, 3)), order([["a", "b"], ["b", "c"]])).verdict
        == "inconclusive"
    )


def test_a_ranking_that_a_repair_removes_is_confounded_and_lost_significance_is_not_enough():
    a, b = noise(10), noise(14, seed=1)
    unclear = table(a=a, b=b, a2=noise(10, 8, 4).clip(1), b2=noise(14, 8, 5).clip(1))
    row = verdict(
        unclear, order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}})
    )
    assert (
        row.repairs["equal dropout"]["verdict"] == "inconclusive"
        and row.verdict == "reproduced"
        and row.reason
    )
    data = table(a=a, b=b, a2=noise(10, 0.9, 4), b2=noise(10, 0.9, 5))
    row = verdict(data, order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}}))
    assert row.verdict == "confounded" and "equal dropout" in row.reason
    kept = verdict(
        table(a=a, b=b, a2=a, b2=b),
        order([["a", "b"]], repairs={"equal dropout": {"pairs": [["a2", "b2"]]}}),
    )
    assert kept.verdict == "reproduced"
    gap = verdict(
        table(a=a, b=b, a2=a, b2=b),
        order([["a", "b"]], repairs={"none": {"pairs": [["a2", "b2"]]}}),
        "gap",
        {"a": 1.0, "b": 90.0},
    )
    assert gap.verdict == "same direction"


def test_a_repair_without_runs_is_named_and_leaves_the_published_comparison():
    repairs = {"equal dropout": {"pairs": [["a2", "b"]]}, "none": {"pairs": [["a", "b"]]}}
    row = verdict(table(a=noise(10), b=noise(14, seed=1)), order([["a", "b"]], repairs=repairs))
    assert (
        row.verdict == "reproduced"
        and row.reason == "with equal dropout: not run"
        and row.seeds == SEEDS
    )
    assert (
        row.repairs["equal dropout"] == {"verdict": "not run"}
        and row.repairs["none"]["verdict"] == "reproduced"
    )
    assert (
        verdict(table(a2=noise(10), b=noise(14)), order([["a", "b"]], repairs=repairs)).verdict
        == "not run"
    )


def test_a_figure_of_one_run_is_held_against_single_runs():
    data = table(a=noise(10), b=noise(20, seed=1))
    values = {"method": "values"}
    assert verdict(data, values, "value", {"a": 11.5, "b": 19.0}).verdict == "reproduced"
    assert verdict(data, values, "value", {"a": 11.5, "b": 40.0}).verdict == "same direction"
    assert verdict(data, values, "value", {"a": 50.0, "b": 19.0}).verdict == "contradicted"
    row = verdict(data, values, "value", {"a": 11.5, "b": 19.0})
    assert (
        row.ours["a"] == pytest.approx(noise(10).mean())
        and row.ci["a"][0] < row.ours["a"] < row.ci["a"][1]
    )


def test_a_gap_tells_direction_from_size():
    data, test = table(fast=noise(10), slow=noise(14, seed=1)), order([["fast", "slow"]])
    mean = noise(10).mean() - noise(14, seed=1).mean()
    assert verdict(data, test, "gap", {"fast": mean, "slow": 0.0}).verdict == "reproduced"
    assert verdict(data, test, "gap", {"fast": 5.0, "slow": 60.0}).verdict == "same direction"
    assert (
        verdict(data, order([["slow", "fast"]]), "gap", {"fast": 5.0, "slow": 6.0}).verdict
        == "contradicted"
    )


def test_p_values_are_adjusted_over_all_comparisons_of_a_study():
    a, b = noise(10), noise(12, 2.5, seed=1)
    one = claim(order([["a", "b"]], margin=0.0))
    rows = claims.judge("airline", {f"Z0{i}": one for i in range(5)}, table(a=a, b=b))
    assert rows[0].p_holm == pytest.approx(min(1, 5 * rows[0].p))


def test_repairs_are_a_family_of_their_own():
    one = claim(order([["a", "b"]], margin=0.0))
    mended = claim(order([["a", "b"]], margin=0.0, repairs={"r": {"pairs": [["a", "b"]]}}))
    data = table(a=noise(10), b=noise(12, 2.5, seed=1))
    alone = claims.judge("airline", {"Z01": one, "Z02": one}, data)
    rows = claims.judge("airline", {"Z01": one, "Z02": mended}, data)
    assert [row.p_holm for row in rows] == [row.p_holm for row in alone]
    assert rows[1].repairs["r"]["p_holm"] == pytest.approx(rows[1].p)


def test_too_few_seeds_print_neither_p_nor_interval():
    row = verdict(table(a=noise(10)[:5], b=noise(14, seed=1)[:5]), order([["a", "b"]]))
    assert row.verdict == "inconclusive" and row.ours
    assert (row.p, row.p_holm, row.detectable) == (None, None, {})
    assert np.isnan(list(row.ci.values())).all()


def test_a_ranking_of_a_stand_in_says_so_in_its_name():
    data = table(a=noise(10), b=noise(14, seed=1))
    needs = {"engine": "loop"}
    held = verdict(data, order([["a", "b"]], needs=needs))
    assert held.verdict == "direction holds on a stand-in" and "engine stacked" in held.reason
    turned = verdict(data, order([["b", "a"]], needs=needs))
    assert turned.verdict == "direction fails on a stand-in"
    same = verdict(data, order([["a", "b"]], needs={"engine": "stacked"}))
    assert same.verdict == "reproduced" and not same.stand_ins


def test_a_claim_that_entails_a_contradicted_one_is_contradicted():
    data = table(a=noise(10), b=noise(14, seed=1), c=noise(10, 3.0, seed=2))
    last = claim(order([["b", "a"]]))
    every = claim(order([["a", "c"]], margin=0.0, entails=["Z01"]))
    rows = claims.judge("airline", {"Z01": last, "Z02": every}, data)
    assert [row.verdict for row in rows] == ["contradicted", "contradicted"]
    assert "entails Z01" in rows[1].reason
    free = claims.judge("airline", {"Z01": claim(order([["a", "b"]])), "Z02": every}, data)[1]
    assert "entails" not in free.reason


def test_figures_closer_than_two_single_runs_of_ours_rank_nothing():
    data = table(a=noise(11, 2), b=noise(8, 2, seed=1), c=noise(30, 1, seed=2))
    row = verdict(data, {"method": "values"}, "value", {"a": 9.0, "b": 9.1, "c": 40.0})
    assert row.verdict == "same direction", "ours turn a and b, and no run of ours would tell"
    far = verdict(data, {"method": "values"}, "value", {"a": 9.0, "b": 29.0, "c": 40.0})
    assert far.verdict == "contradicted"


def test_post_hoc_claims_are_adjusted_apart_from_the_others():
    one = claim(order([["a", "b"]], margin=0.0))
    later, data = (
        one.model_copy(update={"post_hoc": True}),
        table(a=noise(10), b=noise(12, 2.5, seed=1)),
    )
    alone = claims.judge("airline", {"Z01": one, "Z02": one}, data)
    rows = claims.judge("airline", {"Z01": one, "Z02": one, "Z03": later}, data)
    assert rows[:2] == alone and rows[1].p_holm == pytest.approx(2 * rows[1].p)
    assert rows[2].post_hoc and rows[2].p_holm == rows[2].p


def test_columns_compare_other_figures_and_settings_and_formulas():
    other = table(a=noise(30, seed=2)).assign(
        experiment="rolling", key=lambda t: "rolling " + t.key
    )
    data = pd.concat([table(a=noise(10), b=noise(14, seed=1)), other], ignore_index=True)
    columns = {
        "again": {"arm": "a", "experiment": "rolling"},
        "twice_a": {"arm": "a", "metric": "2 * test_mse"},
        "above": "again - twice_a",
    }
    row = verdict(data, order([["twice_a", "again"], ["b", "above"]], columns=columns))
    assert row.ours["twice_a - again"] == pytest.approx(
        2 * noise(10).mean() - noise(30, seed=2).mean()
    )
    assert row.ours["b - above"] == pytest.approx(
        noise(14, seed=1).mean() - (noise(30, seed=2) - 2 * noise(10)).mean()
    )
    assert row.verdict == "contradicted" and row.older_code == 3 * SEEDS
    both = pd.concat(
        [data, other.assign(experiment="published", protocol="rolling")], ignore_index=True
    )
    with pytest.raises(
        UsageError, match="claims.yaml, Z01: column 'a' matches several records of one seed"
    ):
        verdict(both, order([["a", "b"]]))
    columns = {"a": {"arm": "a", "where": {"protocol": "published"}}}
    assert verdict(both, order([["a", "b"]], columns=columns)).verdict == "reproduced"


def test_a_gap_of_another_size_names_both_sizes():
    data = table(a=noise(10), b=noise(14, seed=1))
    row = verdict(data, order([["a", "b"]]), kind="gap", figures={"a": 9.9, "b": 10})
    ours = data[data.arm == "a"].test_mse.mean() / data[data.arm == "b"].test_mse.mean() - 1
    assert row.verdict == "same direction"
    assert f"a - b is {ours:+.0%} here and -1% in the document" in row.reason


def test_blocks_decide_where_pairs_of_three_seeds_cannot():
    rng = np.random.default_rng(5)
    means = {f"arm{i}": 10 + i for i in range(9)}
    data = table(**{arm: rng.normal(mean, 0.3, 3) for arm, mean in means.items()})
    pairs = [["arm0", "arm1"], ["arm1", "arm2"]]
    assert verdict(data, order(pairs, margin=0.01)).verdict == "inconclusive"
    assert verdict(data, order(pairs, margin=0.01, blocks=True)).verdict == "reproduced"
    row = verdict(data, order([["arm1", "arm0"]], margin=0.01, blocks=True))
    assert row.verdict == "contradicted" and row.seeds == 3 and row.p_holm < 0.05
    gap = data[~((data.arm == "arm8") & (data.seed > 0))]  # no two seeds have all arms
    assert verdict(gap, order(pairs, margin=0.01, blocks=True)).verdict == "inconclusive"


def test_no_worse_by_a_margin_is_another_claim_than_better():
    a, better = noise(10, 0.1), noise(9, 0.1, seed=1)
    same = {"pairs": [["a", "b"]], "margin": 0.001}
    level = table(a=a, b=a + noise(0, 0.05, seed=2))
    assert verdict(level, order(**same)).verdict == "inconclusive"
    assert verdict(level, order(**same, slack=0.02)).verdict == "reproduced"
    assert verdict(table(a=a, b=better), order(**same, slack=0.02)).verdict == "contradicted"
    below = {**same, "metric": "-test_mse"}  # a figure below zero has as much slack
    assert verdict(level, order(**below)).verdict == "inconclusive"
    assert verdict(level, order(**below, slack=0.02)).verdict == "reproduced"


def test_a_run_of_two_experiments_counts_once():
    data = table(a=noise(10), b=noise(14, seed=1))
    twice = pd.concat([data, data.assign(experiment="again")], ignore_index=True)
    test = order([["a", "b"]], experiment=["published", "again"])
    assert verdict(twice, test).older_code == 2 * SEEDS and verdict(twice, test).seeds == SEEDS


def test_a_number_and_a_statistic_over_arms_are_columns():
    data = table(a=noise(10), b=noise(14, seed=1))
    columns = {
        "mean": {"over": ["a", "b"], "statistic": "mean"},
        "bound": 20,
        "half": "40 / 2 - 10 + 0.0",
    }
    row = verdict(data, order([["mean", "bound"], ["half", "mean"]], columns=columns))
    assert row.verdict == "reproduced"
    assert row.ours["mean - bound"] == pytest.approx(
        (noise(10) + noise(14, seed=1)).mean() / 2 - 20
    )
    columns["mean"] = {"over": ["a", "b"], "statistic": "mean", "metric": "40 - test_mse"}
    turned = verdict(data, order([["bound", "mean"]], columns=columns))
    assert turned.ours["bound - mean"] == pytest.approx(row.ours["mean - bound"])


def test_a_repair_may_choose_its_runs_and_one_left_out_of_the_plan_is_not_run():
    low, high = noise(10), noise(14, seed=1)
    other = table(a=high, b=low).assign(experiment="small", key=lambda t: "small " + t.key)
    data = pd.concat([table(a=low, b=high), other], ignore_index=True)
    repairs = {"small size": {"experiment": "small"}, "held-out documents": {"planned": False}}
    row = verdict(data, order([["a", "b"]], repairs=repairs))
    assert row.verdict == "confounded" and row.repairs["held-out documents"] == {
        "verdict": "not run"
    }
    assert list(row.repairs["small size"]["ours"]) == ["a (small size) - b (small size)"]


def test_a_comparison_that_too_few_seeds_cannot_decide_takes_no_part_in_the_adjustment():
    a, b = noise(10), noise(14, seed=1)
    both = {"Z01": claim(order([["a", "b"]])), "Z02": claim(order([["c", "b"]]))}
    rows = claims.judge("airline", both, table(a=a, b=b, c=a[:3]))
    assert rows[0].p_holm == rows[0].p and rows[1].verdict == "inconclusive"


def test_records_of_older_code_are_counted():
    assert (
        verdict(table(a=noise(10), b=noise(14, seed=1)), order([["a", "b"]])).older_code
        == 2 * SEEDS
    )


def test_a_study_without_records_is_not_run_but_for_its_counts_and_unknown_ones_are_refused():
    rows = claims.study_verdicts("ernie")
    assert [r.verdict for r in rows] == ["not run", "not run", "reproduced"] + 4 * ["not run"]
    with pytest.raises(UsageError, match="unknown study"):
        claims.study_verdicts("nope")


def test_exact_counts_are_compared_to_the_unit():
    figures = claims.read("airline").claims["A01"].figures
    assert exact("airline", {"method": "parameters"}, figures).verdict == "reproduced"
    assert (
        exact("airline", {"method": "parameters"}, figures | {"gru": 37890}).verdict
        == "contradicted"
    )


def test_all_counts_of_one_arm_are_compared_to_the_unit():
    figures, test = (
        claims.read("gpt2").claims["G01"].figures,
        {"method": "parameters", "arm": "lora"},
    )
    row = exact("gpt2", test, figures)
    assert row.verdict == "reproduced" and row.ours == figures
    assert row.ours == {"trainable": 294_912, "total": 124_734_720, "percent": 0.2364}
    row = exact("gpt2", test, figures | {"total": 124_734_721})
    assert row.verdict == "contradicted" and row.reason == "differs for total"


def test_counts_are_held_against_bounds():
    row = exact(
        "ernie", {"method": "parameters", "arm": "lora", "between": {"percent": [0.5, 1.0]}}
    )
    assert row.verdict == "reproduced" and row.ours == {
        "trainable": 601_359,
        "total": 76_028_943,
        "percent": 0.791,
    }
    row = exact(
        "gpt2",
        {"method": "parameters", "arm": "full", "between": {"total": [124_734_720, 124_734_720]}},
    )
    assert (
        row.verdict == "contradicted" and row.reason == "total is 124,439,808, claimed 124,734,720"
    )
    row = exact(
        "ernie", {"method": "parameters", "arm": "lora", "between": {"percent": [0.8, 1.0]}}
    )
    assert row.verdict == "contradicted" and "percent is 0.791" in row.reason


def test_what_a_comparison_requires_is_looked_at_first():
    low, high = noise(10), noise(14, seed=1)
    test = order([["a", "b"]], requires={"pairs": [["a", "b"], ["c", "d"]], "otherwise": "no use"})
    assert verdict(table(a=low, b=high, c=low, d=high), test).verdict == "reproduced"
    unmet = verdict(table(a=low, b=high, c=high, d=low), test)
    assert unmet.verdict == "inconclusive" and unmet.reason == "no use" and unmet.p is None


def test_figures_that_the_document_left_empty_are_filled_and_not_compared():
    test = {"method": "values", "metric": "test_mse", "columns": {"loss": {"arm": "a"}}}
    row = verdict(table(a=noise(10)), test, "pending")
    assert row.verdict == "not comparable" and "left its figures empty" in row.reason
    assert (
        row.seeds == SEEDS
        and row.ours["loss"] == pytest.approx(noise(10).mean())
        and len(row.ci["loss"]) == 2
    )


def test_a_fixed_size_holds_only_where_all_counts_are_the_same():
    test, figures = {"method": "same size", "within": 0.01}, {"rope": 33665, "sinusoidal": 33665}
    same = exact("airline", test, figures)
    assert same.verdict == "reproduced" and same.ci == {
        "rope": [33665, 33665],
        "sinusoidal": [33665, 33665],
    }
    other = exact("airline", test, figures | {"lstm": 50497})
    assert (
        other.verdict == "contradicted"
        and other.reason == "the largest has 50.0% more parameters than the smallest"
    )


GOOD = """
document: "000"
title: x
sources: {document 000: {title: x, holds: x}}
experiment: published
claims:
  Z01:
    kind: order
    says: x
    source: document 000, line 5
    test: {method: order, metric: test_mse, margin: 0.05, pairs: [[rope, lstm]]}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the airline study's claims in place of the real ones."""
    shutil.copy(study.folder("airline") / "plan.yaml", tmp_path)
    study.get("airline")
    monkeypatch.setattr(study, "folder", lambda name: tmp_path)
    return (tmp_path / "claims.yaml").write_text


def test_claims_are_read_with_anchors_and_merge_keys(written):
    test = (
        "{<<: &both {arm: rope, metric: 2 * test_mse}, experiment: loop}, "
        "slow: {<<: *both, arm: lstm}"
    )
    written(
        GOOD.replace("pairs: [[rope, lstm]]", f"pairs: [[fast, slow]], columns: {{fast: {test}}}")
    )
    columns = claims.compared(claims.read("airline").claims["Z01"])[-1]
    assert columns["fast"].arm == "rope" and columns["fast"].experiment == "loop"
    assert columns["slow"].arm == "lstm" and columns["slow"].experiment == "published"
    assert columns["slow"].metric == columns["fast"].metric == "2 * test_mse"


PAIRS = "pairs: [[rope, lstm]]"


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("method: order", "method: ordr", "unknown method 'ordr'; did you mean 'order'"),
        ("kind: order", "kind: ordre", "unknown kind 'ordre'; did you mean 'order'"),
        ("margin", "margn", "unknown name 'margn'; did you mean 'margin'"),
        ("margin: 0.05, ", "", "a test of order wants margin"),
        (PAIRS, "x: 1", "unknown name 'x'"),
        (", " + PAIRS, "", "a test of order wants pairs"),
        ("margin: 0.05", "margin: -1", "test.margin: Input should be greater than or equal to 0"),
        (PAIRS, PAIRS + ", within: 0.1", "unknown name in a test of order 'within'"),
        (PAIRS, "pairs: [[rope]]", "test.pairs.0.1: Field required"),
        ("[rope, lstm]", "[rope, lstn]", "unknown arm 'lstn'; did you mean 'lstm'"),
        (
            PAIRS,
            "pairs: [[rope, slwo]], columns: {slow: {arm: lstm}}",
            "unknown arm or column 'slwo'; did you mean 'slow'",
        ),
        (
            PAIRS,
            PAIRS + ", columns: {slow: {arm: lstn}}",
            "unknown arm 'lstn'; did you mean 'lstm'",
        ),
        (PAIRS, PAIRS + ", columns: {slow: {arn: lstm}}", "unknown name 'arn'; did you mean 'arm'"),
        (
            PAIRS,
            PAIRS + ", columns: {slow: {over: [lstm, gru]}}",
            "wants an arm, or arms under `over` and a statistic",
        ),
        (
            PAIRS,
            PAIRS + ", columns: {slow: {over: [gru], statistic: men}}",
            "unknown statistic 'men'; did you mean 'mean'",
        ),
        (
            PAIRS,
            PAIRS + ", columns: {slow: {over: [gru], statistic: agreement}}",
            "a list of two metrics",
        ),
        (
            PAIRS,
            PAIRS + ", columns: {slow: {arm: lstm}, half: slwo / 2}",
            "unknown column above 'slwo'; did you mean 'slow'",
        ),
        (PAIRS, PAIRS + ", columns: {half: 1 /}", "'1 /' is not an expression"),
        ("metric: test_mse, ", "", "'rope' has no metric"),
        ("metric: test_mse", "metric: 2 *", "'2 \\*' is not an expression"),
        (
            "experiment: published",
            "experiment: publishd",
            "unknown experiment 'publishd'; did you mean 'published'",
        ),
        ("experiment: published", "experiment: live", "unknown experiment 'live'"),
        ("experiment: published", "", "unknown experiment None"),
        (
            PAIRS,
            PAIRS + ", where: {protocl: published}",
            "unknown setting 'protocl'; did you mean 'protocol'",
        ),
        (
            PAIRS,
            PAIRS + ", where: {protocol: rolling}",
            "unknown protocol 'rolling'; choose from: published",
        ),
        (PAIRS, PAIRS + ", where: {label: lstn}", "unknown label 'lstn'; did you mean 'lstm'"),
        (
            PAIRS,
            PAIRS + ", repairs: {again: {experiment: lop}}",
            "unknown experiment 'lop'; did you mean 'loop'",
        ),
        (
            PAIRS,
            PAIRS + ", repairs: {again: {pairs: [[rope, grru]]}}",
            "unknown arm 'grru'; did you mean 'gru'",
        ),
        (
            PAIRS,
            PAIRS + ", requires: {pairs: [[rope, gru]]}",
            "test.requires.otherwise: Field required",
        ),
        ("says: x", "says: x\n    figures: {rop: 1.0}", "unknown arm 'rop'; did you mean 'rope'"),
        ("says: x", "says: x\n    figures: {rope: high}", "figures.rope.*valid"),
        ("    says: x\n", "", "says: Field required"),
        ("    source: document 000, line 5\n", "", "source: Field required"),
        ("line 5", "line 5; report", "unknown source 'report'; choose from: document 000"),
        (
            "says: x",
            "says: x\n    quote: " + "word " * 16,
            "a quote of 16 words; at most 15 are quoted",
        ),
        (
            "{method: order, metric: test_mse, margin: 0.05, pairs: [[rope, lstm]]}",
            "{method: parameters, arm: rop}",
            "unknown arm 'rop'; did you mean 'rope'",
        ),
        (
            "{method: order, metric: test_mse, margin: 0.05, pairs: [[rope, lstm]]}",
            "{method: parameters, arm: rope, between: {percnt: [0, 1]}}",
            "unknown count 'percnt'; did you mean 'percent'",
        ),
        (
            "method: order, metric: test_mse, margin: 0.05",
            "method: values, metric: test_mse, needs: {engin: x}",
            "unknown setting 'engin'; did you mean 'engine'",
        ),
    ],
)
def test_a_wrong_claim_is_one_line_that_names_file_and_claim(written, old, new, problem):
    assert old in GOOD
    written(GOOD.replace(old, new))
    with pytest.raises(UsageError, match="claims.yaml, Z01: .*" + problem) as caught:
        claims.read("airline")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, problem",
    [
        (GOOD + "  Z01: {kind: order, says: y}", "line 12.*duplicate key"),
        (GOOD.replace("title", "titel"), "unknown name 'titel'; did you mean 'title'"),
        (GOOD.replace("title: x\n", ""), "title: Field required"),
        ("title: x\nclaims: [1]", "claims: Input should be a valid dictionary"),
        ("- 1", "valid dictionary"),
    ],
)
def test_a_wrong_head_is_one_line_that_names_the_file(written, text, problem):
    written(text)
    with pytest.raises(UsageError, match="claims.yaml.*" + problem) as caught:
        claims.read("airline")
    assert "\n" not in str(caught.value)


def test_a_metric_that_no_record_has_is_named_with_the_nearest():
    data = table(a=noise(10), b=noise(14, seed=1)).assign(empty=np.nan)
    assert verdict(data, order([["a", "b"]], metric="abs(test_mse) + 1")).verdict == "reproduced"
    for metric in ("2 * test_ms", "empty"):
        with pytest.raises(
            UsageError, match=r"claims.yaml, Z01: unknown metric '(test_ms|empty)'.*test_mse"
        ) as caught:
            verdict(data, order([["a", "b"]], metric=metric))
        assert "\n" not in str(caught.value)


def test_a_study_without_claims_has_no_verdicts(written):
    assert claims.read("airline").claims == {} and claims.study_verdicts("airline") == []
    rows = seqlib.verdicts("airline")
    assert rows.empty and {"id", "verdict", "p_holm", "says"} <= set(rows.columns)
    written("title: none yet")
    assert claims.read("airline").title == "none yet" and claims.study_verdicts("airline") == []


def test_verdicts_are_computed_again_when_the_archive_has_changed():
    def reason():
        return seqlib.verdicts("airline").loc["A02", "reason"]

    assert reason() == "the archive has no records"
    Store.archive().put(Store(ROOT / "results").get(plan.specs("airline", "published")[0]))
    assert reason().startswith("the archive lacks runs of lstm")
    assert callable(seqlib.verdicts), "no module takes the place of the function"


@pytest.mark.parametrize("name", study.names())
def test_every_claim_has_its_experiments_and_a_verdict(name, monkeypatch):
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))
    known = [
        experiment for experiment in plan.experiments(name) if experiment not in plan.NOT_ARCHIVED
    ]
    declared = claims.read(name).claims
    for one in declared.values():
        if one.test and one.test.method in ("values", "order"):
            columns = [c for c in claims.compared(one)[-1].values() if isinstance(c, claims.Column)]
            assert columns and all(set(c.choices()["experiment"]) <= set(known) for c in columns)
    rows = claims.study_verdicts(name)
    assert [row.id for row in rows] == list(declared) and {row.verdict for row in rows} <= set(
        VERDICTS
    )
    assert [row.id for row in rows if row.verdict == "not run"] == [
        i for i, one in declared.items() if not one.test
    ]


def test_the_front_page_has_each_study_with_its_headline_and_its_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    said = new_output("display_data", {"text/markdown": "Attention\nis ahead | here."})
    cells = [
        new_markdown_cell("# x"),
        new_code_cell("1", outputs=[said]),
        new_code_cell(
            "2",
            metadata={"tags": ["headline"]},
            outputs=[said, new_output("stream", text="x"), said],
        ),
    ]
    (tmp_path / "book" / "studies").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), tmp_path / "book" / "studies" / "airline.ipynb")
    lines = ledger.answer_table().splitlines()
    assert lines[:2] == ["| Study | Answer | Verdicts |", "|---|---|---|"] and len(
        lines
    ) == 2 + len(study.names())
    assert lines[2] == (
        "| [Airline passengers](studies/airline) | Attention is ahead \\| here. "
        "Attention is ahead \\| here. "
        "| 1 reproduced, 12 not run |"
    )
    assert (
        lines[3]
        == "| [Tiny Shakespeare](studies/shakespeare) | Not built yet. "
        "| 11 not run; post hoc 6 not run |"
    )


def test_verdicts_are_kept_while_records_code_and_libraries_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    specs = [s for s in plan.specs("airline", "baselines") if s.arm in ("naive", "ridge-ar12")]
    calls, verdicts = [], reach.verdicts
    monkeypatch.setattr(reach, "verdicts", lambda name: calls.append(name) or verdicts(name))
    for spec, computed in zip(specs, (1, 2), strict=True):
        sweep([spec], Store.archive(), quiet=True)
        first, second = ledger.kept_rows(["airline"]), ledger.kept_rows(["airline"])
        assert first == second and len(calls) == computed
    monkeypatch.setattr(ledger, "PACKAGES", ("torch",))  # as another version of a library
    assert ledger.kept_rows(["airline"]) == first == ledger.rows(["airline"]) and len(calls) == 4
    with pytest.raises(UsageError, match="did you mean 'airline'"):
        ledger.kept_rows(["airlin"])


def test_the_page_of_verdicts_has_a_section_for_every_claim():
    cells = nbformat.read(ROOT / "notebooks" / "claims.ipynb", 4).cells
    headings = [
        cell.source for cell in cells if "### " in cell.source and cell.cell_type == "markdown"
    ]
    ids = [id_ for name in study.names() for id_ in claims.read(name).claims]
    assert headings == [f'<a id="{id_}"></a>\n\n({id_})=\n### {id_}' for id_ in ids]
    sections = [cell.source for cell in cells if cell.source.startswith("section(")]
    assert sections == [f'section("{id_}")' for id_ in ids]
