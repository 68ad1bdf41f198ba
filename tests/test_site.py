"""A small book: its pages as they stand, its pages in a browser, and what a change of the table of
contents does."""

import importlib.util
import io
import re
import shutil
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from seqlib import claims, study
from tests import site
from tests.conftest import ROOT

IDS = [id_ for name in study.names() for id_ in claims.read(name).claims]
PAGES = ["intro", "studies/airline", "claims", "methods", "extend"]
# The rows that show, as texts; the table without scripts is hidden.
COLUMN = """(name) => {
    const table = [...document.querySelectorAll("table.dataTable")].find(
        table => [...table.tHead.querySelectorAll("th")].some(th => th.innerText.trim() === name));
    const at = [...table.tHead.querySelectorAll("th")].findIndex(
        th => th.innerText.trim() === name);
    return [...table.tBodies[0].rows].map(row => row.cells[at].innerText.trim());
}"""
LIGHT = """(element) => {
    const [r, g, b, a] = getComputedStyle(element)[%r].match(/[0-9.]+/g).map(Number);
    return (r + g + b) / 765;
}"""


def soups(root):
    return {path.relative_to(root / "_build" / "html").as_posix():
            BeautifulSoup(path.read_text(), "html.parser")
            for path in sorted((root / "_build" / "html").rglob("*.html"))
            if "_static" not in path.parts and path.name != "index.html"}


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """A checkout with a small book, built."""
    return site.make(tmp_path_factory.mktemp("small") / "book")


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


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; where it or playwright is absent, what needs it is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Debian's chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Reader:
    """A page that notes what goes wrong."""

    def __init__(self, browser, root, **settings):
        self.root = root / "_build" / "html"
        self.page = browser.new_context(**settings).new_page()
        self.wrong = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self.note)
        self.page.on("request", self.ask)

    def note(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def ask(self, request):
        inside = (self.root.as_uri(), "data:", "blob:")
        if not request.url.startswith(inside):
            self.wrong.append(request.url)

    def open(self, name):
        self.page.goto(f"{self.root.as_uri()}/book/{name}.html")
        return self.page


@pytest.fixture
def reader(browser, small_book):
    readers = []

    def start(**settings):
        readers.append(Reader(browser, small_book, **settings))
        return readers[-1]

    yield start
    for started in readers:
        started.page.context.close()


def column(page, name):
    page.wait_for_selector("table.dataTable")
    return page.evaluate(COLUMN, name)


def press(page, heading):
    page.get_by_role("columnheader", name=heading).get_by_text(heading).first.click()


def shows(page, name, texts):
    """Wait until a column has these texts: a table sorts some time after the click."""
    page.wait_for_selector("table.dataTable")
    page.wait_for_function(f"([name, texts]) => String(({COLUMN})(name)) === String(texts)",
                           arg=[name, texts], timeout=5000)


def test_no_page_reports_an_error_or_asks_for_anything_from_elsewhere(reader):
    own = reader()
    for name in PAGES:
        page = own.open(name)
        page.wait_for_load_state("networkidle")
        if name in ("studies/airline", "claims"):
            page.wait_for_selector("table.dataTable")
        assert not own.wrong, name


def test_a_click_on_the_words_of_a_heading_sorts_by_number(reader):
    page = reader().open("studies/airline")
    shows(page, "MAE", ["9.5", "10.2", "8,000", ""])
    press(page, "MAE")
    shows(page, "MAE", ["", "9.5", "10.2", "8,000"])
    press(page, "95% interval")
    shows(page, "95% interval", ["", "[-2, 9,000]", "[9.0, 9.9]", "[10.1, 10.4]"])
    press(page, "seconds")
    shows(page, "seconds", ["2", "9.5", "10.2", "8,000"])
    press(page, "seconds")
    shows(page, "seconds", ["8,000", "10.2", "9.5", "2"])


def test_the_table_of_the_claims_sorts_and_is_searched(reader):
    page = reader().open("claims")
    for name in ("seeds", "p (Holm)"):
        texts = column(page, name)
        ordered = sorted(texts, key=float)
        assert texts != ordered
        press(page, name)
        shows(page, name, ordered)
    page.locator(".dt-search input").first.fill("S04")
    shows(page, "claim", ["S04"])


def test_a_claim_of_a_study_leads_to_its_section(reader):
    page = reader().open("studies/airline")
    page.wait_for_selector("table.dataTable")
    page.get_by_role("link", name="A04").click()
    page.wait_for_url("**/claims.html#A04")
    heading = page.get_by_role("heading", name="A04")
    page.wait_for_selector("table.dataTable")  # which moves what stands below it
    assert 0 <= heading.bounding_box()["y"] < 720


def test_without_scripts_the_tables_are_there(reader):
    page = reader(java_script_enabled=False).open("studies/airline")
    assert page.get_by_role("cell", name="[-2, 9,000]").is_visible()
    assert "trust" not in page.locator("article").inner_text().lower()
    assert not any(line.is_visible() for line in page.get_by_text("Loading").all())


def test_the_search_finds_a_word(reader):
    page = reader().open("../search")
    page.goto(f"{page.url}?q=xylophone")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_inner_texts()
    assert found and "Airline passengers" in found[0]


def test_the_theme_changes_on_a_click_and_stays(reader):
    own = reader(color_scheme="light")
    page = own.open("studies/airline")
    themes = []
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        themes.append(page.evaluate("document.documentElement.dataset.theme"))
    assert {"light", "dark"} == set(themes)
    mode = page.evaluate("document.documentElement.dataset.mode")
    assert own.open("methods").evaluate("document.documentElement.dataset.mode") == mode


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_the_page_without_moving_it_sideways(name, reader):
    page = reader(viewport={"width": 390, "height": 800}).open(name)
    if name in ("studies/airline", "claims"):
        page.wait_for_selector("table.dataTable")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for image in page.locator("figure img").all():
        assert image.bounding_box()["width"] >= 560
    for figure in page.locator("figure").all():
        assert figure.bounding_box()["width"] < 390


def test_a_dark_page_is_printed_light_with_axes_that_can_be_read(reader):
    page = reader(color_scheme="dark").open("studies/airline")
    page.wait_for_selector("table.dataTable")
    assert page.locator("body").evaluate(LIGHT % "backgroundColor") < 0.3
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("body").evaluate(LIGHT % "backgroundColor") > 0.9
    for words in ("h1", "figcaption", "table.dataTable td"):
        assert page.locator(words).first.evaluate(LIGHT % "color") < 0.4, words
    shot = Image.open(io.BytesIO(page.locator("figure img").screenshot())).convert("L")
    left = shot.crop((0, 0, shot.width // 12, shot.height))  # the axis and its labels
    assert left.getextrema()[0] < 80 and left.getextrema()[1] > 245
    page.emulate_media(media="screen", color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'", timeout=5000)


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
