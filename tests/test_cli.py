import json

import pytest
from click.testing import CliRunner

from seqlib import cli


def call(*arguments, capsys):
    code = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments, told", [
    (["run", "nope"], "unknown study 'nope'; choose from: airline"),
    (["run", "ernie", "--set", "base=bert"], "study ernie, base"),
    (["run", "airline", "--profile", "huge"], "unknown profile 'huge'"),
    (["run", "airline", "--set", "seeds=many"], "seeds"),
    (["run", "airline", "--set", "seeds=0"], "seeds"),
    (["run", "airline", "--set", "depth=3"], "depth: no such parameter"),
    (["run", "airline", "--set", "seeds"], "NAME=VALUE"),
    (["run", "airline", "--set", "arms=[nothing]"], "unknown arm 'nothing'"),
    (["run", "--workers", "0"], "--workers"),
    (["sweep", "airline", "--arms", "lstn"], "'lstn'"),
    (["sweep", "airline", "--seeds", "5-2"], "--seeds"),
    (["sweep", "airline", "--seeds", "a"], "--seeds"),
    (["sweep", "airline", "--seeds", "²"], "--seeds"),
    (["sweep", "airline", "--seeds", "1-"], "--seeds"),
    (["sweep", "airline", "--seeds", "0-2000000000"], "below 10000"),
    (["sweep", "airline", "--arms", "naive", "--seeds", "5"], "no such seed"),
    (["run", "airline", "--set", "profile=full"], "use --profile"),
    (["run", "airline", "--set", "arms=[]"], "arms"),
    (["run", "airline", "--timeout", "inf"], "--timeout"),
    (["claims", "--study", "nope"], "unknown study"),
    (["params", "nope"], "unknown study"),
    (["bench", "nope"], "unknown bench"),
    (["data", "nope"], "unknown data set"),
    (["run", "shakespeare", "--set", "context=1"], "study shakespeare, context"),
    (["run", "shakespeare", "--set", "corpus=sonnets"], "study shakespeare, corpus"),
    (["frobnicate"], "No such command"),
])
def test_bad_usage_is_one_line_and_exit_code_2(arguments, told, capsys):
    code, out, err = call(*arguments, capsys=capsys)
    assert code == 2 and told in err and len(err.strip().splitlines()) == 1 and not out


def test_debug_adds_the_traceback(capsys):
    assert "Traceback" in call("params", "nope", "--debug", capsys=capsys)[2]


@pytest.mark.parametrize("name", ["run", "sweep", "claims", "params", "bench", "data", "status"])
def test_every_command_has_help_with_an_example(name):
    shown = CliRunner().invoke(cli.cli, [name, "--help"])
    assert shown.exit_code == 0 and f"Example:\n    seqlib {name}" in shown.output


def test_params_json(capsys):
    counts = json.loads(call("params", "airline", "--json", capsys=capsys)[1])
    assert counts["lstm"] == {"trainable": 50497, "total": 50497} and set(counts) >= {"gru", "rope", "learned-logdiff"}


def test_claims_json_has_every_claim_and_its_figures(capsys):
    rows = json.loads(call("claims", "--json", capsys=capsys)[1])
    assert len(rows) == 46 and all({"id", "study", "verdict", "seeds", "ours", "ci", "seed_value"} <= set(r) for r in rows)
    assert {r["id"] for r in rows if r["study"] == "ernie"} == {f"E0{n}" for n in range(1, 7)}


def test_data_json(capsys):
    from seqlib.studies.airline.protocol import SERIES_SHA256

    (row,) = json.loads(call("data", "airline", "--json", capsys=capsys)[1])
    assert row["sha256"] == SERIES_SHA256 and row["source"] == "the package"


def test_sweep_fills_the_live_store_and_status_counts_it(capsys):
    arguments = ("sweep", "airline", "--profile", "smoke", "--arms", "rope,naive", "--seeds", "0-1")
    code, out, _ = call(*arguments, capsys=capsys)
    assert code == 0 and "3 records" in out and "3 of them new" in out
    assert "0 of them new" in call(*arguments, capsys=capsys)[1]
    rows = json.loads(call("status", "--json", capsys=capsys)[1])
    assert {(r["store"], r["records"]) for r in rows if r["study"] == "airline"} == {("live", 3), ("archive", 0)}


def test_seeds_choose_among_those_of_the_profile_and_more_are_added_where_it_has_fewer(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("seqlib.sweep.sweep", lambda specs, *a, **k: asked.append(sorted({s.seed for s in specs})) or [])
    for name, profile, seeds in (("gpt2", "full", "1000"), ("attention_search", "full", "0-1"), ("airline", "smoke", "4")):
        assert call("sweep", name, "--profile", profile, "--seeds", seeds, capsys=capsys)[0] == 0
    assert asked == [[1000], [0, 1], [4]]


def test_an_unwritable_store_is_one_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQLIB_RUNS", str(tmp_path / "file" / "runs"))
    code, _, err = call("sweep", "airline", "--profile", "smoke", "--arms", "naive", capsys=capsys)
    assert code == 1 and "cannot write" in err and "SEQLIB_RUNS" in err and "Traceback" not in err


def test_numbers_in_settings_are_read_as_python_reads_them():
    from seqlib.pages import plan

    assert plan(["airline"], "smoke", ["lr=1e-3", "seeds=3", "arms=[gru]"])[0].values["lr"] == 1e-3


def test_a_store_that_is_no_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQLIB_RESULTS", str(tmp_path / "file"))
    code, _, err = call("status", capsys=capsys)
    assert code == 1 and "is not a folder" in err


@pytest.mark.parametrize("text, seeds", [("3", [3]), ("0-2", [0, 1, 2]), ("0,2,5-6", [0, 2, 5, 6])])
def test_seed_ranges(text, seeds):
    assert cli.parse_seeds(text) == seeds
