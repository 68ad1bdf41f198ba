"""What holds of every spec, record, store, plan and command line, tried with drawn examples.

The same examples every time; SEQLIB_EXAMPLES=2000 draws so many others of each kind."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seqlib import cli, data, merge, plan, study
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.sources import Located
from seqlib.store import RECORD, Store, examine

ROOT = Path(__file__).parents[1]
MORE = int(os.environ.get("SEQLIB_EXAMPLES", 0))
ALL = {name: study.get(name) for name in study.names()}
each_study = pytest.mark.parametrize("name", ALL)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NUMBERS = st.integers() | st.floats()


def tried(count):
    """So many examples, whatever the time and the fixtures."""
    return settings(max_examples=MORE or count, derandomize=not MORE, database=None, deadline=None,
                    suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def all_data_at_hand(monkeypatch):
    """No data set is looked for, here or on the network."""
    found = {name: lambda name=name: Located(name, "here", "", "", 0) for name in data.DATA}
    monkeypatch.setattr(data, "DATA", found)


# Specs

PLANNED = {name: [spec for entry in plan.experiments(name) for spec in plan.specs(name, entry)]
           for name in ALL}


def values_of(kind, field):
    """Values that a field of a spec may have, whatever the others are: those of the plan, and what
    its type and bounds allow."""
    found, planned = kind.spec.model_fields[field], {getattr(s, field) for s in PLANNED[kind.name]}
    if field == "arm":
        return st.sampled_from(list(kind.arms))
    allowed, types = st.sampled_from(sorted(planned, key=repr)), get_args(found.annotation)
    if get_origin(found.annotation) is Literal:
        return st.sampled_from(types)
    bounds = {name: value for part in found.metadata for name, value in vars_of(part).items()}
    for one in types or [found.annotation]:
        if one is int:
            low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt"))
            allowed |= st.integers(low, high)
        if one is float:
            low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
            allowed |= st.floats(low, high, allow_nan=False, allow_infinity=False)
    return allowed | TEXTS if found.annotation is str and field != "base" else allowed


def vars_of(bound):
    """A bound such as `Ge(1)` by its name."""
    return {name: getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)}


def other(draw, spec, field):
    """The spec with another value of a field; None where what was drawn is not allowed."""
    value = draw(values_of(ALL[spec.study], field))
    changed = {name: getattr(spec, name) for name in type(spec).model_fields} | {field: value}
    with contextlib.suppress(ValidationError, UsageError):
        made = type(spec)(**changed)
        return made if getattr(made, field) != getattr(spec, field) else None


@st.composite
def specs(draw, name):
    """A run of a plan with some fields set otherwise."""
    spec = draw(st.sampled_from(PLANNED[name]))
    fields = [field for field in type(spec).model_fields if field != "study"]
    for field in draw(st.lists(st.sampled_from(fields), max_size=4)):
        spec = other(draw, spec, field) or spec
    return spec


@each_study
@tried(25)
@given(drawn=st.data())
def test_a_spec_survives_json_and_its_key_no_order_of_fields(name, drawn):
    spec = drawn.draw(specs(name))
    dumped = spec.model_dump(mode="json")
    again = type(spec)(**json.loads(json.dumps(dumped)))
    assert again == spec and again.key == spec.key and again.model_dump(mode="json") == dumped
    names = drawn.draw(st.permutations(list(dumped)))
    assert type(spec)(**{field: dumped[field] for field in names}).key == spec.key


@each_study
@tried(25)
@given(drawn=st.data())
def test_every_field_changes_the_key(name, drawn):
    spec = drawn.draw(specs(name))
    for field in type(spec).model_fields:
        value = drawn.draw(values_of(ALL[name], field))
        if value != getattr(spec, field):
            # though other fields may want to be changed with it
            assert spec.model_copy(update={field: value}).key != spec.key, field


@each_study
@tried(25)
@given(drawn=st.data())
def test_two_specs_have_one_key_if_they_are_equal(name, drawn):
    one, two = drawn.draw(specs(name)), drawn.draw(specs(name))
    assert (one == two) == (one.key == two.key)
    same = type(one)(**{field: getattr(one, field) for field in type(one).model_fields})
    assert same.key == one.key


# Records

JSONS = st.recursive(st.none() | st.booleans() | st.integers(-2**80, 2**80) | TEXTS
                     | st.floats(allow_nan=False, allow_infinity=False),
                     lambda inner: st.lists(inner, max_size=3)
                     | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6)


@st.composite
def records(draw):
    spec = draw(st.sampled_from(PLANNED["airline"]))
    metrics = draw(st.dictionaries(TEXTS, st.none() | NUMBERS, max_size=4))
    curves = draw(st.dictionaries(TEXTS, st.lists(NUMBERS | TEXTS, max_size=4), max_size=3))
    return Record.of(spec, metrics, curves, draw(st.dictionaries(TEXTS, JSONS, max_size=4)))


def text_of(record):
    """A record to the bit: 1 and 1.0 are two things."""
    return record.model_dump_json()


@pytest.fixture
def folder(tmp_path):
    """A new folder in each example."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


@tried(60)
@given(record=records())
def test_a_record_comes_back_as_it_was_put(record, folder):
    store = Store(folder())
    store.put(record)
    path = store.path("airline", record.key)
    found = examine(path)
    assert isinstance(found, Record), found
    assert text_of(found) == text_of(record)
    before = path.read_bytes()
    store.put(found)
    assert path.read_bytes() == before


@st.composite
def damaged(draw, data):
    """Bytes with one of them, or one bit, changed, cut out or put in, or cut off anywhere."""
    at, new = draw(st.integers(0, len(data) - 1)), bytes([draw(st.integers(0, 255))])
    kind = draw(st.sampled_from(["bit", "byte", "cut", "insert", "end", "twice"]))
    if kind == "bit":
        new = bytes([data[at] ^ 1 << draw(st.integers(0, 7))])
    if kind == "end":
        return data[:at]
    if kind == "twice":
        return data[:at] + data[draw(st.integers(0, at)):]
    return data[:at] + (b"" if kind == "cut" else new) + data[at + (kind != "insert"):]


def check_noticed(path, data, whole):
    """A file with these bytes is another record in no case."""
    path.write_bytes(data)
    try:
        found = examine(path)
    except SeqlibError as error:
        assert "schema version" in str(error)
    else:
        assert isinstance(found, str) or text_of(found) == text_of(whole)


ARCHIVED = {name: sorted((ROOT / "results" / name).glob(RECORD))[0] for name in ALL}


@each_study
@tried(80)
@given(data=st.data())
def test_a_changed_byte_of_a_record_is_noticed(name, data, folder):
    kept = ARCHIVED[name].read_bytes()
    path = folder() / name / ARCHIVED[name].name
    path.parent.mkdir()
    check_noticed(path, data.draw(damaged(kept)), examine(ARCHIVED[name]))


@tried(150)
@given(data=st.binary(max_size=40) | JSONS.map(lambda value: json.dumps(value).encode()))
@example(data=b"[" * 3000)
@example(data=b'{"schema_version": 2, "a": ' + b"[" * 3000)
@example(data=b'{"schema_version": ' + b"9" * 5000 + b"}")
def test_whatever_a_file_holds_is_no_record_and_no_traceback(data, folder):
    path = folder() / ARCHIVED["airline"].name
    check_noticed(path, data, None)


@tried(12)
@given(data=st.data())
def test_parts_of_a_store_merge_into_the_whole_in_any_order(data, folder):
    root = folder()
    paths = sorted((ROOT / "results" / "airline").glob(RECORD))[:6] + [ARCHIVED["gpt2"]]
    parts = [root / str(number) for number in range(data.draw(st.integers(1, 4)))]
    for path in paths:
        some = data.draw(st.lists(st.sampled_from(parts), min_size=1, unique=True))
        for part in some:
            (part / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, part / path.parent.name)
    filled = data.draw(st.permutations([part for part in parts if part.exists()]))
    at_once = data.draw(st.integers(0, len(filled)))
    whole = Store(root / "whole")
    rows = merge.merge(filled[:at_once], whole)
    for part in filled[at_once:]:
        rows += merge.merge([part], whole)
    assert {row["outcome"] for row in rows} <= {"new", "same"}
    assert sum(row["outcome"] == "new" for row in rows) == len(paths)
    assert {path.name: path.read_bytes() for path in whole.root.glob(f"*/{RECORD}")} == {
        path.name: path.read_bytes() for path in paths}


# Plans

FIELDS = sorted({field for kind in ALL.values() for field in kind.spec.model_fields})
ARM_NAMES = sorted({arm for kind in ALL.values() for arm in kind.arms})
SCALARS = (st.sampled_from([*ARM_NAMES, "published", "fair", "loop", "auto", "3-5", "5-3", "live",
                            "next-a", ".", "~", "~nobody/x", "/", "x" * 300, 2**80, 0.5, 1e-3])
           | st.integers(-3, 12) | st.floats() | st.booleans() | st.none() | TEXTS | st.dates())
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(ARM_NAMES) | SCALARS.filter(lambda x: x == x), inner, max_size=3), max_leaves=5)
GRIDS = st.dictionaries(st.sampled_from([*FIELDS, "zip", "of", "zip", "of"]) | TEXTS, VALUES,
                        max_size=5)
PLANS = st.dictionaries(st.sampled_from(["published", "live", "smoke", "check", "next-a"]) | TEXTS,
                        GRIDS | st.lists(GRIDS, max_size=2) | VALUES, max_size=4)


def written(value):
    """A value as YAML text."""
    import yaml

    return yaml.safe_dump(value, allow_unicode=True)


def check_plan(name, text, path):
    """A plan gives specs or a UsageError."""
    path.write_text(text, encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.setattr(plan, "_path", lambda name: path)
    kind = ALL[name]
    try:
        for entry in plan.experiments(name):
            with contextlib.suppress(UsageError):
                found = plan.overridden(name, entry, {})
                assert found and all(isinstance(spec, kind.spec) for spec in found)
        plan.of_archive(name)
    except UsageError as error:
        assert "\n" not in str(error)
    finally:
        patch.undo()


@each_study
@tried(60)
@given(value=PLANS | VALUES)
@example(value={"\n": []})
def test_a_plan_gives_specs_or_a_usage_error(name, value, folder):
    check_plan(name, written(value), folder() / "plan.yaml")


@tried(100)
@given(text=st.text(st.sampled_from("ab:-[]{},'\"#&*!|>%@`?\n\t \\~.0123é\u2028\x85\x07"),
                    max_size=40))
def test_a_plan_of_any_text_gives_specs_or_a_usage_error(text, folder):
    check_plan("airline", text, folder() / "plan.yaml")


# Command lines

WORDS = (st.sampled_from([*ALL, *cli.cli.commands, "published", "live", "smoke", "lstm", "0-3",
                          "1/2", "seeds=2", "epochs=1", "lr=1e-3", "arm=lstm", "=", "-", "--", "-h",
                          "..", "base=auto",
                          "~nobody/x", "base=~nobody/x", "book_path=~nobody/x", "HEAD", "1", "a=[",
                          "9" * 5000, "x" * 300, "\n", "a\nb", "--a\nb", "\udcff", "a={", ""])
         | st.text(st.characters(exclude_characters="\0"), max_size=6))
SETTINGS = st.builds("{}={}".format, st.sampled_from([*FIELDS, "arms", "seeds"]) | WORDS,
                     WORDS | SCALARS.map(str) | st.lists(SCALARS, max_size=2).map(str))


@st.composite
def lines(draw):
    """A command, with options that it has and others, and with values that fit or not."""
    command = draw(st.sampled_from(sorted(cli.cli.commands)))
    fit = {option for parameter in cli.cli.commands[command].params for option in parameter.opts}
    options = st.sampled_from(sorted(fit) + ["--help", "--debug", "--json", "--sett"])
    parts = st.one_of(st.tuples(WORDS), st.tuples(options), st.tuples(options, WORDS | SETTINGS),
                      st.tuples(st.just("--set"), SETTINGS),
                      st.tuples(st.builds("{}={}".format, options, WORDS | SETTINGS)))
    first = draw(st.just([]) | st.lists(st.sampled_from(["--debug", "--version"]) | WORDS,
                                        max_size=1))
    study_first = draw(st.lists(st.sampled_from([*ALL]), max_size=1))
    found = [*first, draw(st.just(command) | st.just(command) | WORDS), *study_first]
    return found + [word for part in draw(st.lists(parts, max_size=4)) for word in part]


@pytest.fixture
def nothing_trains(monkeypatch, tmp_path):
    """What trains, draws, downloads or writes beyond this folder does nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("seqlib.pages.run", "seqlib.sweep.sweep", "seqlib.verify.check",
                 "seqlib.verify.compare_code", "seqlib.template.write_atomically",
                 "seqlib.bench.measure", "seqlib.bench.cases_of"):
        monkeypatch.setattr(name, lambda *arguments, **named: [])
    monkeypatch.setattr(study.Study, "parameters", lambda kind, arms=(): {
        arm: {"trainable": 1, "total": 1} for arm in arms or kind.arms})
    monkeypatch.setattr("seqlib.verify.accept", lambda *arguments: {"runs": 0, "arms": 0})


def check_line(line):
    """A command line ends in one of the known ways, and tells of an error in one line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(line)
        except SystemExit as stop:
            code = stop.code
    assert code in (0, 1, 2, 130), (code, line)
    said = [text for text in err.getvalue().split("\n") if text]
    if "--debug" not in line:
        assert all(text.startswith("seqlib: ") for text in said), said
    if code == 2 and "--debug" not in line:
        assert len(said) == 1, said


@tried(50)
@given(line=lines())
@example(line=["bench", "airline", "\n"])
@example(line=["sweep", "airline", "live", "--shard", f"1/{'9' * 5000}"])
@example(line=["sweep", "airline", "live", "--set", f"epochs={'[' * 1000}"])
@example(line=["sweep", "gpt2", "live", "--set", 'base="\\ud800"'])
@example(line=["run", "gpt2", "--set", 'base="\\ud800"'])
def test_a_command_line_of_any_kind_ends_in_a_known_way(line, nothing_trains):
    check_line(line)
