"""Runs of notebooks: what is kept, what is refused, what a page is made of, and what happens when a
notebook, its clock or its kernel dies."""

import shutil
import signal
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from seqlib import cli, pages
from seqlib.errors import UsageError
from seqlib.store import scratch
from tests.conftest import Checkout

HEADLINE = """from IPython.display import Markdown, display
display(Markdown("Ten seeds say so."))"""


def notebook(*sources):
    first = new_code_cell("seeds = 1  # paired seeds\nlr = 1e-3  # learning rate",
                          metadata={"tags": ["parameters"]})
    answer = new_code_cell(HEADLINE, metadata={"tags": ["headline"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [first, answer, *map(new_code_cell, sources)]
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def shortened(checkout):
    """The checkout with notebooks of a few cells and without an archive."""
    for name in ("airline", "claims", "speed"):
        nbformat.write(notebook("1 + 1"), checkout.root / "notebooks" / f"{name}.ipynb")
    (checkout.root / "results").unlink()
    (checkout.root / "results").mkdir()
    return checkout


@pytest.fixture
def small(checkout):
    return shortened(checkout)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The folder of such a checkout after its first run."""
    root = tmp_path_factory.mktemp("made") / "checkout"
    made = shortened(Checkout(root))
    code, out, err = run(made)
    assert code == 0 and "executed" in out, err
    return root


@pytest.fixture
def made(checkout, first_run):
    """A copy of it."""
    shutil.rmtree(checkout.root)
    shutil.copytree(first_run, checkout.root, symlinks=True)
    return checkout


def page_of(checkout):
    return checkout.root / "book" / "studies" / "airline.ipynb"


def run(checkout, *arguments):
    return checkout.seqlib("run", "airline", "--profile", "smoke", *arguments)


def sleeping(checkout, **how):
    """Start a run whose kernel sleeps; the process, and the file with the kernel's number."""
    mark = checkout.root / "pid"
    source = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(source), checkout.root / "notebooks" / "airline.ipynb")
    process = checkout.start("run", "airline", **how)
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process, mark


def alive(mark):
    """Whether the process whose number stands in `mark` still runs (a killed one may wait to be
    collected)."""
    try:
        return psutil.Process(int(mark.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_unchanged_page_is_kept_and_a_changed_input_makes_it_again(made):
    small, page = made, page_of(made)
    answer = (small.root / "book" / "answer.md").read_text()
    assert "| [Airline passengers](studies/airline) | Ten seeds say so. |" in answer
    before = page.stat().st_mtime_ns
    code, out, _ = run(small)
    assert code == 0 and "up to date" in out and page.stat().st_mtime_ns == before
    code, out, _ = run(small, "--set", "seeds=3")
    assert code == 0 and "executed" in out and page.stat().st_mtime_ns != before
    injected = [cell for cell in nbformat.read(page, 4).cells
                if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "seeds = 3" in injected[0].source and "hide-input" in injected[0].metadata.tags
    nbformat.write(notebook("3 + 3"), small.root / "notebooks" / "airline.ipynb")
    assert "executed" in run(small, "--set", "seeds=3")[1]
    accepted = small.root / "results" / "airline" / "accepted.json"
    accepted.parent.mkdir()
    accepted.write_text('{"codes": {}, "evidence": []}')
    assert "executed" in run(small, "--set", "seeds=3")[1]
    assert not list((small.root / "runs" / "pages").iterdir()), "work folders are left"


def why(checkout, *arguments):
    code, out, err = run(checkout, "--why", *arguments)
    assert code == 0, err
    return out


def test_why_names_every_kind_of_change_and_executes_nothing(made, tmp_path):
    page, before = page_of(made), page_of(made).read_bytes()
    assert why(made) == "airline: up to date\nclaims: up to date\nspeed: up to date\n"
    nbformat.write(notebook("3 + 3"), made.root / "notebooks" / "airline.ipynb")
    folder = made.root / "results" / "airline"
    folder.mkdir()
    (folder / "accepted.json").write_text("{}")
    out = why(made, "--set", "seeds=3")
    mine, others = out.split("claims: ")
    claims, speed = others.split("speed: ")
    assert speed == "up to date\n"
    assert mine.splitlines()[:3] == ["airline: would be made", "  notebook: airline.ipynb",
                                     "  parameter: seeds 1 -> 3"]
    assert "  records: 1 new, 0 changed, 0 gone" in mine and "1 new" in claims
    assert "notebook" not in claims
    assert page.read_bytes() == before, "something was executed"


def test_a_page_without_its_list_and_one_that_was_never_made_are_told_apart(made, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", made.root)
    monkeypatch.setenv("SEQLIB_RESULTS", str(made.root / "results"))
    [page], [other] = (pages.plan(["airline"], "smoke", more) for more in ([], ["seeds=3"]))
    assert page.why() == [] and other.why() == ["parameter: seeds 1 -> 3"]
    page.made_of.unlink()
    assert page.why() == [] and ".airline.inputs beside the page is missing" in other.why()[0]
    page_of(made).unlink()
    assert page.why() == ["never made"]


def test_changes_are_named_by_file_version_and_number(made, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", made.root)
    page = pages.Page("airline", {})
    now = page.inputs()
    files = {name: "0" * 16 for name in list(now["code"])[:12]}
    was = {**now, "code": {**now["code"], **files, "seqlib/gone.py": "1"},
           "package": {**now["package"], "torch": "1.0"}, "data": {"SEQLIB_DATA": "/there"},
           "record": {"airline/a.json": "1"}}
    del was["package"]["numpy"]
    made_page = nbformat.read(page.output, 4)
    made_page.metadata["seqlib"] = {"inputs": pages.digest(was)}
    nbformat.write(made_page, page.output)
    page.made_of.write_text(pages.json.dumps(was))
    code, records, packages, data = page.why()
    assert code.startswith("code: seqlib/") and code.endswith("and 5 more")
    assert records == f"records: {len(now['record'])} new, 0 changed, 1 gone"
    assert f"torch 1.0 -> {now['package']['torch']}" in packages
    assert f"numpy not set -> {now['package']['numpy']}" in packages
    assert data.startswith("data: SEQLIB_DATA /there -> ")
    assert page.output.exists() and page.why() == page.why()


def test_force_makes_a_page_that_is_up_to_date(made):
    before = page_of(made).stat().st_mtime_ns
    code, out, err = run(made, "--force")
    assert code == 0 and "executed" in out and page_of(made).stat().st_mtime_ns != before, err


def test_an_output_folder_takes_the_notebook_as_executed_and_leaves_the_book_alone(small):
    for rate in ("1e-3", "1e-4"):
        code, _, err = run(small, "--set", f"lr={rate}", "--output", str(small.root / rate))
        assert code == 0, err
        assert f"lr = {float(rate)}" in (small.root / rate / "airline.ipynb").read_text()
    assert not page_of(small).exists() and not (small.root / "book" / "answer.md").exists()


@pytest.mark.parametrize("source, told", [
    ("raise ValueError('on purpose')", "ValueError: on purpose"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError"),
])
def test_a_failure_keeps_the_previous_page_and_shows_the_cell(made, source, told):
    before = page_of(made).read_bytes()
    failing = notebook("1 + 1", source, "'never reached'")
    nbformat.write(failing, made.root / "notebooks" / "airline.ipynb")
    code, _, err = run(made)
    assert code == 1 and told in err and "code cell 4" in err and "Traceback" not in err
    assert "previous page is unchanged" in err and "never reached" not in err
    [kept] = (made.root / "runs" / "pages").glob("airline-*/airline.ipynb")
    assert str(kept) in err and page_of(made).read_bytes() == before
    assert run(made)[0] == 1, "a failed page must not pass for an up-to-date one"


def test_a_timeout_ends_the_kernel_and_keeps_the_previous_page(made):
    before, mark = page_of(made).read_bytes(), made.root / "pid"
    source = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(source), made.root / "notebooks" / "airline.ipynb")
    code, _, err = run(made, "--timeout", "12")
    assert code == 1 and "no result after 12 s" in err and "time.sleep(600)" in err
    assert page_of(made).read_bytes() == before
    assert not alive(mark), "the kernel is still running"


def test_what_the_user_has_at_start_up_is_not_run_in_a_batch_kernel(small, tmp_path):
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    (folder / "00-names.py").write_text("x = 3")
    (folder / "01-raises.py").write_text("raise RuntimeError('at start-up')")
    (tmp_path / "startup.py").write_text("x = 4")
    check = "import os\nassert 'x' not in globals()\nprint(os.environ['IPYTHONDIR'])"
    nbformat.write(notebook(check), small.root / "notebooks" / "airline.ipynb")
    code, _, err = small.seqlib("run", "airline", "--profile", "smoke",
                                IPYTHONDIR=tmp_path / "ipython",
                                PYTHONSTARTUP=tmp_path / "startup.py")
    assert code == 0, err
    text = page_of(small).read_text()
    assert str(small.root / "runs" / "pages") in text and "at start-up" not in text


@pytest.mark.parametrize("number, expected", [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_whatever_ends_a_run_ends_its_kernel_and_leaves_no_page(small, number, expected):
    """A hangup does not, under nohup."""
    process, mark = sleeping(small, nohup=number == signal.SIGTERM)
    if number == signal.SIGTERM:
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert process.poll() is None and alive(mark)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == expected and "Traceback" not in err and (
        number == signal.SIGHUP or "SIGHUP" not in err)
    deadline = time.monotonic() + 10  # after SIGKILL the kernel has to notice
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(mark) and not page_of(small).exists()
    if number != signal.SIGKILL:
        assert not list((small.root / "runs" / "pages").iterdir())


def test_nothing_starts_when_a_parameter_is_wrong(capsys):
    for arguments, told in ((["--set", "seeds=-3"], "seeds"), (["--profile", "full"], "sweep"),
                            (["--set", "sedes=3"], "did you mean 'seeds'?"),
                            (["--set", "epochs=true"], "epochs")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "airline", "--profile", "smoke", *arguments])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and told in err and len(err.strip().splitlines()) == 1
    assert not scratch().exists()


@pytest.mark.parametrize("text, value", [
    ("seeds=3", 3), ("lr=1e-3", 1e-3), ("fair=true", True), ("arms=[lstm, rope]", ["lstm", "rope"]),
    ("lr={full: 1e-4, lora: 1e-3}", {"full": 1e-4, "lora": 1e-3}), ("code=010", 10),
    ("book_path=/tmp/My #1 book.txt", "/tmp/My #1 book.txt"), ("corpus=no", "no"),
    ("corpus='3'", "3"), ("book_path=*.txt", "*.txt"), ("book_path=", ""), ("text=a: b", "a: b"),
    ("day=2020-01-01", "2020-01-01"), ("text=a=b", "a=b")])
def test_settings_are_yaml_where_that_is_meant_and_text_elsewhere(text, value):
    assert pages.parse_setting(text) == (text.partition("=")[0], value)


@pytest.mark.parametrize("text", ["seeds", "=3", "arms=[lstm"])
def test_a_setting_that_cannot_be_read_is_named(text):
    with pytest.raises(UsageError, match="--set"):
        pages.parse_setting(text)


def test_a_path_is_that_of_where_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "my book.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    whole = ("book_path", str(tmp_path / "my book.txt"))
    assert pages.parse_setting("book_path=my book.txt") == whole
    assert pages.parse_setting("book_path=~/my book.txt") == whole
    assert pages.parse_setting("text=file") == ("text", "file")


def test_the_smoke_profile_takes_what_the_notebook_has_of_the_plan():
    known = {"arms": ["lstm"], "seeds": 10, "epochs": 150}
    values = pages.smoke("airline", known)
    assert set(values) == set(known) and isinstance(values["arms"], list)
    assert values["seeds"] * values["epochs"] < 10


def shown(mime, data, **metadata):
    return new_output("display_data", data={mime: data}, metadata=metadata)


def figure_outputs(name):
    about = {"image/svg+xml": {"name": name, "alt": "dots"}}
    return [shown("image/svg+xml", f"<svg>{name}</svg>", **about),
            shown("text/markdown", "The finding.", seqlib={"caption": name}),
            shown("text/html", "<a>data</a>", seqlib={"data": name})]


def test_every_figure_is_a_cell_of_its_own_with_caption_alt_text_and_data():
    words = shown("text/markdown", "Words.")
    cell = new_code_cell("draw()", execution_count=1, metadata={"tags": ["hide-input"]},
                         outputs=[words, *figure_outputs("one"), *figure_outputs("two"), words])
    made = pages.as_page(new_notebook(cells=[cell])).cells
    assert [c.source for c in made] == ["draw()", "", "", ""]
    assert [len(c.outputs) for c in made] == [1, 1, 1, 1] and len({c.id for c in made}) == 4
    assert made[0].metadata.tags == ["hide-input"] and made[1].metadata.tags == ["remove-input"]
    assert made[2].metadata.mystnb == {
        "image": {"alt": "dots"},
        "figure": {"name": "two", "caption": "The finding.\n\n<a>data</a>"}}
    assert "mystnb" not in made[0].metadata and "mystnb" not in made[3].metadata


def test_a_cell_with_one_figure_stays_one_cell():
    cell = new_code_cell("draw()", outputs=figure_outputs("one"))
    [made] = pages.as_page(new_notebook(cells=[cell])).cells
    assert made.source == "draw()" and made.metadata.mystnb.figure.name == "one"


def test_links_to_claims_lead_from_a_notebook_to_the_page_of_the_site():
    link = '<a href="claims.ipynb#A04">A04</a>'
    cell = new_code_cell("show.verdicts('airline')", outputs=[shown("text/html", link)])
    [made] = pages.as_page(new_notebook(cells=[cell])).cells
    assert made.outputs[0].data["text/html"] == '<a href="../claims.html#A04">A04</a>'
