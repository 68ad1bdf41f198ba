"""The book, built from smoke runs: no warning, no dead link, no picture without words."""

import json
import os
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from seqlib import study
from tests import agreement
from tests.conftest import Checkout
from tests.site import build
from tests.test_notebooks import check_outputs


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, runs):
    """A checkout with the pages of all notebooks, on the whole archive."""
    made = Checkout(tmp_path_factory.mktemp("site") / "checkout")
    code, _, err = made.seqlib("run", "--profile", "smoke", "--workers", "2", SEQLIB_RUNS=runs)
    assert code == 0, err
    return made.root


@pytest.fixture(scope="module")
def site(checkout):
    build(checkout)
    return checkout / "_build" / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: BeautifulSoup(path.read_text(), "html.parser")
            for path in (site / "book").rglob("*.html")}


def test_the_pages_of_the_table_of_contents_are_there(site, pages):
    names = {path.relative_to(site / "book").as_posix() for path in pages}
    assert names >= {"intro.html", "methods.html", "claims.html",
                     *(f"studies/{name}.html" for name in study.names())}


def test_every_internal_link_and_picture_resolves(pages):
    broken, anchors = [], {}
    for path, soup in pages.items():
        anchors[path] = {element.get("id") for element in soup.find_all(id=True)}
    for path, soup in pages.items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
            for element in soup.find_all(tag, **{attribute: True}):
                url = urlsplit(element[attribute])
                if url.scheme or url.netloc:
                    continue
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                lost = url.fragment and tag == "a" and url.fragment not in anchors.get(
                    target, {url.fragment})
                if not target.exists() or lost:
                    broken.append((path.name, element[attribute]))
    assert not broken


def test_every_picture_has_words_and_every_figure_number_caption_anchor_and_data(pages):
    pictures = [image for soup in pages.values() for image in soup.find_all("img")]
    assert pictures and all(image.get("alt", "").strip() for image in pictures)
    figures = [figure for soup in pages.values() for figure in soup.select("figure")]
    assert len(figures) >= 3 * len(study.names())
    for figure in figures:
        caption = figure.figcaption
        assert figure["id"] and caption.select_one(".caption-number").text.startswith("Figure ")
        assert len(caption.select_one(".caption-text").text) > 40
        assert caption.select_one("a[download]")["href"].startswith("data:text/csv")


def test_markdown_that_cells_print_becomes_tables(pages):
    for path, soup in pages.items():
        assert not [p for p in soup.find_all("p") if p.get_text().lstrip().startswith("|")], path


@pytest.mark.parametrize("name", study.names())
def test_no_cell_failed_and_the_numbers_are_there(site, pages, name):
    soup = pages[site / "book" / "studies" / f"{name}.html"]
    for code in soup.select("div.highlight"):
        code.extract()
    text = soup.get_text()
    assert "Traceback" not in text and "nan" not in text.lower().split()
    for heading in ("Live run", "Archived result", "Verdicts", "What it means",
                    "What we did not settle", "Try it"):
        assert heading in text
    assert soup.select("table")


@pytest.fixture(scope="module")
def ledger(site):
    environment = {**os.environ, "SEQLIB_RESULTS": str(site.parents[1] / "results")}
    return json.loads(subprocess.check_output([sys.executable, "-m", "seqlib", "claims", "--json"],
                                              env=environment))


def test_what_the_pages_say_of_a_claim_is_what_the_ledger_has(site, pages, ledger):
    """Verdict words and numbers; and that each of them would be missed where it is another."""
    by_study = {name: [row for row in ledger if row["study"] == name] for name in study.names()}
    claims, front = pages[site / "book" / "claims.html"], pages[site / "book" / "intro.html"]
    checks = [(agreement.on_the_page_of_claims, claims, ledger),
              (agreement.in_a_table_of_verdicts, claims, ledger),
              (agreement.on_the_front_page, front, ledger)]
    for name, rows in by_study.items():
        soup = pages[site / "book" / "studies" / f"{name}.html"]
        checks += [(agreement.in_a_table_of_verdicts, soup, rows),
                   (agreement.in_sentences, soup, rows)]
    for check, soup, rows in checks:
        assert not list(check(soup, rows))
    turned = [{**row, "verdict": "equivalent", "ours": {k: v + 1 for k, v in row["ours"].items()}}
              for row in ledger]
    for check, soup, _ in checks[:3]:
        assert len(list(check(soup, turned))) >= len(study.names()), check.__name__
    missed = [said for check, soup, _ in checks if check is agreement.in_sentences
              for said in check(soup, turned)]
    assert len(missed) >= 10


@pytest.mark.parametrize("name", study.names())
def test_the_executed_notebook_shows_numbers_a_short_headline_and_no_warning(checkout, name):
    check_outputs(nbformat.read(checkout / "book" / "studies" / f"{name}.ipynb", 4).cells)
