"""Papermill runs: what is kept, what is refused, what happens when a notebook, its clock or its kernel dies."""

import signal
import time

import nbformat
import psutil
import pytest


def notebook(*sources):
    first = nbformat.v4.new_code_cell("seeds = 1", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [first, *map(nbformat.v4.new_code_cell, sources)]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def small(checkout):
    """A checkout whose notebooks are a few cells long."""
    nbformat.write(notebook("1 + 1"), checkout.root / "notebooks" / "airline.ipynb")
    nbformat.write(notebook("2 + 2"), checkout.root / "notebooks" / "claims.ipynb")
    whole = checkout.root / "results"
    archive = whole.resolve()
    whole.unlink()
    whole.mkdir()
    (whole / "gpt2").symlink_to(archive / "gpt2")  # a small one: verdicts of the others take seconds
    return checkout


def alive(mark):
    """Whether the process whose number stands in `mark` still runs (a killed one may wait to be collected)."""
    try:
        return psutil.Process(int(mark.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(checkout, *arguments):
    return checkout.seqlib("run", "airline", "--profile", "smoke", *arguments)


def test_an_unchanged_page_is_kept_and_a_changed_input_makes_it_again(small):
    page = small.root / "book" / "studies" / "airline.ipynb"
    code, out, err = run(small)
    assert code == 0, err
    answer = (small.root / "book" / "answer.md").read_text()
    assert out.count("executed") == 2 and "| [GPT-2 on a text file](studies/gpt2) | Full fine-tuning over LoRA" in answer
    assert "| [Airline passengers](studies/airline) | The archive is not complete. |" in answer
    before = page.stat().st_mtime_ns
    code, out, _ = run(small)
    assert code == 0 and out.count("up to date") == 2 and page.stat().st_mtime_ns == before
    code, out, _ = run(small, "--set", "seeds=3")
    assert code == 0 and out.count("executed") == 1 and page.stat().st_mtime_ns != before
    injected = [c for c in nbformat.read(page, 4).cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert "seeds = 3" in injected[0].source
    nbformat.write(notebook("3 + 3"), small.root / "notebooks" / "airline.ipynb")
    assert run(small, "--set", "seeds=3")[1].count("executed") == 1


@pytest.mark.parametrize("source, told", [
    ("raise ValueError('on purpose')", "ValueError: on purpose"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError"),
])
def test_a_failure_keeps_the_previous_page_and_shows_the_cell(small, source, told):
    assert run(small)[0] == 0
    page = small.root / "book" / "studies" / "airline.ipynb"
    before = page.read_bytes()
    nbformat.write(notebook("1 + 1", source, "'never reached'"), small.root / "notebooks" / "airline.ipynb")
    code, _, err = run(small)
    assert code == 1 and told in err and "code cell 3" in err and "previous page is unchanged" in err
    assert "Traceback" not in err and "never reached" not in err
    assert page.read_bytes() == before
    assert run(small)[0] == 1, "a failed page must not pass for an up-to-date one"


def test_a_timeout_ends_the_kernel_and_keeps_the_previous_page(small):
    assert run(small)[0] == 0
    before = (small.root / "book" / "studies" / "airline.ipynb").read_bytes()
    mark = small.root / "pid"
    source = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(source), small.root / "notebooks" / "airline.ipynb")
    code, _, err = run(small, "--timeout", "12")
    assert code == 1 and "no result after 12 s" in err and "time.sleep(600)" in err
    assert (small.root / "book" / "studies" / "airline.ipynb").read_bytes() == before
    assert not alive(mark), "the kernel is still running"


def test_ctrl_c_ends_the_kernel_at_once_and_keeps_the_previous_page(small):
    mark = small.root / "pid"
    source = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(source), small.root / "notebooks" / "airline.ipynb")
    process = small.start("run", "airline", "--profile", "smoke")
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 130 and "Traceback" not in err
    assert not alive(mark) and not (small.root / "book" / "studies" / "airline.ipynb").exists()


def test_nothing_starts_when_a_parameter_is_wrong(small):
    code, _, err = run(small, "--set", "seeds=-3")
    assert code == 2 and "seeds" in err and not (small.root / "runs").exists()
