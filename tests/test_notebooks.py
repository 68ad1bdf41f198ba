from pathlib import Path

import nbformat
import pytest
import yaml

from seqlib import study

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stripped_short_and_start_with_their_parameters(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert all(len(c.source.splitlines()) <= 12 for c in code)
    assert "parameters" in code[0].metadata.tags
    assert not any("for epoch" in c.source or ".backward(" in c.source for c in code)


@pytest.mark.parametrize("name", study.NAMES)
def test_the_defaults_in_the_notebook_are_the_quick_profile(name):
    nb = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    values: dict = {}
    exec(next(c.source for c in nb.cells if c.cell_type == "code"), values)
    values.pop("__builtins__")
    assert study.get(name).validate(values) == study.get(name).parameters("quick")


@pytest.mark.parametrize("profile", study.PROFILES)
@pytest.mark.parametrize("name", study.NAMES)
def test_profiles_name_every_parameter(name, profile):
    values = yaml.safe_load((ROOT / "notebooks" / "profiles" / f"{profile}.yaml").read_text())[name]
    assert set(values) | {"profile"} >= set(study.get(name).params.model_fields) - {"lr"}
    assert study.get(name).specs(study.get(name).parameters(profile))


def test_the_first_cells_refuse_unknown_names_and_wrong_values():
    from seqlib.errors import UsageError
    from seqlib.show import parameters

    with pytest.raises(UsageError, match="depth: no such parameter"):
        parameters("airline", {"seeds": 2, "depth": 3, "_private": 1, "In": []})
    with pytest.raises(UsageError, match="seeds"):
        parameters("airline", {"seeds": "two"})
