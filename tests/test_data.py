"""Listing data sets, as against fetching one; and taking the first that can be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqlib import data, sources
from seqlib.errors import SeqlibError


def test_listing_fetches_nothing_and_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.delenv("SEQLIB_DATA", raising=False)
    for name in ("reachable", "hub", "fetched"):
        monkeypatch.setattr(sources, name, None)  # a call would raise TypeError
    monkeypatch.setattr(data, "fetched", None)
    rows = {row["name"]: row for row in data.rows()}
    assert set(rows) == set(data.DATA) and rows["airline"]["source"] == "the package"
    absent = [name for name, row in rows.items() if row["path"] is None]
    installed = {"airline", data.DESCRIPTIONS}  # with packages
    assert set(absent) == set(data.DATA) - installed
    assert all(rows[name]["source"] == f"not fetched yet; `seqlib data {name}` does it"
               for name in absent)
    sources.absent("airline")  # and from then on anything may be fetched again


def test_bases_given_in_a_folder_are_taken_from_there_and_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path))
    for name in ("gpt2", "ernie-3.0-medium-zh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"not the original")
    # its hash is not known beforehand
    assert data.locate("ernie-3.0-medium-zh").source == "SEQLIB_DATA"
    wanted = f"gpt2: {tmp_path}/gpt2/model.safetensors has sha256 .* put the original there"
    with pytest.raises(data.WrongFile, match=wanted):
        data.locate("gpt2")


def test_what_lies_beside_a_model_is_checked(tmp_path):
    """Two swapped tokens give other losses under the same keys."""
    weights, tokenizer = tmp_path / "model.safetensors", tmp_path / "tokenizer.json"
    weights.write_bytes(b"weights")
    tokenizer.write_text('{"a": 1, "b": 2}')
    for _ in range(2):
        sources.beside(weights, "some-base")
    tokenizer.write_text('{"a": 2, "b": 1}')
    with pytest.raises(data.WrongFile, match="some-base: .*tokenizer.json is not what it was"):
        sources.beside(weights, "some-base")
    tokenizer.unlink()
    with pytest.raises(data.WrongFile, match="tokenizer.json is not what it was"):
        sources.beside(weights, "some-base")


def test_a_mirror_of_the_hub_is_asked_in_its_place():
    program = "from seqlib import sources; print(sources.HUB)"
    environment = {**os.environ, "HF_ENDPOINT": "https://mirror.example/"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, text=True,
                          capture_output=True, check=True)
    assert done.stdout.strip() == "https://mirror.example"


def test_the_first_that_can_be_had_is_taken_and_a_wrong_file_is_never_passed_over(monkeypatch):
    def absent():
        raise SeqlibError("nowhere")

    def wrong():
        raise data.WrongFile("another file")

    monkeypatch.setattr(data, "DATA", {"absent": absent, "wrong": wrong, "airline": data.airline})
    assert data.first("absent", "airline").name == "airline"
    with pytest.raises(data.WrongFile, match="another file"):
        data.first("absent", "wrong", "airline")
    with pytest.raises(SeqlibError, match="nowhere"):
        data.first("absent")


def test_line_ends_of_a_table_do_not_count_and_everything_else_does(tmp_path, monkeypatch):
    known = data.airline().sha256
    for end, same in ((b"\r\n", True), (b"\n\n", False)):
        copy = tmp_path / "series.csv"
        copy.write_bytes(data.AIRLINE.read_bytes().replace(b"\n", end))
        monkeypatch.setattr(data, "AIRLINE", copy)
        if same:
            assert data.airline().sha256 == known == data.AIRLINE_SHA256
            monkeypatch.undo()
    with pytest.raises(data.WrongFile, match="series.csv has sha256"):
        data.airline()


def test_a_clone_that_wants_windows_line_ends_gets_those_of_the_hashes(tmp_path):
    root = Path(__file__).parents[1]
    git = ["git", "-c", "core.autocrlf=true", "-C", tmp_path]
    for name in (".gitattributes", "README.md", "seqlib/studies/airline/series.csv",
                 "seqlib/studies/airline/plan.yaml", "notebooks/airline.ipynb"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((root / name).read_bytes())
    for command in (["init", "-q"], ["add", "."], ["checkout-index", "-qaf"],
                    ["checkout-index", "-a", "--prefix=out/"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 5 and not any(b"\r\n" in path.read_bytes() for path in files)
