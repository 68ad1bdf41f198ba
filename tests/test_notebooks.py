"""The notebooks: stripped, short, parameters that are checked and used; and that they run with a
part of the archive and none, in one kernel, and by papermill from anywhere. With the whole archive
they run in test_book."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output

from seqlib import pages, plan, study
from seqlib.show import check_parameters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STUDIES = [path for path in NOTEBOOKS if path.stem in study.names()]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tagged(cells, tag):
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def calls(path, name):
    """Calls of a function in the cells of a notebook."""
    trees = [ast.parse(cell.source) for cell in code_cells(path)]
    return [node for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def names_in(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def outside_functions(tree):
    """The nodes of a cell that run in the notebook's own names."""
    own = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, own):
            yield node
            yield from outside_functions(node)


def test_git_sees_a_saved_notebook_without_its_outputs_once_make_lab_has_run(tmp_path):
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(["make", "-n", "lab", "FLAGS=--no-browser"], cwd=ROOT, env=quiet,
                           capture_output=True, text=True, check=True).stdout.splitlines()
    [set_up] = [line for line in shown if line.startswith("git config ")]
    assert shown[-1].endswith("--no-browser")
    assert ("--allow-root" in shown[-1]) == (os.geteuid() == 0)

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    git("init", "-q")
    subprocess.run(set_up, shell=True, cwd=tmp_path, check=True)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".gitignore").write_text(".venv\n")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    path = tmp_path / "notebooks" / "airline.ipynb"
    path.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / "airline.ipynb", path)
    git("add", ".")
    git("commit", "-qm", "clean")
    notebook = nbformat.read(path, 4)  # and as JupyterLab saves it
    notebook.metadata.language_info = {
        "codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
        "mimetype": "text/x-python", "name": "python", "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3", "version": "3.11.7"}
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python",
                                    "name": "python3"}
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        cell.outputs = [new_output("stream", text="saved")]
    nbformat.write(notebook, path)
    assert path.read_text() != (ROOT / "notebooks" / "airline.ipynb").read_text()
    assert not git("diff", "--stat").stdout
    git("add", ".")
    assert not git("status", "--porcelain").stdout


@each_notebook
def test_notebooks_are_stripped_and_their_cells_are_short(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in code_cells(path):
        assert not cell.outputs and not cell.execution_count, (
            f"{path.name} has outputs; .venv/bin/nbstripout --keep-id {path} clears them")
        assert len(cell.source.splitlines()) <= 30, cell.source[:80]
        assert max(map(len, cell.source.splitlines())) <= 100, cell.source[:80]  # as ruff has it
        assert ".backward(" not in cell.source and "optimizer" not in cell.source


@each_study
def test_the_parameters_stand_alone_are_explained_checked_and_used(path):
    cells = code_cells(path)
    [first] = tagged(cells, "parameters")
    names = [ast.unparse(line).partition(" = ")[0] for line in ast.parse(first.source).body]
    found = papermill.inspect_notebook(str(path))
    assert list(found) == names, "papermill does not see them all"
    assert None not in pages.own_values(path).values(), "a parameter is computed"
    assert all(parameter["help"] for parameter in found.values()), "each with a comment"
    [check] = calls(path, "show.parameters")
    assert {keyword.arg for keyword in check.keywords} == set(names)
    assert cells.index(first) == 0 and "show.parameters" in cells[1].source
    trained = set().union(*map(names_in, calls(path, "seqlib.train")))
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    assigned = [(node.targets[0], node.value) for node in nodes if isinstance(node, ast.Assign)]
    assigned += [(node.target, node.value) for node in nodes if isinstance(node, ast.AugAssign)]
    for _ in range(2):  # a training may take them by a mapping, and that by another
        for target, value in assigned:
            if names_in(target) & trained:
                trained |= names_in(value)
    assert set(names) <= trained, "a parameter that no training takes"
    own = [node for cell in cells[1:] for node in outside_functions(ast.parse(cell.source))]
    assert not [node.id for node in own if isinstance(node, ast.Name) and node.id in names
                and isinstance(node.ctx, ast.Store)], "a parameter is given another value"
    check_parameters(path.stem, pages.own_values(path))


@each_study
def test_a_study_has_one_headline_and_draws_its_figures_itself(path):
    cells = code_cells(path)
    [headline] = tagged(cells, "headline")
    assert "hide-input" in headline.metadata.tags
    drawn = [cell for cell in cells if re.search(r"\b(sns|plt|ax)\.", cell.source)]
    assert len(drawn) >= 3 and calls(path, "show.figure")


def test_no_two_figures_of_the_book_have_one_name():
    names = [call.args[1].value for path in STUDIES for call in calls(path, "show.figure")
             if len(call.args) > 1 and isinstance(call.args[1], ast.Constant)]
    assert len(names) == len(set(names))


def part_of_the_archive(name, root, without):
    """Two records of three, and none of one experiment."""
    (root / name).mkdir(parents=True)
    planned = plan.archived(name)
    for i, record in enumerate(sorted((ROOT / "results" / name).glob("*.json"))):
        if i % 3 and without not in planned.get(record.stem, []):
            shutil.copy(record, root / name)
    return root


def fresh(cells):
    """The code of some cells in cells of their own."""
    return [new_code_cell(cell.source) for cell in cells if cell.cell_type == "code"]


def of_outputs(cells, kind):
    """Texts of a kind that cells have shown."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def check_outputs(cells):
    """What a study's executed notebook shows: numbers, a short headline, no warning."""
    texts = of_outputs(cells, "text/markdown")
    texts += [cell.metadata.mystnb.figure.caption.partition("<a ")[0]  # as a page has it
              for cell in cells if "mystnb" in cell.metadata]
    words = [re.sub("(?s)```.*?```", "", text) for text in texts]
    assert not [text for text in words if re.search(r"\bnan\b|\binf\b|NaN", text)]
    [text] = of_outputs(tagged(cells, "headline"), "text/markdown")
    assert len(text.split()) <= 60 and not text.lstrip().startswith("#")
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        assert output.output_type != "stream" or "Warning" not in output.text, output.text


@each_study
def test_a_notebook_runs_without_an_archive_and_with_parts_of_it_in_one_kernel(
        path, tmp_path, runs, monkeypatch):
    monkeypatch.setenv("SEQLIB_RUNS", str(runs))
    name, cells = path.stem, nbformat.read(path, 4).cells
    values = pages.smoke(name, pages.own_values(path))
    archived = plan.of_archive(name)
    (tmp_path / "empty").mkdir()
    archives = [tmp_path / "empty", *(part_of_the_archive(name, tmp_path / without, without)
                                      for without in archived[:2])]
    passes = []
    for archive in archives:  # each as `Run all cells` does, in one kernel
        set_up = f"import os\nos.environ['SEQLIB_RESULTS'] = {str(archive)!r}"
        injected = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
        first = next(i for i, cell in enumerate(cells) if cell in tagged(cells, "parameters"))
        passes += [new_code_cell(set_up), *cells[:first + 1], new_code_cell(injected),
                   *cells[first + 1:]]
    notebook = new_notebook(cells=fresh(passes))
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(of_outputs(notebook.cells, "image/svg+xml")) >= 3


def test_papermill_runs_a_notebook_from_any_folder_and_other_arms_lose_no_figure(tmp_path, runs):
    """Dropping an arm made figures vanish, and an inserted one took another's colour."""
    path, out = ROOT / "notebooks" / "airline.ipynb", tmp_path / "out.ipynb"
    values = pages.smoke("airline", pages.own_values(path)) | {"arms": ["gru-logdiff", "lstm"]}
    command = [sys.executable, "-m", "papermill", path, out, "-y", json.dumps(values),
               "--kernel", "python3", "--no-progress-bar"]
    environment = {**os.environ, "SEQLIB_RESULTS": str(ROOT / "results"), "SEQLIB_RUNS": str(runs)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = nbformat.read(out, 4).cells
    check_outputs(cells)
    marks = [output.metadata.get("image/svg+xml", {}) for cell in cells
             for output in cell.get("outputs", []) if "data" in output]
    drawn = {mark["name"] for mark in marks if "name" in mark}
    named = {call.args[1].value for call in calls(path, "show.figure")
             if isinstance(call.args[1], ast.Constant)}
    assert named and named <= drawn


def test_papermill_is_refused_a_wrong_parameter_in_one_line(tmp_path):
    """One of every kind is in test_show."""
    told = "UsageError: unknown parameter 'sedes'; did you mean 'seeds'?"
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", ROOT / "notebooks" / "airline.ipynb", out, "-p",
               "sedes", "3", "--kernel", "python3", "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(told)
    [error] = [output for cell in code_cells(out) for output in cell.outputs
               if output.output_type == "error"]
    assert len(error.traceback) == 1


def test_a_misspelt_name_in_the_parameters_cell_is_found(tmp_path):
    cells = code_cells(ROOT / "notebooks" / "airline.ipynb")[:2]
    again = fresh(cells)
    again[0].source = again[0].source.replace("seeds", "sedes", 1)
    notebook = new_notebook(cells=[*cells, *again])  # `seeds` is known from the first time
    with pytest.raises(Exception, match="unknown parameter 'sedes'; did you mean 'seeds'"):
        NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
