"""Plans: which runs make up a study's archive, and which are trained live.

`seqlib/studies/NAME/plan.yaml` holds named experiments. Each is a grid over fields of the study's spec, or a list of grids:

    contexts: {arm: [lstm, additive], seed: 2, epochs: 1, zip: {context: [32, 512], batch: [128, 8]}}

A list means each of its values in turn, a mapping a value by arm (`lr: {full: 1e-4, lora: 1e-3}`), `seed: 9` the seeds 0 to
8 (a list names them), `zip` fields that vary together, `of: OTHER` the settings of another experiment under those given here. `live`, `smoke` and `check` are not part of the
archive: what a notebook trains, the same within seconds, and the short runs by which `seqlib verify` compares two versions
of the code.
"""

import functools
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from pydantic import ValidationError

from seqlib import study as studies
from seqlib import yamls
from seqlib.errors import UsageError, first_problem, nearest
from seqlib.record import Spec

NOT_ARCHIVED = ("live", "smoke", "check")


def grids(name: str, experiment: str, seen: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The grids of one experiment of study `name`, with what `of` takes from another filled in. Raises UsageError."""
    plan, where = _plan(name), f"{studies.folder(name) / 'plan.yaml'}, {experiment}"
    if experiment in seen:
        raise UsageError(f"{where}: `of` leads back to itself ({' of '.join([*seen, experiment])})")
    given = plan[experiment]
    out = []
    for grid in given if isinstance(given, list) else [given]:
        if not isinstance(grid, dict):
            raise UsageError(f"{where}: wants fields with their values, or a list of such, got {grid!r}")
        own = {field: value for field, value in grid.items() if field != "of"}
        if "of" not in grid:
            out.append(own)
            continue
        if grid["of"] not in plan:
            raise UsageError(f"{where}: {nearest('experiment', str(grid['of']), plan)}")
        varied = own.get("zip", {})
        for base in grids(name, grid["of"], (*seen, experiment)):
            kept = {field: value for field, value in base.get("zip", {}).items() if field not in {*own, *varied}}
            merged = {field: value for field, value in base.items() if field not in varied} | own
            if kept or varied:
                merged["zip"] = kept | varied
            out.append(merged)
    return out


def expand(name: str, grid: Mapping[str, Any], where: str = "") -> list[Spec]:
    """Every run of a grid, seed by seed, so that what is cut short is still paired. Raises UsageError on a field or a value
    that the study's spec does not have."""
    spec, grid = studies.get(name).spec, dict(grid)
    where = where or f"study {name}"
    together = grid.pop("zip", {})
    if len({len(values) for values in together.values()}) > 1:
        raise UsageError(f"{where}: the lists of zip are not of one length")
    seeds = grid.pop("seed", 1)
    if not isinstance(seeds, list):
        if not isinstance(seeds, int) or isinstance(seeds, bool) or not 0 <= seeds <= 10_000:
            raise UsageError(f"{where}: seed is a number of seeds (0 to 10000) or a list of them, got {seeds!r}")
        seeds = list(range(seeds))
    rows = [dict(zip(together, values)) for values in zip(*together.values())] if together else [{}]
    choices = [value if isinstance(value, list) and not _is_list(spec, field) else [value] for field, value in grid.items()]
    out = []
    for seed in seeds:
        for row in rows:
            for values in product(*choices):
                settings = dict(zip(grid, values)) | row | {"seed": seed}
                settings = _of_arm(settings)
                try:
                    out.append(spec(**settings))
                except ValidationError as error:
                    raise UsageError(f"{where}: {first_problem(error, spec.model_fields)}") from None
    return out


def _of_arm(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, of mappings the value for their own arm; the spec's default where an arm has none."""
    arm, out = settings.get("arm"), {}
    for field, value in settings.items():
        if not isinstance(value, dict):
            out[field] = value
        elif arm in value:
            out[field] = value[arm]
    return out


def _is_list(spec: type[Spec], field: str) -> bool:
    """Whether a field of the spec holds a list itself."""
    known = spec.model_fields.get(field)
    return known is not None and "tuple" in str(known.annotation)


def experiments(name: str) -> list[str]:
    """Names of a study's experiments, in the order of its plan."""
    return list(_plan(name))


@functools.lru_cache(maxsize=64)
def _specs(name: str, experiment: str, changed: int) -> tuple[Spec, ...]:
    where = f"{studies.folder(name) / 'plan.yaml'}, {experiment}"
    found = [spec for grid in grids(name, experiment) for spec in expand(name, grid, where)]
    return tuple({spec.key: spec for spec in found}.values())


def specs(name: str, experiment: str) -> list[Spec]:
    """The runs of one experiment, each once. Raises UsageError that names file and entry."""
    if experiment not in _plan(name):
        raise nearest(f"experiment of {name}", experiment, _plan(name))
    return list(_specs(name, experiment, (studies.folder(name) / "plan.yaml").stat().st_mtime_ns))


def archived(name: str) -> dict[str, list[str]]:
    """Keys of the runs that make up the archive, each with the experiments that it belongs to."""
    found: dict[str, list[str]] = {}
    for experiment in experiments(name):
        if experiment not in NOT_ARCHIVED:
            for spec in specs(name, experiment):
                found.setdefault(spec.key, []).append(experiment)
    return found


def overridden(name: str, experiment: str, settings: Mapping[str, Any]) -> list[Spec]:
    """The runs of an experiment with some fields set otherwise: a value, or a list of values to run each of."""
    if experiment not in _plan(name):
        raise nearest(f"experiment of {name}", experiment, _plan(name))
    check_fields(name, settings)
    found = []
    for grid in grids(name, experiment):
        varied = {k: v for k, v in grid.get("zip", {}).items() if k not in settings}
        merged = {k: v for k, v in grid.items() if k != "zip"} | dict(settings)
        if "seed" not in grid:  # of what draws nothing at random there is one run
            merged.pop("seed", None)
        found += expand(name, merged | ({"zip": varied} if varied else {}))
    return list({spec.key: spec for spec in found}.values())


def check_fields(name: str, fields: Iterable[str]) -> None:
    """Raises UsageError on a name that is no field of the study's spec."""
    known = set(studies.get(name).spec.model_fields) - {"study"}
    for field in fields:
        if field not in known:
            raise nearest(f"setting of {name}", field, sorted(known))


def _plan(name: str) -> dict[str, Any]:
    path = studies.folder(name) / "plan.yaml"
    plan = yamls.read(path)
    if not isinstance(plan, dict):
        raise UsageError(f"{path}: wants named experiments, got {plan!r}")
    return {experiment: grid for experiment, grid in plan.items() if not experiment.startswith(".")}
