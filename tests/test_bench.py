"""Rows of a bench, and the page that shows them."""

import json
import pkgutil
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from seqlib import bench
from seqlib.models.additive import additive_scores
from seqlib.models.experts import Experts
from seqlib.models.loss import blockwise_cross_entropy
from seqlib.models.streamed import streamed_cross_entropy

PAGE = Path(__file__).parents[1] / "notebooks" / "speed.ipynb"


def test_products_of_all_libraries_are_timed():
    rates = bench.product_gflops(32, 64, 16)
    assert {"torch", "numpy"} <= set(rates) <= {"torch", "numpy", "oneDNN"}
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="no oneDNN")
def test_what_is_timed_of_onednn_is_the_same_product():
    a, b = torch.randn(8, 5), torch.randn(7, 5)
    product = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    torch.testing.assert_close(product, a @ b.T)


def test_utilisation_is_the_share_of_the_fastest_library(monkeypatch):
    monkeypatch.setattr(bench, "product_gflops", lambda: {"torch": 2.0, "numpy": 1.0, "x": 4.0})
    calls = []
    row = bench.measure(bench.Case("a", lambda: calls.append("ours"), lambda: calls.append("its"),
                                   ours_units=2, flop=1e6))
    assert calls[:4] == ["ours", "its", "ours", "its"] and len(calls) == 2 + 2 * row["rounds"]
    assert (row["matmul_gflops"], row["limit_gflops"], row["limit"]) == (2.0, 4.0, "x")
    assert row["utilisation"] == pytest.approx(row["ours_gflops"] / 4, rel=0.01)
    assert row["processor"] and row["threads"] == torch.get_num_threads()


@pytest.fixture(scope="module")
def names():
    """What the cells of the page up to the measurement define."""
    found = {}
    for cell in nbformat.read(PAGE, 4).cells:
        if cell.cell_type == "code":  # of the set-up what it imports
            exec(cell.source.partition("show.begin()")[0], found)
        if cell.id == "ablations":
            return found


def test_the_plain_forms_of_the_page_compute_what_the_fast_paths_do(names):
    torch.manual_seed(0)
    experts = Experts(16, 24, E=4, k=2).double().eval()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    q, k, v = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
               for shape in ((2, 7, 5), (2, 7, 5), (5,)))
    rows, weight = (torch.randn(*shape, dtype=torch.float64) for shape in ((11, 5), (13, 5)))
    targets = torch.randint(13, (11,))
    for plain, fast in (
            (names["plain_scores"](q, k, v), additive_scores(q, k, v)),
            (names["plain_experts"](experts, x)[0], experts(x)[0]),
            (names["plain_sum"](rows, weight, targets),
             blockwise_cross_entropy(rows, weight, targets)),
            (names["plain_losses"](rows, weight, targets),
             streamed_cross_entropy(rows, weight, targets))):
        torch.testing.assert_close(plain, fast)


def test_each_path_is_taken_out_where_it_is_used(names):
    """What is patched exists, stands for something else, and is there again afterwards."""
    for files, make, target, plain in names["ABLATIONS"].values():
        assert all((PAGE.parents[1] / "seqlib" / file).exists() for file in files)
        assert f"{make.__name__}".replace("_", "-") in bench.benches()
        there = pkgutil.resolve_name(target)
        with patch(target, plain):
            assert pkgutil.resolve_name(target) is plain is not there
        assert pkgutil.resolve_name(target) is there


def speeds():
    """What the page's measurement keeps, of two machines, with times that nobody measured."""
    def row(name, **more):
        return {"name": name, "ours_s": 0.5, "reference_s": 1.0, "ratio": 2.0, "ours_gflops": 50.0,
                "limit_gflops": 100.0, "limit": "torch", "utilisation": 0.5, **more}

    benches = ("airline-lstm", "additive-step", "moe-layer", "search-step", "lora-step")
    scaling = [row(name, axis=axis, size=size) for axis in ("context", "width")
               for name in ("lstm", "airline-rope") for size in (32, 512)]
    scaling[-1] |= {"reference_s": None, "ratio": None}
    paths = ("additive scores", "mixture of experts", "blockwise loss", "streamed loss",
             "adapters and norms in one pass", "freed memory kept")
    products = {name: {"torch": 90.0, "numpy": 80.0} for name in ("square", "expert")}
    return [{"date": "2026-01-01", "machine": {"cpu": cpu}, "threads": 2, "bandwidth": 20.0,
             "benches": list(map(row, benches)), "scaling": scaling, "products": products,
             "paths": list(map(row, paths))}
            for cpu in ("A", "B")]


@pytest.mark.parametrize("measured", [True, False])
def test_the_page_of_speed_shows_what_was_measured_and_says_where_nothing_was(tmp_path, measured):
    if measured:
        (tmp_path / "speed.json").write_text(json.dumps(speeds()))
    cells = [cell.source for cell in nbformat.read(PAGE, 4).cells if cell.cell_type == "code"]
    set_up = f"import os\nos.environ['SEQLIB_RESULTS'] = {str(tmp_path)!r}"
    notebook = new_notebook(cells=list(map(new_code_cell, [set_up, *cells])))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output.data for cell in notebook.cells for output in cell.outputs
               if "data" in output]
    texts = "\n".join(data["text/markdown"] for data in outputs if "text/markdown" in data)
    assert sum("image/svg+xml" in data for data in outputs) == (2 if measured else 0)
    assert ("Nothing was measured here yet" in texts) != measured
    if measured:
        assert "1 times as long (lstm)" in texts and "| all seeds at once |" in texts
        assert "nan" not in texts
