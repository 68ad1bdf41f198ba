"""The book, built from smoke runs: no warning, no dead link, no picture without words."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tests.conftest import Checkout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site") / "checkout"
    code, out, err = Checkout(root).seqlib("run", "--profile", "smoke", "--workers", "2")
    assert code == 0, err
    command = [Path(sys.executable).with_name("jupyter-book"), "build", root, "-n", "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "_build" / "html"


def pages(site):
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in (site / "book").rglob("*.html")}


def test_the_pages_of_the_table_of_contents_are_there(site):
    assert {p.relative_to(site / "book").as_posix() for p in pages(site)} >= {
        "intro.html", "methods.html", "claims.html", "studies/airline.html", "studies/shakespeare.html",
        "studies/attention_search.html", "studies/ernie.html", "studies/gpt2.html"}


def test_every_internal_link_and_picture_resolves(site):
    broken = []
    for path, soup in pages(site).items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
            for element in soup.find_all(tag, **{attribute: True}):
                url = urlsplit(element[attribute])
                if url.scheme or url.netloc:
                    continue
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                if not target.exists() or (url.fragment and target.suffix == ".html" and tag == "a" and url.fragment not in {
                        e.get("id") for e in BeautifulSoup(target.read_text(), "html.parser").find_all(id=True)}):
                    broken.append((path.name, element[attribute]))
    assert not broken


def test_every_picture_has_words_and_every_figure_a_caption_with_its_data(site):
    pictures = [img for soup in pages(site).values() for img in soup.find_all("img")]
    assert len(pictures) >= 14 and all(img.get("alt", "").strip() for img in pictures)
    figures = [f for soup in pages(site).values() for f in soup.select("figure.seqlib")]
    assert len(figures) >= 7
    for f in figures:
        assert len(f.figcaption.get_text()) > 40 and f.figcaption.a["href"].startswith("data:text/csv")
        assert {c for img in f.find_all("img") for c in img["class"]} == {"only-light", "only-dark"}


def test_markdown_that_cells_print_becomes_tables(site):
    for path, soup in pages(site).items():
        assert not [p for p in soup.find_all("p") if p.get_text().lstrip().startswith("|")], path
    ledger = pages(site)[site / "book" / "claims.html"]
    assert len([t for t in ledger.find_all("table") if t.find("th", string="95% interval")]) >= 13


@pytest.mark.parametrize("name, last", [("airline", "A13"), ("shakespeare", "S11"), ("attention_search", "X10"),
                                         ("ernie", "E06"), ("gpt2", "G06")])
def test_no_cell_failed_and_the_numbers_are_there(site, name, last):
    soup = BeautifulSoup((site / "book" / "studies" / f"{name}.html").read_text(), "html.parser")
    text = soup.get_text()
    assert "Traceback" not in text and "nan" not in text.lower().split()
    for heading in ("What the seed document", "Setup", "Data", "Models", "Live run", "Archived result", "Verdicts",
                    "What it means", "What we did not settle", "Try it"):
        assert heading in text
    assert soup.select("table") and last in (site / "book" / "claims.html").read_text()
