"""What a notebook shows: checked parameters, figures with their data, tables that sort, controls
that redraw."""

import base64
import io
import re
from types import SimpleNamespace

import ipywidgets as widgets
import itables
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from seqlib import show
from seqlib.errors import UsageError

VALUES = {"arms": ["lstm"], "seeds": 2, "epochs": 3}
CELL = 'arms = ["lstm"]  # arms\nseeds: int = 2  # seeds\nepochs = 3'
SETUP = "import seqlib\nshow.parameters(...)"


@pytest.fixture
def displayed(monkeypatch):
    """What `display` was given, in order: data and metadata."""
    found = []
    monkeypatch.setattr(show, "display",
                        lambda data, **more: found.append((data, more.get("metadata"))))
    return found


@pytest.mark.parametrize("values, told", [
    ({"sedes": 2}, "unknown parameter 'sedes'; did you mean 'seeds'"),
    ({"seeds": 0}, "seeds: wants a whole number from 1 to 1000, got 0"),
    ({"seeds": "two"}, "seeds"), ({"seeds": True}, "seeds"),
    ({"arms": "lstm"}, r"arms: wants a list of arms such as \[lstm, gru\], got 'lstm'"),
    ({"arms": []}, "arms"), ({"arms": ["lstn"]}, "did you mean 'lstm'"),
    ({"arms": [["gru"]]}, "arms"), ({"arms": ["gru", "gru"]}, "named twice"),
    ({"lr": 0.0}, "lr: .*greater than 0, got 0.0"), ({"lr": "fast"}, "lr"),
    ({"arms": "[lstm"}, "arms, line 1"),
    ({"lr": {"lstn": 1e-3}}, "arm in lr: 'lstn'"), ({"epochs": 2.5}, "epochs"),
    ({"protocol": "rollin"}, "protocol"), ({"seed": 3}, "unknown parameter 'seed'"),
])
def test_a_wrong_parameter_is_named_in_one_line(values, told):
    with pytest.raises(UsageError, match=told) as error:
        show.parameters("airline", **values)
    assert "\n" not in str(error.value)


def test_lists_and_numbers_that_arrive_as_texts_are_read_and_set(monkeypatch):
    """`papermill -p arms '["lstm"]'`, and `lr: {lstm: 1e-3}` in a parameter file."""
    shell = SimpleNamespace(user_ns={}, history_manager=SimpleNamespace(input_hist_raw=[]))
    monkeypatch.setattr(show, "get_ipython", lambda: shell)
    show.parameters("airline", arms='["lstm"]', seeds="3", lr={"lstm": "1e-3"}, epochs=2)
    assert shell.user_ns == {"arms": ["lstm"], "seeds": 3, "lr": {"lstm": 1e-3}}
    show.parameters("gpt2", text="file", book_path="2020")
    assert "book_path" not in shell.user_ns


def test_right_parameters_pass():
    show.parameters("airline", arms=["lstm", "rope-logdiff"], seeds=3, lr={"lstm": 1e-3}, batch=16,
                    protocol="rolling")


@pytest.mark.parametrize("cells, names", [
    ([CELL, SETUP], ["arms", "seeds", "epochs"]),
    ([CELL, "# Parameters\nsedes = 4", SETUP], ["arms", "seeds", "epochs", "sedes"]),
    ([CELL, "# Parameters\nsedes = 4", SETUP, CELL, SETUP], ["arms", "seeds", "epochs"]),
    ([CELL, "# Parameters\nsedes = 4", SETUP, "# Parameters\nseeds = 4", SETUP],
     ["arms", "seeds", "epochs", "seeds"]),
    ([CELL, SETUP, CELL.replace("seeds", "sedes"), SETUP], ["arms", "sedes", "epochs"]),
    ([CELL, SETUP, *["x = seeds + 1", "y = 2", "%matplotlib inline"] * 20, SETUP],
     ["arms", "seeds", "epochs"]),
    (["import seqlib"], []),
])
def test_the_names_of_the_latest_parameters_cell_are_found_in_the_kernels_history(cells, names):
    assert show.assigned(cells, VALUES) == names


def test_a_figure_is_shown_once_with_caption_and_data(displayed):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    data = pd.DataFrame({"arm": ["a"], "value": [1.5]})
    show.figure(fig, "airline-x", data=data, alt="A line.", caption="It rises.")
    (image, about), (caption, of_caption), (link, of_link) = displayed
    assert image["image/svg+xml"].startswith("<?xml") and image["text/plain"] == "Figure: A line."
    assert about == {"image/svg+xml": {"name": "airline-x", "alt": "A line."}}
    assert caption["text/markdown"] == "It rises."
    assert of_caption == {"seqlib": {"caption": "airline-x"}}
    assert of_link == {"seqlib": {"data": "airline-x"}} and not plt.get_fignums()
    encoded = re.search('base64,([^"]+)', link["text/html"])[1]
    assert pd.read_csv(io.BytesIO(base64.b64decode(encoded))).equals(data)


@pytest.fixture
def tabled(monkeypatch):
    """The frame and the settings that itables was given last."""
    found = {"ready": 0}

    def ready(**more):
        found["ready"] += 1

    monkeypatch.setattr(itables, "init_notebook_mode", ready)
    monkeypatch.setattr(itables, "to_html_datatable",
                        lambda frame, **more: found.update(frame=frame, **more) or "<table>")
    return found


def test_a_table_rounds_and_sorts_by_number_on_a_click_anywhere_on_a_heading(tabled, displayed):
    frame = pd.DataFrame({"arm": ["a", "<b>"], "n": [1500, 2], "x": [12345.678, np.nan],
                          "y": [1e-5, 0.12345], "ok": [True, None], "rank": [16, "full"]},
                         index=[5, 7])
    show.parameters("airline")
    show.table(frame, "Caption")
    show.table(frame, "Caption")
    assert tabled["ready"] == 1, "the script is a megabyte: once a page"
    rows = tabled["frame"].values.tolist()
    assert rows == [["a", "1,500", "12,346", "1e-05", "True", "16"],
                    ["&lt;b&gt;", "2", "", "0.123", "", "full"]]
    [numeric] = [column for column in tabled["columnDefs"] if "render" in column]
    assert numeric["targets"] == [1, 2, 3, 5] and numeric["type"] == "num"
    assert tabled["text_in_header_can_be_selected"] is False


def test_intervals_of_a_table_have_a_column_of_their_own(tabled, displayed):
    show.table(pd.DataFrame({
        "arm": ["a", "b"], "MAE [95% interval]": ["1,009.1 [998.0, 1,010.5]", ""],
        "F1 [items]": ["0.5 [-0.4, 0.6]", "0.4"], "loss": ["9.1 (8.0 to 9.5)", "3.2"]}), "Caption")
    frame = tabled["frame"]
    assert list(frame) == ["arm", "MAE", "95% interval", "F1", "items", "loss", "range"]
    assert frame.values.tolist() == [
        ["a", "1,009.1", "[998.0, 1,010.5]", "0.5", "[-0.4, 0.6]", "9.1", "8.0 to 9.5"],
        ["b", "", "", "0.4", "", "3.2", ""]]
    assert tabled["columnDefs"][-1]["targets"] == [1, 2, 3, 4, 5, 6]


def test_a_column_of_a_table_may_link(tabled, displayed):
    frame = pd.DataFrame({"claim": ["A04"], "says": ["x"]})
    show.table(frame, "Caption", links={"claim": "claims.ipynb#{}"})
    assert tabled["frame"].iloc[0].tolist() == ['<a href="claims.ipynb#A04">A04</a>', "x"]


def test_a_table_without_scripts_is_the_plain_one_and_begins_anew_in_each_notebook(displayed):
    show.begin()
    show.table(pd.DataFrame({"arm": ["a"], "x": [1.5]}), "Caption")
    text = displayed[-1][0]["text/html"]
    assert "<noscript" not in text and "itables.org" not in text and "<td" in text
    assert show._tables["ready"]
    show.begin()
    assert not show._tables["ready"]


def test_a_mean_has_its_interval_and_few_values_their_range():
    assert show.mean(pd.Series(dtype=float)) == "" and show.mean(pd.Series([1.25])) == "1.2"
    assert show.mean(pd.Series([1.0, 3.0, np.nan]), 0) == "2 (1 to 3)"
    assert re.fullmatch(r"4\.5 \[\d\.\d, \d\.\d\]", show.mean(pd.Series(range(10))))


def test_a_live_run_says_in_what_it_differs_from_the_archive():
    archive = pd.DataFrame({
        "study": "airline", "arm": ["lstm"] * 3, "seed": range(3), "epochs": 150, "batch": 16,
        "device": "cpu", "lr": 1e-3, "protocol": "published", "engine": "stacked",
        "weight_decay": 1e-5})
    assert "settings and seeds" in show.differs(archive, archive)
    told = show.differs(archive[:2].assign(epochs=2), archive)
    assert told == "The live run has epochs 2 instead of 150; 2 seeds an arm instead of 3."
    assert "no runs of these arms" in show.differs(archive.assign(arm="gru"), archive)


def test_an_empty_text_shows_nothing_and_an_empty_frame_says_how_to_fill_it(displayed):
    show.md("  ")
    assert not displayed and show.have(pd.DataFrame({"a": [1]}))
    assert not show.have(pd.DataFrame(), "airline", "loop")
    assert "`seqlib sweep airline loop`" in displayed[0][0].data


def test_the_source_of_a_function_is_shown(displayed):
    show.source(show.svg)
    assert "`seqlib/show.py`" in displayed[0][0].data and "def svg(" in displayed[0][0].data


def test_a_changed_control_draws_anew_and_a_refusal_is_shown(displayed):
    controls = {"count": widgets.IntSlider(1, 0, 9), "name": widgets.Text("a")}

    def draw(count, name):
        if not name:
            raise UsageError("the name is empty; <type> one")
        return name * count

    show.interactive(controls, draw)
    [(box, _)] = displayed
    *own, below = box.children
    assert own == list(controls.values())
    controls["count"].value = 3
    assert below.value == "aaa"
    controls["name"].value = ""
    assert below.value == "the name is empty; &lt;type&gt; one"
    assert not [widget for widget in box.children if isinstance(widget, widgets.Output)]
