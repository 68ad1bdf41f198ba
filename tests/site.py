"""A small book in seconds: real pages without kernels, training or statistics. The notebook of a
study is made up, that of the claims is the real one with made-up verdicts."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from traitlets.config import Config

from seqlib import claims, pages, reach, study
from seqlib.rules import Verdict
from tests.conftest import Checkout

TOC = """format: jb-book
root: book/intro
chapters:
  - file: book/studies/airline
  - file: book/claims
  - file: book/methods
  - file: book/extend
"""
ANSWER = "| Study | Answer |\n|---|---|\n| [Airline passengers](studies/airline) | It depends. |\n"
STUDY = ["# Airline passengers\n\nA word: xylophone.", """
import pandas as pd
from matplotlib import pyplot as plt
from seqlib import show

values = {"gru": 9.5, "lstm": 10.2, "rope": 8000.0, "one": 2.0}
frame = pd.DataFrame({
    "arm": list(values),
    "MAE [95% interval]": ["9.5 [9.0, 9.9]", "10.2 [10.1, 10.4]", "8,000 [-2, 9,000]", ""],
    "seconds": values.values()})
show.table(frame, "Errors")
""", "Its error is $x^2$.", """
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot([1, 2, 3])
ax.set(xlabel="months", ylabel="passengers")
show.figure(fig, "airline-line", data=frame, alt="A line.", caption="It rises.")
""", "show.verdicts('airline')"]


def verdicts(study_name):
    """Verdicts that differ in seeds and p."""
    ids = [(name, id_, claim) for name in study.names()
           for id_, claim in claims.read(name).claims.items()]
    rows = [Verdict(id=id_, study=name, kind=claim.kind, says=claim.says, verdict="reproduced",
                    seeds=2 + 7 * (i % 5), p_holm=1 / (1 + i), reason="made up")
            for i, (name, id_, claim) in enumerate(ids)]
    return [row for row in rows if row.study == study_name]


def executed(cells):
    """Cells, the code run here as a kernel does; what it shows becomes its outputs."""
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    names = {}
    try:
        with patch.object(reach, "verdicts", verdicts):
            for cell in (cell for cell in cells if cell.cell_type == "code"):
                with capture_output() as shown:
                    exec(cell.source, names)
                cell.outputs = [new_output("display_data", data=output.data,
                                           metadata=output.metadata or {})
                                for output in shown.outputs]
    finally:
        InteractiveShell.clear_instance()
    return cells


def build(root: Path) -> str:
    """Build the book as `make book` does; what Sphinx says."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", root, "-n", "-W",
               "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def make(root: Path) -> Path:
    """The small book in a checkout of its own, built."""
    Checkout(root)
    (root / "_toc.yml").write_text(TOC)
    (root / "book" / "answer.md").write_text(ANSWER)
    (root / "book" / "studies").mkdir()
    kinds = (new_markdown_cell, new_code_cell)
    cells = [kinds["show." in source](source) for source in STUDY]
    for cell, tag in zip(cells, ("", "hide-input", "", "", "")):
        cell.metadata["tags"] = [tag] if tag else []
    ledger_page = nbformat.read(root / "notebooks" / "claims.ipynb", 4)
    kernel = ledger_page.metadata
    written = {"studies/airline": new_notebook(cells=executed(cells), metadata=kernel),
               "claims": new_notebook(cells=executed(ledger_page.cells), metadata=kernel)}
    for name, notebook in written.items():
        nbformat.write(pages.as_page(notebook), root / "book" / f"{name}.ipynb")
    build(root)
    return root
