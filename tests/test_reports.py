"""Reports: a page in plain Markdown with its figures and data as files, by the command of
`make reports`, and the results of a study as CSV and JSON."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import seqlib
from seqlib import pages
from tests.conftest import ROOT

WORDS = r"""(words)=
## Words {cite}`hu2022,vaswani2017`

See {numref}`a-line`, [methods](../methods.md), [A04](../claims.ipynb#A04) and $a_{i}$.

```python
table = {"`": "{cite}`kept`"}
```"""
DRAWN = """import pandas as pd
from matplotlib import pyplot as plt
from seqlib import show
fig, ax = plt.subplots()
ax.plot([1, 2])
data = pd.DataFrame({"arm": ["a|b", "c"], "value": [1.5, 2500.0]})
show.figure(fig, "a-line", data=data, alt="A line.", caption="It rises {cite}`su2021`.")
show.table(data, "Two arms")
print("printed")"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A small page of the book as a report; the folder that it lies in."""
    root = tmp_path_factory.mktemp("reports")
    (root / ".venv").mkdir()
    (root / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    shutil.copytree(ROOT / "book" / "_ext", root / "book" / "_ext")
    notebook = new_notebook(cells=[new_markdown_cell(WORDS), new_code_cell(DRAWN)])
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    bar = new_output("stream", name="stderr", text="50%")
    view = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "VBox()"}
    notebook.cells[1].outputs += [bar, new_output("display_data", view)]
    page = root / "book" / "studies" / "small.ipynb"
    page.parent.mkdir()
    nbformat.write(pages.as_page(notebook), page)
    nbformat.write(new_notebook(cells=[new_markdown_cell("[methods](methods.md)")]),
                   root / "book" / "claims.ipynb")
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(["make", "-n", "reports"], cwd=ROOT, env=quiet, check=True,
                           capture_output=True, text=True).stdout
    [command] = re.findall(r"\S+/jupyter nbconvert(?:.*\\\n)*.*", shown)
    subprocess.run(command, shell=True, cwd=root, check=True)
    return root / "reports"


def test_a_report_is_plain_markdown_and_its_links_lead_somewhere(report):
    text = (report / "small.md").read_text()
    assert "## Words ([hu2022,vaswani2017](../book/references.bib))" in text
    assert "[A04](claims.md#A04) and $a_{i}$" in text and "[methods](../book/methods.md)" in text
    assert "(../book/methods.md)" in (report / "claims.md").read_text()
    code = text[text.index("```python"):text.rindex("```")]
    assert "{cite}`kept`" in code, "code stays as it is"
    assert not re.search(r"\{\w+\}`|^\(words\)=|<script|data:text", text.replace(code, ""), re.M)
    assert "    printed" in text and "50%" not in text and "VBox" not in text
    assert "show.figure(" not in text, "the code stands in the notebook"


def test_figures_and_their_data_are_files_and_tables_are_tables(report):
    text = (report / "small.md").read_text()
    assert "![A line.](small_files/a-line.svg)\n\nIt rises ([su2021]" in text
    assert sorted(path.name for path in (report / "small_files").iterdir()) == [
        "a-line.csv", "a-line.svg"]
    assert (report / "small_files" / "a-line.svg").read_text().startswith("<?xml")
    data = pd.read_csv(report / "small_files" / "a-line.csv")
    assert data.value.tolist() == [1.5, 2500] and "(small_files/a-line.csv)" in text
    assert ("Two arms\n\n| arm | value |\n| --- | --- |\n| a\\|b | 1.5 |\n| c | 2,500 |"
            in text)


def test_the_results_of_a_study_are_those_of_its_frames(checkout, monkeypatch):
    code, out, err = checkout.seqlib("export", "gpt2", "--output", str(checkout.root / "to"))
    assert code == 0 and out.count("gpt2-") == 4, err
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))
    for what, frame in (("runs", seqlib.load("gpt2", "all")),
                        ("claims", seqlib.verdicts("gpt2"))):
        rows = json.loads((checkout.root / "to" / f"gpt2-{what}.json").read_text())
        table = pd.read_csv(checkout.root / "to" / f"gpt2-{what}.csv", float_precision="round_trip")
        assert len(frame) == len(rows) == len(table) and list(frame) == list(table) == list(rows[0])
        for name in frame.select_dtypes("number"):
            assert table[name].equals(frame[name].reset_index(drop=True).astype(table[name].dtype))
            assert [row[name] for row in rows] == [
                None if pd.isna(value) else value for value in frame[name].tolist()]
        for row, verdict in zip(rows, frame.to_dict("records")):
            assert what == "runs" or row["ours"] == verdict["ours"]
    assert checkout.seqlib("export", "airlin")[0] == 2
