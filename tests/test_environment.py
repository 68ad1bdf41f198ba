"""One source of versions: constraints.txt. pyproject.toml names packages, environment.yml points at both."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = {canonicalize_name(name): pin
        for name, pin in re.findall(r"^([\w.\-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]


def test_every_dependency_is_pinned_once_and_only_in_the_constraints():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINS)
    for requirement in NAMED:
        assert canonicalize_name(requirement.name) in PINS, f"{requirement.name} is not pinned"
        assert not requirement.specifier, f"{requirement.name}: the version belongs into constraints.txt"


def test_the_promised_packages_are_in_the_default_set_up():
    named = {canonicalize_name(r.name) for r in map(Requirement, PROJECT["dependencies"])}
    assert named >= {"jupyterlab", "jupyter-book", "papermill", "torch", "pandas", "matplotlib", "seaborn", "transformers",
                     "peft", "paddlenlp", "paddlepaddle"}
    assert PINS["torch"] == "2.13.0" and PINS["jupyter-book"].startswith("1.")


def test_conda_installs_the_same_from_the_same_file():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python.startswith("python=3.") and pip == "pip"
    assert packages["pip"] == ["-c constraints.txt", "-e .[test]"]


def test_what_runs_here_is_what_is_pinned():
    differ = {r.name: version(r.name) for r in NAMED
              if version(r.name).split("+")[0] != PINS[canonicalize_name(r.name)].split("+")[0]}
    assert not differ
