"""The book in a browser: Chromium without a window, on a small book. Where Chromium or playwright
is absent these are skipped."""

import io
import shutil

import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

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


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
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
