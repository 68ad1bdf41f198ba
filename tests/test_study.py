"""The kit: what it does for every study; a new study and a new arm, as book/extend.md has them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import Field
from torch import nn

from seqlib import studies
from seqlib import study as kit
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Spec

ROOT = Path(__file__).parents[1]


class ToySpec(Spec):
    study: str = "toy"
    steps: int = Field(6, ge=1)
    phases: int = 1
    lr: float = 0.1
    fails_at: int = -1
    returns: str = ""


class Stopped(Exception):
    pass


def build(spec):
    if spec.arm == "plain":
        return nn.Linear(3, 1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))


def train(spec, model, run):
    run.every = 2
    for phase in range(spec.phases):
        optimizer = torch.optim.Adam(model.parameters(), spec.lr)
        for step in run.steps(spec.steps, model, optimizer):
            if step + phase * spec.steps == spec.fails_at:
                raise Stopped
            x = torch.randn(8, 3, generator=run.rng("train", step))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            run.step(optimizer, loss * (math.nan if spec.lr > 10 else 1))
    run.facts["data_sha256"] = "none"
    weight = sum(float(tensor.sum()) for tensor in model.state_dict().values())
    return RESULTS[spec.returns] if spec.returns else {"weight": weight}


RESULTS = {"nothing": None, "a text": {"weight": "heavy"}, "a list": {"weight": [1.0, 2.0]},
           "three": ({}, {}, {}), "no number": {"weight": math.inf}}


@pytest.fixture
def toy(monkeypatch):
    roots = (("seqlib.models.loss", "blockwise_cross_entropy"),)
    made = kit.Study(name="toy", spec=ToySpec, function=train, arms={"plain": 3, "noisy": 4},
                     roots=roots, build=build)
    monkeypatch.setitem(kit.REGISTERED, "toy", made)
    return made


def test_a_record_has_figures_time_memory_and_where_it_comes_from(toy):
    [record] = toy.train([ToySpec(arm="plain", seed=3)])
    assert {"weight", "seconds", "peak_rss_mb"} <= set(record.metrics)
    assert len(record.curves["train_loss"]) == 6
    source = record.provenance
    assert source["code_hash"] == toy.fingerprint("plain") and source["data_sha256"] == "none"
    assert {"git", "machine", "versions", "threads", "started_unix", "wall_seconds"} <= set(source)
    assert not source["resumed"] and record.problem() is None and toy.current(record)


def test_the_same_spec_gives_the_same_figures_and_another_seed_others(toy):
    first, again, other = (toy.train([ToySpec(arm="plain", seed=seed)])[0] for seed in (3, 3, 4))
    assert first.curves == again.curves
    assert first.metrics["weight"] == again.metrics["weight"] != other.metrics["weight"]


@pytest.mark.parametrize("arm", ["plain", "noisy"])
@pytest.mark.parametrize("phases, fails_at", [(1, 5), (2, 5), (2, 11)])
def test_a_resumed_run_equals_an_uninterrupted_one_and_says_so(toy, monkeypatch, arm, phases,
                                                               fails_at):
    """With dropout, with running statistics, and in a second training loop too."""
    spec = ToySpec(arm=arm, phases=phases)
    [whole] = toy.train([spec])
    monkeypatch.setattr(ToySpec, "key", "one key for both")  # the interrupted run differs
    with pytest.raises(Stopped):
        toy.train([spec.model_copy(update={"fails_at": fails_at})])
    [resumed] = toy.train([spec])
    assert resumed.provenance["resumed"] and resumed.curves == whole.curves
    assert resumed.metrics["weight"] == whole.metrics["weight"]
    assert "seconds" not in resumed.metrics
    [after] = toy.train([spec])
    assert not after.provenance["resumed"], "a finished run leaves no checkpoint"


def test_a_loss_that_is_not_finite_names_run_step_and_rate(toy):
    problem = r"toy/plain seed 2: training loss is nan at step 1; lower the learning rate \(20.0\)"
    with pytest.raises(SeqlibError, match=problem):
        toy.train([ToySpec(arm="plain", seed=2, lr=20.0)])


@pytest.mark.parametrize("returns", RESULTS)
def test_a_result_that_makes_no_record_is_one_line_that_says_what_is_wanted(toy, returns):
    problem = r"toy/plain seed 0: (wants metrics \{name: number\}|weight is not finite)"
    with pytest.raises(SeqlibError, match=problem) as caught:
        toy.train([ToySpec(arm="plain", returns=returns)])
    assert "\n" not in str(caught.value)


def test_training_leaves_the_global_generator_alone(toy):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    toy.train([ToySpec(arm="plain")])
    assert torch.equal(torch.rand(1), expected)


def test_parameters_are_counted(toy):
    assert toy.parameters(["plain"]) == {"plain": {"trainable": 4, "total": 4}}
    assert toy.parameters().keys() == {"plain", "noisy"}


def test_studies_are_found_by_listing_packages():
    assert kit.names()[:5] == ["airline", "shakespeare", "attention_search", "ernie", "gpt2"]
    with pytest.raises(UsageError, match="did you mean 'airline'"):
        kit.get("airlines")


def test_a_study_is_a_package_and_its_spec_bears_its_name():
    with pytest.raises(UsageError, match="tests.test_study is no package in seqlib/studies"):
        kit.study(ToySpec, arms={})(train)
    elsewhere = SimpleNamespace(__module__="seqlib.studies.other.run", __qualname__="run")
    with pytest.raises(UsageError, match="ToySpec.study is 'toy', and its package 'other'"):
        kit.study(ToySpec, arms={})(elsewhere)


@pytest.mark.parametrize("text, problem", [
    ("1 +", "invalid syntax"), ("x = missing", "'missing' is not defined .*line 1"),
    ("import seqlib.nothing", "No module named 'seqlib.nothing'"),
    ("x = 1", "no function under @study"),
])
def test_a_broken_study_is_one_line_that_names_the_place(tmp_path, monkeypatch, text, problem):
    package = tmp_path / "broken"
    package.mkdir()
    (package / "plan.yaml").write_text("live: {arm: plain}")
    (package / "__init__.py").write_text(text)
    monkeypatch.setattr(kit, "FOLDER", tmp_path)
    monkeypatch.setattr(studies, "__path__", [str(tmp_path)])
    with pytest.raises(SeqlibError, match=problem) as caught:
        kit.get("broken")
    sys.modules.pop("seqlib.studies.broken", None)
    assert "seqlib/studies/broken" in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project without its archive, to add a study to."""
    root = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__", "claims.ipynb")
    for name in ("seqlib", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    return root


def run(root, *arguments):
    stores = {"SEQLIB_RUNS": root / ".runs", "SEQLIB_RESULTS": root / "results"}
    names = {"PYTHONPATH": root, "SEQLIB_ROOT": root, "OMP_NUM_THREADS": 1, **stores}
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, timeout=300,
                          capture_output=True, text=True)


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
    done = run(project, "-m", "papermill", str(notebook), str(project / "out.ipynb"),
               "-p", "steps", "3", "--no-progress-bar", "--kernel", "python3")
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = (project / "out.ipynb").read_text()
    assert "image/svg+xml" in outputs and '"output_type": "error"' not in outputs


def test_an_arm_is_added_as_the_book_says_and_leaves_the_others_current(project):
    """book/extend.md: one entry and the model; the other arms' records stay current."""
    code = project / "seqlib" / "studies" / "copy_first" / "__init__.py"
    before = json.loads(run(project, "-c", PRINT).stdout)
    text = code.read_text()
    for block in blocks("diff"):
        for line in block.splitlines():
            if line.startswith("-"):
                assert line[1:] in text, f"book/extend.md removes what is not there: {line}"
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
    done = run(project, "-m", "seqlib", "sweep", "copy_first", "live", "--set", "steps=2")
    assert done.returncode == 0
    train = f"seqlib.train('copy_first', arm=['{added}', 'lstm'], seed=2, steps=2)"
    assert run(project, "-c", f"import seqlib; print(len({train}))").stdout.strip() == "4"


PRINT = ("import json; from seqlib import study; kind = study.get('copy_first'); "
         "print(json.dumps({arm: kind.fingerprint(arm) for arm in kind.arms}))")
