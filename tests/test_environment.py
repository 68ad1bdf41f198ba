"""One source of versions: constraints.txt, for every supported Python. pyproject.toml names
packages, environment.yml points at both."""

import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEST = PROJECT["optional-dependencies"]["test"]
NAMED = [Requirement(text) for text in [*PROJECT["dependencies"], *TEST]]
SUPPORTED = ("3.11", "3.12", "3.13")
HERE = ".".join(platform.python_version_tuple()[:2])
each_python = pytest.mark.parametrize("python", SUPPORTED)


def applies(requirement, python):
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


def pins(python):
    """The versions that the constraints give a package on a version of Python, by its name."""
    found = {}
    for pin in PINS:
        if applies(pin, python):
            found.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier))
    return found


@each_python
def test_every_dependency_is_pinned_once_and_only_in_the_constraints(python):
    pinned = pins(python)
    assert all(len(found) == 1 and found[0].startswith("==") for found in pinned.values())
    for requirement in NAMED:
        assert not requirement.specifier, f"{requirement.name}: pin it in constraints.txt"
        if applies(requirement, python):
            assert canonicalize_name(requirement.name) in pinned, f"{requirement.name} has no pin"


def test_just_the_supported_versions_of_python_are_taken():
    wanted = SpecifierSet(PROJECT["requires-python"])
    assert [v for v in ("3.10", *SUPPORTED, "3.14") if f"{v}.1" in wanted] == list(SUPPORTED)
    assert "Python 3.11, 3.12 or 3.13" in (ROOT / "README.md").read_text()
    recipe = (ROOT / "Makefile").read_text()
    check = re.search(r"\$\(PYTHON\) -c '(.*)'", recipe)[1]
    for number, code in (((3, 10), 1), ((3, 11), 0), ((3, 13, 9), 0), ((3, 14), 1)):
        checked = check.replace("sys.version_info", repr(number))
        assert subprocess.run([sys.executable, "-c", checked]).returncode == code


def test_the_promised_packages_are_in_the_default_set_up():
    named = {canonicalize_name(r.name) for r in map(Requirement, PROJECT["dependencies"])}
    assert named >= {"jupyterlab", "jupyter-book", "papermill", "torch", "pandas", "matplotlib",
                     "seaborn", "transformers", "peft", "paddlenlp", "paddlepaddle"}
    for python in SUPPORTED:
        assert pins(python)["torch"] == ["==2.13.0"]
        assert pins(python)["jupyter-book"][0].startswith("==1.")


@pytest.mark.parametrize("python, paddle, helpers, numpy", [
    ("3.11", True, ["==0.1.1"], "2"), ("3.12", True, ["==0.1.2"], "1"), ("3.13", False, None, "2")])
def test_paddle_is_installed_where_its_packages_have_wheels(python, paddle, helpers, numpy):
    """tool-helpers 0.1.1 has no wheel for 3.12, and 0.1.2 wants numpy 1; paddle2onnx 2.1.0 has none
    for 3.13."""
    wanted = {r.name for r in NAMED if applies(r, python) and r.name.startswith("paddle")}
    assert wanted == ({"paddlenlp", "paddlepaddle"} if paddle else set())
    assert pins(python).get("tool-helpers") == helpers
    assert pins(python)["numpy"][0].startswith(f"=={numpy}.")
    arrow = pins(python)["pyarrow"][0]  # from 26 on it refuses numpy 1 when it is imported
    assert numpy == "2" or arrow.startswith("==25.")


def test_conda_installs_the_same_from_the_same_file():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python.removeprefix("python=") in SUPPORTED and pip == "pip"
    assert packages["pip"] == ["-c constraints.txt", "-e .[test]"]


def test_what_runs_here_is_what_is_pinned():
    pinned = {name: found[0] for name, found in pins(HERE).items()}
    for name in (r.name for r in NAMED if applies(r, HERE)):
        assert f"=={version(name).split('+')[0]}" == pinned[canonicalize_name(name)], name
