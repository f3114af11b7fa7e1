"""`make docs`: the site builds without a warning, needs nothing from elsewhere, can be searched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from support.browser import launch_options
from support.documents import DOCS, ROOT
from support.patience import PATIENCE

LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src"}
"""What a page loads by itself, and where it says so."""

BRIGHTNESS = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"


class Loaded(HTMLParser):
    """The addresses of all that a page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a tag loads."""
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, where a warning is an error."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; a page of it is a reader."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(**launch_options())
        yield made
        made.close()


def test_every_document_is_a_page_and_is_in_the_menu(site: Path) -> None:
    """Strict building fails on a document that the menu lacks."""
    wanted = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    wanted = {path.with_name("index.html") if path.stem == "README" else path for path in wanted}
    pages = {path.relative_to(site) for path in site.rglob("*.html")}
    assert pages == wanted | {Path("404.html")}


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """No font, script, style or picture of another host; and what is loaded is there."""
    for page in site.rglob("*.html"):
        addresses = Loaded(page).addresses
        assert len(addresses) > 5
        foreign = [address for address in addresses if "//" in address.partition("?")[0]]
        assert not foreign, page
        for address in addresses:
            base = site if page.name == "404.html" else page.parent
            path = address.partition("?")[0].partition("#")[0].removeprefix("/")
            assert (base / path).exists(), f"{page}: {address}"


def test_a_reader_without_network_or_server_finds_by_searching(
    site: Path, browser: Browser
) -> None:
    """Opened from the disk: the search answers, nothing fails, and nobody else is asked."""
    wrong: list[str] = []
    asked: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("never cataloged")  # each part of it is a valid query
    found = page.locator(".md-search-result__item a").filter(has_text="The life of a machine")
    found.first.click()
    page.wait_for_url("**/life.html*")
    heading = page.locator("h1").inner_text()
    page.close()
    assert heading.startswith("The life of a machine")
    assert not wrong
    assert not [url for url in asked if not url.startswith((site.as_uri(), "data:"))]


FIRST = {
    "shrink": "Your first change",
    "scale": "How large, how much, what it costs",
    "cost": "How large, how much, what it costs",
    "stuck": "Runbook",
    "pause": "Runbook",
    "undo": "Runbook",
    "lease": "Lease a machine",
    "alert": "Monitoring",
}
"""What people type, and the page that they look for."""


def test_the_search_finds_the_right_page_first(site: Path, browser: Browser) -> None:
    """By the words of those who run a fleet."""
    for word, wanted in FIRST.items():
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto((site / "index.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type(word)
        first = page.locator(".md-search-result__item h1").first
        expect(first).to_have_text(wanted, timeout=PATIENCE * 1000)
        page.close()


def test_the_readme_fits_on_two_screens_with_all_that_sells_it(
    tmp_path: Path, browser: Browser
) -> None:
    """As wide as a forge shows it, on a screen of 1080 lines; the story is a drawing."""
    style = (
        "body{font:16px/1.5 sans-serif;width:896px;margin:24px auto}img{max-width:100%}"
        "h2{margin:24px 0 16px}p,ul,table,pre{margin:0 0 16px}td,th{padding:6px 13px}"
        "pre{padding:16px;font:85%/1.45 monospace;overflow:auto}"
    )
    readme, shown = ROOT / "README.md", tmp_path / "readme.html"
    command = [sys.executable, "-m", "markdown", "-x", "fenced_code", "-x", "tables", str(readme)]
    body = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    whole = body.replace('src="', f'src="{ROOT.as_uri()}/')
    shown.write_text(f"<meta charset=utf-8><style>{style}</style>{whole}", encoding="utf-8")
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(shown.as_uri())
    heights = page.evaluate("[...document.images].map(image => image.height)")
    height = page.evaluate("document.documentElement.scrollHeight")
    page.close()
    assert len(heights) == 2
    assert min(heights) > 100, "they are there"
    assert height <= 2 * 1080
    for needed in ("docs/story.svg", "make run", "make test", "plan --config", "\nPlan: "):
        assert needed in readme.read_text(encoding="utf-8")


def test_no_page_is_wider_than_a_phone_in_light_and_dark(site: Path, browser: Browser) -> None:
    """Tables and code scroll in themselves; the page does not. The colours are the system's."""
    page = browser.new_page(viewport={"width": 375, "height": 800})
    page.set_default_timeout(PATIENCE * 1000)
    for name in ("index", "life", "runbook", "comparison", "reference/commands", "safety"):
        page.emulate_media(color_scheme="light")
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 375, name
        page.wait_for_function(f"{BRIGHTNESS} > 200")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"{BRIGHTNESS} < 100")
    page.close()
