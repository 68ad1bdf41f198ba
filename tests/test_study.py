"""The kit: what it owns for every study; and a new study and a new arm, as book/extend.md has them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import Field

from seqlib import study as kit
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Spec

ROOT = Path(__file__).parents[1]


class ToySpec(Spec):
    study: str = "toy"
    steps: int = Field(6, ge=1)
    lr: float = 0.1
    fails_at: int = -1


class Stopped(Exception):
    pass


def train(spec, model, run):
    optimizer = torch.optim.Adam(model.parameters(), spec.lr)
    run.every = 2
    for step in run.steps(spec.steps, model, optimizer):
        if step == spec.fails_at:
            raise Stopped
        x = torch.randn(8, 3, generator=run.rng("train", step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        run.step(optimizer, loss * (math.nan if spec.lr > 10 else 1))
    run.facts["data_sha256"] = "none"
    return {"weight": float(model.weight.detach().sum())}


@pytest.fixture
def toy(monkeypatch):
    made = kit.Study(name="toy", spec=ToySpec, function=train, arms={"plain": 3}, build=lambda spec: torch.nn.Linear(3, 1), group=None,
                     data=lambda specs: (), count=None, label=lambda spec: spec["arm"], prepare=None, alone=lambda spec: 0,
                     roots=(("seqlib.models.loss", "blockwise_cross_entropy"),))
    monkeypatch.setitem(kit.REGISTERED, "toy", made)
    return made


def test_a_record_has_figures_time_memory_and_where_it_comes_from(toy):
    [record] = toy.train([ToySpec(arm="plain", seed=3)])
    assert {"weight", "seconds", "peak_rss_mb"} <= set(record.metrics) and len(record.curves["train_loss"]) == 6
    source = record.provenance
    assert source["code_hash"] == toy.fingerprint("plain") and source["data_sha256"] == "none" and not source["resumed"]
    assert {"git", "machine", "versions", "threads", "started_unix", "wall_seconds"} <= set(source)
    assert record.problem() is None and toy.current(record)


def test_the_same_spec_gives_the_same_figures_and_another_seed_others(toy):
    first, again, other = (toy.train([ToySpec(arm="plain", seed=seed)])[0] for seed in (3, 3, 4))
    assert first.curves == again.curves and first.metrics["weight"] == again.metrics["weight"] != other.metrics["weight"]


def test_a_resumed_run_equals_an_uninterrupted_one_and_says_so(toy, monkeypatch):
    [whole] = toy.train([ToySpec(arm="plain")])
    monkeypatch.setattr(ToySpec, "key", "one key for both")  # the interrupted run has another setting
    with pytest.raises(Stopped):
        toy.train([ToySpec(arm="plain", fails_at=5)])
    [resumed] = toy.train([ToySpec(arm="plain")])
    assert resumed.provenance["resumed"] and resumed.curves == whole.curves
    assert resumed.metrics["weight"] == whole.metrics["weight"] and "seconds" not in resumed.metrics
    [after] = toy.train([ToySpec(arm="plain")])
    assert not after.provenance["resumed"], "a finished run leaves no checkpoint"


def test_a_loss_that_is_not_finite_names_run_step_and_rate(toy):
    with pytest.raises(SeqlibError, match=r"toy/plain seed 2: training loss is nan at step 1; lower lr \(20.0\)"):
        toy.train([ToySpec(arm="plain", seed=2, lr=20.0)])


def test_training_leaves_the_global_generator_alone(toy):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    toy.train([ToySpec(arm="plain")])
    assert torch.equal(torch.rand(1), expected)


def test_parameters_are_counted(toy):
    assert toy.parameters() == {"plain": {"trainable": 4, "total": 4}}


def test_studies_are_found_by_listing_packages():
    assert kit.names()[:5] == ["airline", "shakespeare", "attention_search", "ernie", "gpt2"]
    with pytest.raises(UsageError, match="did you mean 'airline'"):
        kit.get("airlines")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project without its archive, to add a study to."""
    root = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__", "claims.ipynb")
    for name in ("seqlib", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    return root


def run(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "SEQLIB_ROOT": str(root), "SEQLIB_RUNS": str(root / ".runs"),
                   "SEQLIB_RESULTS": str(root / "results"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def blocks(language):
    """The code of book/extend.md, in order."""
    text = (ROOT / "book" / "extend.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_a_new_study_runs_at_once_and_is_small(project):
    done = run(project, "-m", "seqlib", "new", "copy_first")
    assert done.returncode == 0, done.stderr
    code = project / "seqlib" / "studies" / "copy_first" / "__init__.py"
    assert len(code.read_text().splitlines()) < 60
    done = run(project, "-m", "seqlib", "sweep", "copy_first", "smoke")
    assert done.returncode == 0 and "4 records" in done.stdout, done.stdout + done.stderr
    notebook = project / "notebooks" / "copy_first.ipynb"
    done = run(project, "-m", "papermill", str(notebook), str(project / "out.ipynb"), "-p", "steps", "3", "--no-progress-bar",
               "--kernel", "python3")
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = (project / "out.ipynb").read_text()
    assert "image/svg+xml" in outputs and '"output_type": "error"' not in outputs


def test_an_arm_is_added_as_the_book_says_and_leaves_the_others_current(project):
    """book/extend.md: one entry and the model; figures of the other arms are still those of today's code."""
    code = project / "seqlib" / "studies" / "copy_first" / "__init__.py"
    before = json.loads(run(project, "-c", PRINT).stdout)
    text = code.read_text()
    for block in blocks("diff"):
        for line in block.splitlines():
            if line.startswith("-"):
                assert line[1:] in text, f"book/extend.md takes away what is not there: {line}"
        old = "\n".join(line[1:] for line in block.splitlines() if line[:1] in "- ")
        new = "\n".join(line[1:] for line in block.splitlines() if line[:1] in "+ ")
        assert old in text
        text = text.replace(old, new)
    code.write_text(text)
    done = run(project, "-c", PRINT)
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after.keys() - before.keys() and {arm: after[arm] for arm in before} == before
    [added] = after.keys() - before.keys()
    done = run(project, "-m", "seqlib", "sweep", "copy_first", "live", "--set", "steps=2", "--seeds", "0")
    assert done.returncode == 0
    program = f"import seqlib; print(len(seqlib.train('copy_first', arm=['{added}', 'lstm'], seed=2, steps=2)))"
    assert run(project, "-c", program).stdout.strip() == "4"


PRINT = ("import json; from seqlib import study; kind = study.get('copy_first'); "
         "print(json.dumps({arm: kind.fingerprint(arm) for arm in kind.arms}))")
