"""JupyterLab in a browser, as `make lab` starts it: a notebook is run, changed and run again in one
kernel. Where Chromium or playwright is absent this is skipped."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from tests.conftest import ROOT
from tests.test_notebooks import tagged

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

SETTINGS = {  # every cell is in the page, also those far below; no question about news
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}
# The numbers before the code cells, once all have run since `after` and the kernel rests.
DONE = """(after) => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
    const kernel = document.querySelector(".jp-Notebook-ExecutionIndicator");
    const numbers = prompts.map(prompt => Number(prompt.innerText.replace(/[^0-9*]/g, "") || NaN));
    return kernel?.dataset.status === "idle" && numbers.every(number => number > after)
        && numbers.length && numbers;
}"""
ERRORS = ('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"], '
          '.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]')


@pytest.fixture
def folder(tmp_path):
    """A copy of the notebooks; that of the airline study has small parameters."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    path = tmp_path / "notebooks" / "airline.ipynb"
    notebook = nbformat.read(path, 4)
    [cell] = tagged(notebook.cells, "parameters")
    for old, new in (("seeds = 10", "seeds = 1"), ("epochs = 150", "epochs = 2")):
        assert old in cell.source
        cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)
    return path.parent


@pytest.fixture
def lab(folder, tmp_path):
    """The address of a JupyterLab on the notebooks, with folders of its own."""
    for name, values in SETTINGS.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
           "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime",
           "IPYTHONDIR": "ipython"}
    environment = {**os.environ, "SEQLIB_ROOT": str(ROOT), "SEQLIB_RESULTS": str(ROOT / "results"),
                   **{name: str(tmp_path / folder) for name, folder in own.items()}}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api", server, tmp_path / "lab.log")
        yield address
    finally:
        server.terminate()  # which ends its kernels
        server.wait(30)


def wait_for(address, server, log, seconds=60):
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)


@pytest.fixture
def page(lab):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)  # of one step, on cores that others use too
        page.goto(f"{lab}/doc/tree/airline.ipynb")
        page.get_by_text("(ipykernel) | Idle").wait_for()  # before it is, `Run` asks for a kernel
        yield page
        browser.close()


def run_all(page):
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def finished(page, after=0):
    """Wait until every code cell has run, without an error; the highest number before a cell."""
    page.wait_for_function(f"after => ({DONE})(after) || document.querySelector('{ERRORS}')",
                           arg=after)
    assert page.locator(ERRORS).all_inner_texts() == []
    return max(page.evaluate(DONE, after))


def change(page, old, new):
    """Change the parameters cell, the first."""
    cell = page.locator(".jp-CodeCell .cm-content").first
    source = cell.inner_text()
    assert old in source
    cell.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source.replace(old, new))
    assert new in cell.inner_text()


def live_table(page):
    """Arms of the live run's table."""
    table = page.locator("table.dataTable:visible", has_text="Live run: errors")
    table.first.wait_for()
    return {row.split("\t")[0] for row in table.locator("tbody tr").all_inner_texts()}


def test_a_notebook_runs_changes_and_runs_again_in_jupyterlab(page):
    arms = {"lstm", "gru", "rope", "sinusoidal", "learned"}
    run_all(page)
    last = finished(page)
    assert live_table(page) == arms
    figures = page.locator(".jp-OutputArea-output figure:visible, .jp-RenderedSVG:visible")
    assert figures.count() >= 3
    caption = page.locator("p", has_text="Live run. Validation loss after the last epoch")
    assert "gru" in caption.inner_text()

    change(page, '"gru", ', "")
    run_all(page)
    finished(page, last)
    assert live_table(page) == arms - {"gru"}
    assert "gru" not in caption.inner_text()

    change(page, "seeds =", "sedes =")
    run_all(page)
    page.wait_for_selector(ERRORS)
    [error] = page.locator(ERRORS).all_inner_texts()
    assert error.startswith("UsageError: unknown parameter 'sedes'; did you mean 'seeds'?")
    assert len(error.splitlines()) == 1
