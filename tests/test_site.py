"""The built pages as they stand, without a browser: anchors, links, what each page loads, and what
a change of the table of contents does. The book is a small one."""

import importlib.util
import re
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from seqlib import claims, study
from tests import site
from tests.conftest import ROOT

IDS = [id_ for name in study.names() for id_ in claims.read(name).claims]


def soups(root):
    return {path.relative_to(root / "_build" / "html").as_posix():
            BeautifulSoup(path.read_text(), "html.parser")
            for path in sorted((root / "_build" / "html").rglob("*.html"))
            if "_static" not in path.parts and path.name != "index.html"}


@pytest.fixture(scope="module")
def pages(small_book):
    return soups(small_book)


def test_every_claim_has_an_anchor_of_its_id_alone_and_the_contents_list_them_all(pages):
    page = pages["book/claims.html"]
    assert all(page.find(id=id_) for id_ in IDS)
    listed = [a.text for p in page.find_all("p") for a in p.find_all("a", href=re.compile("^#"))]
    assert [text for text in listed if text in IDS] == IDS
    anchors = {element["id"].lower() for element in page.find_all(id=True)}
    assert not [anchor for anchor in anchors if re.match(r"[a-z]\d\d-", anchor)], "with a verdict"


def test_the_claims_of_a_study_lead_to_their_page(pages):
    links = [a["href"] for a in pages["book/studies/airline.html"].select("table a")]
    assert links == [f"../claims.html#{id_}" for id_ in IDS if id_.startswith("A")]


def test_tables_stand_in_the_page_without_scripts_and_without_a_word_on_trust(pages):
    for soup in pages.values():
        assert "trusted" not in str(soup).lower()
    [errors, verdicts] = pages["book/studies/airline.html"].select("div[id$=_fallback] table")
    rows = [[cell.text for cell in row.find_all("td")] for row in errors.select("tbody tr")]
    assert rows[2] == ["rope", "8,000", "[-2, 9,000]", "8,000"]
    assert len(verdicts.select("tbody tr")) == 13


def test_a_page_loads_mathjax_only_for_mathematics_and_nothing_from_elsewhere(pages):
    for name, soup in pages.items():
        scripts = [script.get("src", "") for script in soup.find_all("script")]
        assert any("mathjax" in source for source in scripts) == bool(soup.select(".math")), name
        assert not [source for source in scripts if "//" in source], name
        assert "thebe" not in str(soup).lower(), name
    assert pages["book/studies/airline.html"].select(".math")
    assert not pages["book/intro.html"].select(".math")


def test_without_an_address_files_of_the_repository_are_in_the_site(small_book, pages):
    html = small_book / "_build" / "html" / "book"
    links = [a["href"] for a in pages["book/intro.html"].select("a.download")]
    names = [link.rpartition("/")[2] for link in links]
    assert names == ["README.md", *["claims.yaml"] * 5, "CITATION.cff"]
    assert all((html / link).exists() for link in links)
    assert not [a for a in pages["book/intro.html"].select("article a[href]")
                if "//" in a["href"]]


@pytest.mark.parametrize("text, target", [
    ("the README <README.md>", "/blob/main/README.md"), ("results/", "/blob/main/results/"),
    ("the repository <.>", "")])
def test_with_an_address_links_lead_to_the_repository(text, target):
    path = ROOT / "book" / "_ext" / "whole_book.py"
    found = importlib.util.spec_from_file_location("whole_book", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    address = "https://example.org/sequences"
    options = {"repository_url": address, "repository_branch": "main"}
    env = SimpleNamespace(config=SimpleNamespace(html_theme_options=options), srcdir=ROOT)
    settings = SimpleNamespace(env=env)
    role = module.InRepository()
    role.text = text
    role.inliner = SimpleNamespace(document=SimpleNamespace(settings=settings))
    [link], _ = role.run()
    assert link["refuri"] == address + target and link.astext() == text.partition(" <")[0]


def test_every_page_follows_contents_and_titles_and_an_unchanged_book_is_not_written(small_book):
    html = small_book / "_build" / "html" / "book"
    before = {path: path.stat().st_mtime_ns for path in html.rglob("*.html")}
    assert "no targets are out of date" in site.build(small_book)
    assert before == {path: path.stat().st_mtime_ns for path in html.rglob("*.html")}
    last = "  - file: book/extend\n"
    toc = site.TOC.replace(last, f"{last}    title: Your own study\n")
    (small_book / "_toc.yml").write_text(toc)
    site.build(small_book)
    sidebars = {name: soup.select_one(".bd-sidebar-primary").text
                for name, soup in soups(small_book).items()}
    assert [name for name, text in sidebars.items() if "Your own study" not in text] == []
    assert not [name for name, text in sidebars.items() if "Extend it" in text]
    methods = small_book / "book" / "methods.md"
    methods.write_text(methods.read_text().replace("# Methods", "# How it was done", 1))
    site.build(small_book)
    assert all("How it was done" in soup.select_one(".bd-sidebar-primary").text
               for soup in soups(small_book).values())
