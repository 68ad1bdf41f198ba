"""Plans: which runs make up a study's archive, and which are trained live.

`seqlib/studies/NAME/plan.yaml` holds named experiments. Each is a grid over fields of the study's
spec, or a list of grids:

    contexts: {arm: [lstm, additive], seed: 2, zip: {context: [32, 512], batch: [128, 8]}}

A list means each of its values in turn, a mapping a value by arm (`lr: {full: 1e-4, lora: 1e-3}`),
`seed: 9` the seeds 0 to 8 (a list or `9-18` names them), `zip` fields that vary together (it counts
before the same field beside it), `of: OTHER` another experiment's settings under those given here.
`live`, `smoke` and `check` are not part of the archive: what a notebook trains, the same within
seconds, and the short runs by which `seqlib verify` compares two versions of the code. An
experiment `next-...` is declared and not complete: its records go to the archive one by one, and no
page or claim counts them until the experiment gets its final name. Nor does an archive lack what is
declared for another `device` than the processor: such an experiment is trained, and loaded, by its
name alone, so that its figures stand beside no processor's.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from seqlib import devices, yamls
from seqlib import study as studies
from seqlib.errors import UsageError, first_problem, nearest
from seqlib.places import cached_by
from seqlib.record import Spec

LIVE = ("live", "smoke")
NOT_ARCHIVED = (*LIVE, "check")
NEXT = "next-"


def experiments(name: str) -> list[str]:
    """Names of a study's experiments, in the order of its plan."""
    return list(_plan(name))


def of_archive(name: str) -> list[str]:
    """Names of the experiments that make up a study's archive."""
    apart = {*NOT_ARCHIVED, *elsewhere(name)}
    return [experiment for experiment in _plan(name)
            if experiment not in apart and not experiment.startswith(NEXT)]


@cached_by(lambda name: [_path(name)])
def elsewhere(name: str) -> list[str]:
    """Names of the experiments that are declared for another device than the processor."""
    return [experiment for experiment in _plan(name) if experiment not in NOT_ARCHIVED
            and any(grid.get("device", "cpu") != "cpu" for grid in grids(name, experiment))]


def underway(name: str) -> list[str]:
    """Names of the experiments that are declared and not complete."""
    return [experiment for experiment in _plan(name) if experiment.startswith(NEXT)]


@cached_by(lambda name, experiment: [_path(name)])
def specs(name: str, experiment: str) -> list[Spec]:
    """The runs of one experiment, each once. Raises UsageError that names file and entry."""
    return overridden(name, experiment, {})


def archived(name: str, chosen: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Keys of the runs of some experiments, by default of all that are archived, each with the
    experiments that it belongs to."""
    found: dict[str, list[str]] = {}
    for experiment in of_archive(name) if chosen is None else chosen:
        for spec in specs(name, experiment):
            found.setdefault(spec.key, []).append(experiment)
    return found


def recorded(name: str) -> dict[str, list[str]]:
    """As `archived`, of the experiments underway and of those for another device too: the runs
    whose records go to the archive."""
    return archived(name, [*of_archive(name), *underway(name), *elsewhere(name)])


def overridden(name: str, experiment: str, settings: Mapping[str, Any],
               arms: Iterable[str] | None = None) -> list[Spec]:
    """The runs of an experiment with some fields set otherwise: a value, or several to run each of.

    arms: only these of the experiment's arms. Live runs train on the device that SEQLIB_DEVICE
    names, where no setting does. Raises UsageError on an unknown experiment or field, and on a
    value that is not allowed."""
    kind, found = studies.get(name), {}
    if experiment in LIVE and os.environ.get(devices.VARIABLE):
        settings = {"device": "auto", **settings}
    devices.use(str(settings.get("device")))
    known = sorted(set(kind.spec.model_fields) - {"study"})
    for field in settings:
        if field not in known:
            raise nearest(f"setting of {name}", field, known)
    where = f"study {name}" if settings else f"{_path(name)}, {experiment}"
    for grid in grids(name, experiment):
        # a grid without seeds draws nothing at random: one run is enough
        changes = {field: value for field, value in settings.items()
                   if field != "seed" or "seed" in grid}
        grid = _changed(grid, changes)
        if arms is not None:
            named = grid["arm"] if isinstance(grid.get("arm"), list) else [grid.get("arm")]
            grid["arm"] = [arm for arm in named if arm in arms]
            if not grid["arm"]:
                continue
        try:
            found |= {spec.key: spec for spec in expand(kind, grid)}
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return list(found.values())


def grids(name: str, experiment: str, seen: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The grids of one experiment, with what `of` takes from another filled in.

    seen: experiments that lead here. Raises UsageError that names file and entry."""
    where = f"{_path(name)}, {experiment}"
    if experiment in seen:
        way = " of ".join([*seen, experiment])
        raise UsageError(f"{where}: `of` leads back to itself ({way})")
    entry = _entry(name, experiment)
    found = []
    for grid in entry if entry and isinstance(entry, list) else [entry]:
        _check_shape(grid, where)
        settings = {field: value for field, value in grid.items() if field != "of"}
        if "of" not in grid:
            found.append(settings)
        elif grid["of"] in experiments(name):
            bases = grids(name, grid["of"], (*seen, experiment))
            found += [_changed(base, settings) for base in bases]
        else:
            raise UsageError(f"{where}: {nearest('experiment', grid['of'], experiments(name))}")
    return found


def _check_shape(grid: Any, where: str) -> None:
    """Raises UsageError on a grid that is no mapping of fields, and on a `zip` without lists."""
    if not isinstance(grid, dict) or not all(isinstance(field, str) for field in grid):
        raise UsageError(f"{where}: wants fields with their values, or a list of such, "
                         f"got {short(grid)}")
    zipped = grid.get("zip", {})
    if not isinstance(zipped, dict) or not all(v and isinstance(v, list) for v in zipped.values()):
        raise UsageError(f"{where}: zip wants fields with a list of values each, got {zipped!r}")
    if "seed" in zipped:
        raise UsageError(f"{where}: seed cannot vary in zip; name it beside it")


def _changed(grid: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A grid with some fields set otherwise, alone or together (`zip`)."""
    new = changes.get("zip", {})
    together = {field: values for field, values in grid.get("zip", {}).items()
                if field not in {*changes, *new}}
    alone = {field: value for field, value in grid.items() if field not in {"zip", *new}}
    return alone | {**changes, "zip": together | new}


def expand(kind: studies.Study, grid: Mapping[str, Any]) -> list[Spec]:
    """Every run of a grid, seed by seed, so that what is cut short is still paired.

    Raises UsageError on a field or a value that the study's spec does not have."""
    together = grid.get("zip", {})
    if len({len(values) for values in together.values()}) > 1:
        raise UsageError("the lists of zip are not of one length")
    rows = [dict(zip(together, values)) for values in zip(*together.values())] or [{}]
    alone = {field: _values(kind.spec, field, value)
             for field, value in {"seed": 1, **grid}.items() if field != "zip"}
    seeds = alone.pop("seed")
    return [one(kind, dict(zip(alone, values)) | row | {"seed": seed})
            for seed, row, values in product(seeds, rows, product(*alone.values()))]


def _values(spec: type[Spec], field: str, value: Any) -> Sequence:
    """The values that a field takes in turn: those of a list, and the seeds below a number."""
    value = value.tolist() if hasattr(value, "tolist") else value
    several = isinstance(value, (list, tuple, range))
    if field == "seed" and "-" in str(value) and (named := seed_range(str(value))) is not None:
        if not named:
            raise UsageError(f"seed is a number of seeds or a list of them, got {value!r}, which "
                             "ends before it begins")
        return named
    if field == "seed" and not (several and value):
        if type(value) is not int or not 1 <= value <= 10_000:
            raise UsageError("seed is a number of seeds (1 to 10000) or a list of them, "
                             f"got {short(value)}")
        return range(value)
    if not several or "tuple" in str(_annotation(spec, field)):  # that holds a list itself
        return [value]
    if not value:
        raise UsageError(f"{field}: an empty list asks for no run")
    return value


def seed_range(text: str) -> range | None:
    """The seeds that `9-18` or `3` names, none where it ends before it begins; None for what is no
    such text."""
    ends = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text.strip())
    return range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else None


def _annotation(spec: type[Spec], field: str) -> Any:
    return getattr(spec.model_fields.get(field), "annotation", None)


def one(kind: studies.Study, settings: Mapping[str, Any]) -> Spec:
    """One run. Of a mapping it has the value for its arm, or the spec's default without one.

    Raises UsageError on a field or a value that the spec does not have."""
    arm, values = settings.get("arm", ""), {}
    if not isinstance(arm, str):
        raise nearest("arm", arm, kind.arms)
    for field, value in settings.items():
        if isinstance(value, dict):
            for name in value:
                if name not in kind.arms:
                    raise nearest(f"arm in {field}", name, kind.arms)
            if arm not in value:
                continue
            value = value[arm]
        _refuse_bool(field, value, _annotation(kind.spec, field))
        _refuse_half_signs(field, value)
        values[field] = value
    try:
        return kind.spec(**values)
    except ValidationError as error:
        raise UsageError(first_problem(error, kind.spec.model_fields)) from None


def _refuse_bool(field: str, value: Any, wanted: Any) -> None:
    """Raises UsageError on true or false where pydantic would take them for 1 or 0."""
    if isinstance(value, bool) and wanted and "bool" not in str(wanted):
        raise UsageError(f"{field}: wants {getattr(wanted, '__name__', wanted)}, got {value}")


def _refuse_half_signs(field: str, value: Any) -> None:
    """Raises UsageError on a text with half of a pair (YAML's "\\ud800"), which UTF-8 lacks."""
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
            raise UsageError(f"{field}: {short(text)} is no text in Unicode")


def check_parameters(study: str, values: dict[str, Any]) -> None:
    """Check parameters of a notebook: `arms`, `seeds`, and fields of the spec, each a value or a
    mapping by arm. Raises UsageError on one of a wrong name, type or range."""
    kind = studies.get(study)
    fields = {name: field for name, field in kind.spec.model_fields.items()
              if name not in ("study", "arm", "seed")}
    for name, value in values.items():
        if name == "arms":
            if not isinstance(value, (list, tuple)) or not value:
                some = ", ".join(list(kind.arms)[:2])
                raise UsageError(f"arms: wants a list of arms such as [{some}], got {short(value)}")
            if len(set(map(str, value))) < len(value):
                raise UsageError(f"arms: an arm is named twice in {value!r}")
        elif name == "seeds":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
                raise UsageError(f"seeds: wants a whole number from 1 to 1000, got {short(value)}")
        elif name not in fields:
            raise nearest("parameter", name, ["arms", "seeds", *fields])
        else:
            for one in value.values() if isinstance(value, dict) else [value]:
                _check_field(name, fields[name], one)
        for arm in value if name == "arms" or isinstance(value, dict) else ():
            if str(arm) not in kind.arms:
                raise nearest(f"arm in {name}:", arm, kind.arms)


def _check_field(name: str, field: Any, value: Any) -> None:
    if value == "auto" and isinstance(field.default, str):  # the notebook says what it takes
        return
    _refuse_bool(name, value, field.annotation)
    _refuse_half_signs(name, value)
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(kind).validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        problem = first_problem(error).partition(": ")[2]
        raise UsageError(f"{name}: {problem}, got {short(value)}") from None


def _entry(name: str, experiment: str) -> Any:
    """What the plan says of an experiment. Raises UsageError where it has none of that name."""
    if experiment not in experiments(name):
        raise nearest(f"experiment of {name}", experiment, experiments(name))
    return _plan(name)[experiment]


def _path(name: str) -> Path:
    return studies.folder(name) / "plan.yaml"


def _plan(name: str) -> dict[str, Any]:
    plan = yamls.read(_path(name))
    if not isinstance(plan, dict) or not all(
            isinstance(experiment, str) and re.fullmatch(r"[\w.-]+", experiment)
            for experiment in plan):
        raise UsageError(f"{_path(name)}: wants named experiments (letters, digits, `-`, `_`, `.`),"
                         f" got {short(plan)}")
    return plan
