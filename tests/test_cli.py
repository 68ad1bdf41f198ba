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


@pytest.mark.parametrize("arguments, problem", [
    (["run", "nope"], "unknown study 'nope'; choose from: airline"),
    (["run", "ernie", "--set", "base=bert"], "base"),
    (["run", "airline", "--profile", "huge"], "unknown profile 'huge'"),
    (["run", "airline", "--set", "seeds=many"], "seeds"),
    (["run", "airline", "--set", "seeds=0"], "seeds"),
    (["run", "airline", "--set", "depth=3"], "unknown parameter of airline 'depth'"),
    (["run", "airline", "--set", "seeds"], "NAME=VALUE"),
    (["run", "airline", "--set", "arms=[nothing]"], "'nothing'"),
    (["run", "--workers", "0"], "--workers"),
    (["sweep", "airline", "--arms", "lstn"], "'lstn'"),
    (["sweep", "airline", "--arms", " , "], "wants names, separated by commas"),
    (["sweep", "airline", "smoke", "--arms", "lstm-logdiff"], "did you mean 'lstm'"),
    (["sweep", "airline", "smoke", "--set", "arms=lstm"], "use --arms"),
    (["sweep", "airline", "smoke", "--set", "seed=3"], "use --seeds"),
    (["sweep", "airline", "smoke", "--set", "study=gpt2"], "unknown setting of airline 'study'"),
    (["sweep", "airline", "smoke", "--set", "lr="], "NAME=V1,V2"),
    (["sweep", "airline", "smoke", "--set", "lr=1", "--set", "lr=2"], "stands twice"),
    (["sweep", "airline", "smoke", "--set", "lr=[1e-3"], "--set lr, line"),
    (["sweep", "airline", "smoke", "--set", "lr={lstn: 1}"], "did you mean 'lstm'"),
    (["sweep", "airline", "smoke", "--set", "epochs=true"], "epochs: wants int"),
    (["sweep", "airline", "--seeds", "5-2"], "--seeds"),
    (["sweep", "airline", "--seeds", "a"], "--seeds"),
    (["sweep", "airline", "--seeds", "²"], "--seeds"),
    (["sweep", "airline", "--seeds", "1-"], "--seeds"),
    (["sweep", "airline", "--seeds", "0-2000000000"], "below 10000"),
    (["sweep", "airline", "baselines", "--arms", "naive", "--seeds", "5"], "seed 0 alone"),
    (["sweep", "airline", "publish"], "did you mean 'published'"),
    (["sweep", "airline", "published", "--set", "epoch=3"], "did you mean 'epochs'"),
    (["sweep", "airline", "published", "--set", "epochs=0"], "epochs"),
    (["sweep", "airline", "published", "--set", "epochs"], "NAME=V1,V2"),
    (["sweep", "airline", "published", "--profile", "smoke"], "leave one out"),
    (["sweep", "airline", "--shard", "0/4"], "wants I/N"),
    (["sweep", "airline", "--shard", "5/4"], "wants I/N"),
    (["sweep", "airline", "--shard", "2"], "wants I/N"),
    (["sweep", "airline", "smoke", "--scheduler", "nowhere"], "--scheduler nowhere: missing port"),
    (["merge"], "FOLDER"),
    (["merge", "no-such-folder"], "no-such-folder"),
    (["verify", "airline", "--arms", "lstn"], "did you mean 'lstm'"),
    (["verify", "airline", "--arms", ","], "wants names"),
    (["verify", "airline", "--arms", "lstm"], "the archive has no such run of airline"),
    (["verify", "airline", "--experiment", "check"], "airline has no archived runs of that name"),
    (["verify", "airline", "--against", "no-such"], "--against no-such: no such commit"),
    (["verify", "airline", "--accept", "--experiment", "chek"], "did you mean 'check'"),
    (["verify", "airline", "--accept", "--experiment", "check", "--arms", "naiv"], "'naive'"),
    (["verify", "airline", "--accept", "--against", "nothing"], "no such commit"),
    (["new", "airline"], "already"),
    (["new", "Two Words"], "cannot name a study"),
    (["run", "airline", "--set", "arms=[]"], "arms"),
    (["run", "airline", "--timeout", "inf"], "--timeout"),
    (["run", "airline", "--timeout", "nan"], "--timeout"),
    (["claims", "--study", "nope"], "unknown study"),
    (["params", "nope"], "unknown study"),
    (["bench", "nope"], "unknown bench"),
    (["data", "nope"], "unknown data set"),
    (["run", "shakespeare", "--set", "context=1"], "context"),
    (["run", "shakespeare", "--set", "corpus=sonnets"], "corpus"),
    (["frobnicate"], "No such command"),
])
def test_bad_usage_is_one_line_and_exit_code_2(arguments, problem, capsys):
    code, out, err = call(*arguments, capsys=capsys)
    assert code == 2 and problem in err and not out
    assert len(err.strip().splitlines()) == 1


def test_debug_adds_the_traceback(capsys):
    assert "Traceback" in call("params", "nope", "--debug", capsys=capsys)[2]


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_every_command_has_help_with_an_example(name):
    shown = CliRunner().invoke(cli.cli, [name, "--help"])
    assert shown.exit_code == 0 and f"Example: seqlib {name}" in shown.output


def test_params_json(capsys):
    counts = json.loads(call("params", "airline", "--json", capsys=capsys)[1])
    assert counts["lstm"] == {"trainable": 50497, "total": 50497}
    assert set(counts) >= {"gru", "rope", "learned-logdiff"}


def test_claims_json_has_every_claim_and_its_figures(capsys):
    rows = json.loads(call("claims", "--json", capsys=capsys)[1])
    names = {"id", "study", "verdict", "seeds", "ours", "ci", "seed_value", "source", "quote",
             "post_hoc"}
    assert len(rows) == 74 and all(names <= set(row) for row in rows)
    ernie = {row["id"] for row in rows if row["study"] == "ernie"}
    assert ernie == {"E01", "E02", "E03", "E04", "E05", "E06", "E07"}


def test_data_json(capsys):
    from seqlib.data import AIRLINE_SHA256

    (row,) = json.loads(call("data", "airline", "--json", capsys=capsys)[1])
    assert row["sha256"] == AIRLINE_SHA256 and row["source"] == "the package"


def test_sweep_fills_the_live_store_and_status_counts_it(capsys):
    arguments = ("sweep", "airline", "smoke", "baselines", "--arms", "rope,lstm", "--seeds", "0-1")
    code, out, _ = call(*arguments, capsys=capsys)
    assert code == 0 and "4 records" in out and "4 of them new" in out
    assert "0 of them new" in call(*arguments, capsys=capsys)[1]
    rows = airline_status(capsys)
    assert rows["live"]["records"] == 4 and rows["archive"]["records"] == 0


def airline_status(capsys):
    """Rows of `seqlib status` by store."""
    rows = json.loads(call("status", "--json", capsys=capsys)[1])
    return {row["store"]: row for row in rows if row["study"] == "airline"}


@pytest.mark.parametrize("name, experiment, asked, seeds", [
    ("gpt2", "grid", "1000", [1000]), ("attention_search", "fair", "0-1", [0, 1]),
    ("airline", "smoke", "4", [4]),
])
def test_seeds_choose_among_those_of_the_plan_and_more_are_added_where_it_has_fewer(
        monkeypatch, capsys, name, experiment, asked, seeds):
    swept = []

    def keep(specs, *arguments, **options):
        swept.append(specs)
        return []

    monkeypatch.setattr("seqlib.sweep.sweep", keep)
    assert call("sweep", name, experiment, "--seeds", asked, capsys=capsys)[0] == 0
    [specs] = swept
    assert sorted({spec.seed for spec in specs}) == seeds


def test_a_setting_may_be_a_list_or_a_mapping_by_arm():
    found = cli.parse_settings(["lr=1e-3, 1e-4", "lora={full: 1, lora: 2}", "batch=8"])
    assert found == {"lr": [1e-3, 1e-4], "lora": [{"full": 1, "lora": 2}], "batch": [8]}


def test_only_planned_runs_enter_the_archive(capsys):
    assert call("sweep", "airline", "baselines", "--arms", "naive", capsys=capsys)[0] == 0
    arguments = ("sweep", "airline", "published", "--arms", "rope", "--seeds", "0")
    assert call(*arguments, "--set", "epochs=1", capsys=capsys)[0] == 0
    rows = airline_status(capsys)
    assert rows["archive"]["records"] == 1 and rows["archive"]["unplanned"] == 0
    assert rows["live"]["records"] == 1


def test_an_unwritable_store_is_one_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQLIB_RUNS", str(tmp_path / "file" / "runs"))
    code, _, err = call("sweep", "airline", "smoke", "--arms", "rope", capsys=capsys)
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
