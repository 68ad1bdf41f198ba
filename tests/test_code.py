"""Fingerprints of code: what changes them and what does not."""

import functools
import importlib
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqlib import code, plan, study
from seqlib.code import described
from seqlib.studies.shakespeare import corpus

STUDY = '''"""A study."""
from dataclasses import dataclass

from seqlib import sample_models
from seqlib.sample_models import scaled as by_name

FACTOR = 2


@dataclass(frozen=True)
class Arm:
    """What an arm is."""
    width: int


ARMS = {"a": Arm(1), "b": Arm(2)}


class BaseSpec:
    pass


class SampleSpec(BaseSpec):
    """Settings."""
    lr: float = 0.1
    steps: int = 3

    @property
    def size(self):
        return self.steps


def study(*given, **options):
    return lambda function: function


def label(spec):
    return "a"


@study(SampleSpec, arms=ARMS, label=label)
def run(spec):
    """Train."""
    import seqlib.sample_models as again
    first = by_name(FACTOR) + sample_models.deep.inner(spec)
    return first + again.used(ARMS[spec.arm]) + SampleSpec().size


def unused():
    return 1
'''
MODELS = '''
from seqlib.sample_models import deep

try:
    OFFSET = deep.OFFSET
except AttributeError:
    OFFSET = 5


def scaled(x):
    return helper(x) + OFFSET  # a comment


def helper(x):
    return 3 * x


def used(x):
    return x


def never(x):
    return 0
'''
DEEP = "def inner(spec: int) -> int:\n    return 1\n"


@pytest.fixture
def fingerprints(tmp_path, monkeypatch):
    """Write the sample package with some replacements, and give the fingerprint of each arm."""
    def make(*changes, arms=None):
        texts = {"sample_study.py": STUDY, "sample_models/__init__.py": MODELS,
                 "sample_models/deep.py": DEEP}
        for file, old, new in changes:
            assert old in texts[file]
            texts[file] = texts[file].replace(old, new)
        for file, text in texts.items():
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        for cached in (code._module, code._file, code._reach):
            cached.cache_clear()
        for name in [name for name in sys.modules if name.startswith("seqlib.sample_")]:
            del sys.modules[name]
        module = importlib.import_module("seqlib.sample_study")
        kind = SimpleNamespace(arms=arms or module.ARMS, roots=(("seqlib.sample_study", "run"),))
        return {arm: code.fingerprint(kind, arm) for arm in kind.arms}

    import seqlib

    monkeypatch.setattr(seqlib, "__path__", [*seqlib.__path__, str(tmp_path)])
    yield make
    for cached in (code._module, code._file, code._reach):
        cached.cache_clear()


@pytest.mark.parametrize("change", [
    ("sample_models/__init__.py", "  # a comment", ""),
    ("sample_models/__init__.py", "return 0", "return 7"),  # of a function that no run reaches
    ("sample_study.py", '"""Train."""', '"""Trains,\n\n    all of it."""'),
    ("sample_study.py", "def unused():\n    return 1", "def unused():\n    return 2"),
    # fields of a spec, whose values the record has
    ("sample_study.py", "lr: float = 0.1", "lr: float = 0.2\n    more: int = 1"),
    ("sample_study.py", '"b": Arm(2)', '"b": Arm(2), "c": Arm(3)'),
    ("sample_models/deep.py", "spec: int) -> int", "spec)"),
    ("sample_study.py", 'return "a"', 'return "b"'),
], ids=["comment", "unreached", "docstring", "unused", "field", "another arm", "annotation",
        "label"])
def test_what_makes_no_figure_changes_no_fingerprint(fingerprints, change):
    before, after = fingerprints(), fingerprints(change)
    assert {arm: after[arm] for arm in before} == before


@pytest.mark.parametrize("change", [
    ("sample_models/__init__.py", "3 * x", "4 * x"),
    ("sample_models/__init__.py", "def used(x):\n    return x", "def used(x):\n    return -x"),
    ("sample_models/deep.py", "return 1", "return 2"),
    ("sample_study.py", "FACTOR = 2", "FACTOR = 3"),
    ("sample_study.py", "return self.steps", "return 2 * self.steps"),
    ("sample_models/__init__.py", "def scaled", "str.upper('x')\n\n\ndef scaled"),
    ("sample_models/__init__.py", "OFFSET = 5", "OFFSET = 6"),
], ids=["helper", "local import", "submodule", "constant", "property of a spec",
        "effect of an import", "what an except clause defines"])
def test_what_a_run_reaches_changes_every_fingerprint(fingerprints, change):
    before, after = fingerprints(), fingerprints(change)
    assert all(after[arm] != before[arm] for arm in before)


def test_an_arm_that_changes_is_another_and_moves_no_other(fingerprints):
    before = fingerprints()
    after = fingerprints(("sample_study.py", '"b": Arm(2)', '"b": Arm(20)'))
    assert before["a"] == after["a"] and before["b"] != after["b"]


def test_a_definition_may_move_to_another_file(fingerprints):
    """The module of a definition does not count, as long as it is called by the same name."""
    before, helper = fingerprints(), "def helper(x):\n    return 3 * x\n"
    moved = fingerprints(
        ("sample_models/__init__.py", helper, "from seqlib.sample_models.deep import helper\n"),
        ("sample_models/deep.py", "def inner", f"{helper}\n\ndef inner"))
    assert before == moved


def test_what_an_arm_names_is_described_and_followed():
    @dataclass(frozen=True)
    class Arm:
        make: object
        sizes: tuple

    roots = []
    found = described(Arm(functools.partial(plan.grids, 3), (1, 2.5)), roots)
    assert found == {"is": "Arm", "make": ["grids", [3], {}], "sizes": [1, 2.5]}
    assert roots == [("seqlib.plan", "grids")]
    described(study.get("airline").arms["lstm"], roots)
    assert roots[-1] == ("seqlib.studies.airline.arms", "Arm"), "its class is part of what it is"


@pytest.mark.parametrize("name", study.names())
def test_every_function_of_the_package_that_a_run_calls_is_covered(name, monkeypatch):
    """Trace one short run: what it calls is in the fingerprint, or cannot change a figure."""
    kind, load = study.get(name), corpus.load

    def short(name):  # to evaluate on the whole takes long
        text = load(name)
        return replace(text, train=text.train[:9000], validation=text.validation[:1000])

    monkeypatch.setattr(corpus, "load", short)
    specs = plan.specs(name, "smoke")
    group = kind.groups(specs)[0]
    package, called = Path(code.__file__).parent, set()

    def watch(frame, event, argument):
        if event == "call":
            file = frame.f_code.co_filename
            if file.startswith(str(package)):
                called.add((file, frame.f_code.co_qualname.split(".")[0]))

    kind.train(group)  # once before, so that what is cached is not seen as reached by the run alone
    sys.setprofile(watch)
    threading.setprofile(watch)
    try:
        kind.train(group)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    reached = code.reach(kind, group[0].arm)
    covered = {(code._module(module).tree, definition) for module, definition in reached.texts}
    names = {definition for _, definition in covered}
    # they keep figures, or check what is given, and make no figure
    names |= {"Record", "Spec", "Checkpoint", "canonical", "digest", "name_in", "later"}
    names |= {"place", "card", "facts"}  # of the device, whose kind is in the spec
    checks = [(f.__module__, f.__qualname__) for f in (kind.prepare, kind.alone) if f]
    names |= {definition for _, definition in code.Reach(checks).texts}
    left_out = {(file, top) for file, top in called if top != "<module>" and not top.startswith("<")
                and _module_of(file, package) not in code.OPAQUE and top not in names}
    assert not left_out, "these ran and are in no fingerprint"
    assert len(called) > 5


def _module_of(file: str, package: Path) -> str:
    parts = Path(file).relative_to(package).with_suffix("").parts
    return ".".join(["seqlib", *(part for part in parts if part != "__init__")])
