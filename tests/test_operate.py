"""What the operator is given runs as it stands: scripts of the examples, commands and the table of
costs."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import yaml
from distributed import LocalCluster

from seqlib import cli, plan, study
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS
from tests.studies.test_airline import Exploding
from tests.test_cli import airline_status, call

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "book" / "operate.md").read_text()
JOB = yaml.safe_load((EXAMPLES / "kubernetes-indexed-job.yaml").read_text())


@pytest.fixture
def shell(tmp_path):
    """Run a script where `seqlib` is this package's; returns code, output and errors."""
    command = tmp_path / "bin" / "seqlib"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seqlib "$@"\n')
    command.chmod(0o755)

    def run(*arguments, **variables):
        path = f"{command.parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **variables}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True,
                              timeout=200)
        return done.returncode, done.stdout, done.stderr

    return run


def test_every_example_is_parsed_and_on_the_page():
    for path in EXAMPLES.iterdir():
        assert f"```{{literalinclude}} ../examples/{path.name}\n" in PAGE
        if path.suffix == ".py":
            ast.parse(path.read_text())
        elif path.suffix == ".sh":
            assert subprocess.run(["bash", "-n", path]).returncode == 0
        else:
            assert yaml.safe_load(path.read_text())
    assert len(list(EXAMPLES.iterdir())) == 3


def test_the_slurm_array_makes_its_shards_in_one_store(tmp_path, shell):
    runs = [shell("bash", str(EXAMPLES / "slurm-array.sh"), "airline", "smoke",
                  SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="2",
                  SLURM_CPUS_PER_TASK="1", SLURM_SUBMIT_DIR=str(tmp_path)) for task in (1, 2)]
    assert [code for code, _, _ in runs] == [0, 0], runs
    assert [f"in shard {n} of 2" in out for n, (_, out, _) in zip((1, 2), runs)] == [True, True]
    assert len(list(Store.live().records("airline"))) == 5


def test_the_kubernetes_job_has_a_pod_for_every_shard(tmp_path, shell):
    spec, [container] = JOB["spec"], JOB["spec"]["template"]["spec"]["containers"]
    assert (JOB["apiVersion"], JOB["kind"], spec["completionMode"]) == ("batch/v1", "Job",
                                                                        "Indexed")
    [text] = container["args"]
    assert text.endswith(f"+ 1))/{spec['completions']}\"")
    names = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    variables |= {"STUDY": "airline smoke", "SEQLIB_RUNS": str(tmp_path / "runs"),
                  "SEQLIB_RESULTS": str(tmp_path / "results")}
    last = str(spec["completions"] - 1)
    code, out, err = shell(*container["command"], text, **variables, JOB_COMPLETION_INDEX=last)
    assert code == 0 and "in shard 8 of 8" in out, err


def test_the_script_for_a_queue_trains_on_the_workers_that_it_gets(monkeypatch, capsys):
    """Workers of this machine take the place of the queue's."""
    queue, asked = ModuleType("dask_jobqueue"), {}

    def cluster(**options):
        asked.update(options)
        return LocalCluster(0, threads_per_worker=1, dashboard_address=None)

    queue.SLURMCluster = cluster
    monkeypatch.setitem(sys.modules, "dask_jobqueue", queue)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__DAEMON", "False")
    script = runpy.run_path(str(EXAMPLES / "dask_jobqueue_sweep.py"))
    monkeypatch.setattr(LocalCluster, "adapt", lambda self, minimum, maximum: self.scale(minimum))
    script["main"]("airline", "smoke")
    assert len(capsys.readouterr().out.strip().splitlines()) == 6
    assert len(list(Store.live().records("airline"))) == 5
    exports = asked["job_script_prologue"]
    assert asked["cores"] == asked["processes"] == 1 and str(Store.live().root.parent) in exports[1]


def test_every_command_of_the_page_has_its_options():
    lines = re.findall(r"^    (?:.*?)(seqlib [a-z].*?)\s*(?:#.*)?$", PAGE, re.M)
    lines += [line for line in re.findall(r"`(seqlib [a-z][^`]*)`", PAGE)]
    assert len(lines) > 8
    for line in lines:
        name, *arguments = line.split()[1:]
        options = {option for one in cli.cli.commands[name].params for option in one.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, line


def test_the_table_of_costs_is_what_the_records_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import costs

    lines = costs.table(Store(ROOT / "results"))
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in study.names()]
    texts = [path.read_text() for path in (ROOT / "results" / "gpt2").glob("?" * 64 + ".json")]
    records = [json.loads(text) for text in texts]
    seconds = sum(r["provenance"]["wall_seconds"] * r["provenance"]["threads"] for r in records)
    memory = max(r["metrics"].get("peak_memory_mb", 0) for r in records)
    [row] = [line for line in lines if line.startswith("| gpt2 ")]
    assert row.split(" | ")[1:3] == [str(len(records)), f"{seconds / 3600:.1f}"]
    assert row.split(" | ")[4:] == [f"{memory / 1024:.1f}",
                                    f"{sum(map(len, texts)) / 2**20:.1f} |"]
    assert costs.table(Store.archive()) == ["*There are no records here.*"]


def test_the_cost_of_one_more_seed_is_what_the_records_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import costs

    assert costs.seeds(Store.archive()) == ["*There are no records here.*"]
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))
    lines = costs.seeds(Store.archive())[2:]
    rows = {tuple(line.strip("| ").split(" | ")[:2]): line for line in lines}
    assert {name for name, _ in rows} >= set(study.names())
    runs = [record for record in Store.archive().records("gpt2")
            if record.key in plan.archived("gpt2", ["fair"]) and record.spec["arm"] == "lora"]
    taken = [record.provenance["wall_seconds"] * record.provenance["threads"]
             for record in runs if not record.provenance.get("resumed")]
    assert len(taken) >= 3 and f" lora {median(taken):.0f}, full " in rows["gpt2", "fair"]
    # an arm in several settings: from the lowest to the highest
    assert re.search(r"lstm \d+ to \d+, additive \d+ to \d+", rows["shakespeare", "contexts"])


def test_a_failed_run_is_counted_until_it_is_recorded(capsys, monkeypatch):
    runs = ("sweep", "airline", "smoke", "--arms", "gru")
    with monkeypatch.context() as patched:
        patched.setitem(ARMS, "gru", Exploding("gru", 8))
        assert call(*runs, capsys=capsys)[0] == 1
    assert airline_status(capsys)["live"]["failed"] == 1
    assert call(*runs, capsys=capsys)[0] == 0
    assert airline_status(capsys)["live"]["failed"] == 0
