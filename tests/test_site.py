import re
import shutil
from pathlib import Path

import pytest

from margincons.book.pages import toc_files
from margincons.book.site import SITE

ROOT = Path(__file__).parents[1]
HTML = ROOT / SITE
PAGES = [*toc_files(ROOT), "search", "genindex"]
PHONE, SCREEN = {"width": 390, "height": 844}, {"width": 1400, "height": 900}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Waits until formulas are drawn and images are decoded, those below the fold too.
SETTLE = """async () => {
    if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
    const images = [...document.images];
    images.forEach(image => image.loading = "eager");
    await Promise.all(images.map(image => image.decode().catch(() => null)));
}"""
BROKEN_IMAGES = """() => [...document.images]
    .filter(image => image.naturalWidth === 0 || !image.alt.trim() || /[.](png|svg|jpe?g)$/.test(image.alt))
    .map(image => `${image.getAttribute("src")} (${image.alt || "no alt text"})`)"""
UNDRAWN_FORMULAS = """() => [...document.querySelectorAll(".math")]
    .filter(formula => !formula.querySelector("mjx-container svg") || formula.querySelector("[data-mml-node=merror]"))
    .map(formula => formula.textContent)"""
# Inline formulas that leave the text to the right; tables scroll, and bring along what is in them.
CUT_FORMULAS = """() => [...document.querySelectorAll("article mjx-container:not([display])")]
    .filter(formula => !formula.closest("table"))
    .filter(formula => formula.getBoundingClientRect().right > innerWidth)
    .map(formula => formula.closest("p, li, dd").textContent)"""
BRIGHTNESS = """() => ["backgroundColor", "color"].map(property => {
    const shade = getComputedStyle(document.body)[property].match(/[0-9.]+/g).slice(0, 3);
    return shade.reduce((sum, channel) => sum + Number(channel), 0) / 3;
})"""


@pytest.fixture(scope="session")
def browser(absent):
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        absent("There is no Chromium on the PATH: run `apt-get install chromium`.")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, site):
    """Open a page of the site from disk, offline; every complaint and every request that leaves is kept."""
    contexts = []

    def open_page(name, *, query="", **options):
        context = browser.new_context(**{"viewport": SCREEN, "offline": True} | options)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        complain = page.complaints.append
        page.on("pageerror", lambda error: complain(f"error: {error}"))
        page.on("console", lambda line: complain(line.text) if line.type in ("error", "warning") else None)
        page.on("requestfailed", lambda request: complain(f"failed: {request.url}"))
        page.on("request", lambda request: complain(f"asked: {request.url}") if leaves(request) else None)
        path = site / f"{name}.html"
        assert path.is_file(), f"the table of contents names {name}, the site lacks it"
        page.goto(path.as_uri() + query)
        page.evaluate(SETTLE)
        return page

    def leaves(request):
        return not request.url.startswith(("file:", "data:", "blob:"))

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_without_a_network(visit, name):
    page = visit(name)
    assert page.complaints == []
    assert page.evaluate(BROKEN_IMAGES) == []
    assert page.evaluate(UNDRAWN_FORMULAS) == []
    assert page.locator("h1").count() >= 1


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_the_width_of_a_phone(visit, name):
    page = visit(name, viewport=PHONE, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(CUT_FORMULAS) == []


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_dark_in_dark_mode(visit, name):
    page = visit(name, color_scheme="dark")
    background, text = page.evaluate(BRIGHTNESS)
    assert background < 64
    assert text > 160


@pytest.mark.browser
@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_cheat_sheet_prints_on_two_pages_wherever_and_however_it_is_read(visit, paper, scheme):
    printed = visit("book/cheatsheet", color_scheme=scheme).pdf(format=paper)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2


@pytest.mark.browser
def test_the_index_leads_to_the_front_page(visit):
    page = visit("search")
    page.goto((HTML / "index.html").as_uri())
    page.wait_for_url(f"**/{PAGES[0]}.html")


@pytest.mark.browser
def test_the_search_finds_a_known_word(visit):
    page = visit("search", query="?q=margin")
    page.locator("#search-results ul.search li a").first.wait_for()
    assert page.complaints == []


def test_the_site_holds_what_a_host_and_a_licence_ask_for(site):
    assert (site / ".nojekyll").is_file()
    notice = (site / "_static" / "NOTICE.txt").read_text()
    assert "MathJax" in notice
    assert "Apache License, Version 2.0" in notice
    assert (site / "_static" / "mathjax" / "tex-svg-full.js").is_file()
