"""A headless Chromium, as Debian ships it, with nothing in it that goes out to the network.

Use it for a test that needs a page's scripts or its looks; `html_reader` is enough for its text.
"""

from __future__ import annotations

import asyncio
import shutil
from importlib.resources import files
from typing import Any, NamedTuple

from playwright.async_api import Browser, Page

from support.patience import PATIENCE

_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
_VIOLATIONS = """async (only) => (await axe.run({
  preload: false,
  resultTypes: ["violations"],
  ...(only ? { runOnly: [only] } : {}),
})).violations.flatMap(({ id, help, nodes }) => nodes.map(({ html }) => `${id}: ${help}: ${html}`))
"""
"""What axe-core finds wrong with a page, by all of its rules or by one."""


class Chromium(NamedTuple):
    """A running browser, and the event loop that it belongs to."""

    browser: Browser
    runner: asyncio.Runner


_CUT_OFF = """[...document.querySelectorAll('main *')]
    .filter(it => getComputedStyle(it).overflowX !== 'visible' && it.scrollWidth > it.clientWidth)
    .filter(it => it.clientWidth > 1 && !['PRE', 'INPUT', 'SELECT'].includes(it.tagName))
    .map(it => it.innerText)"""
"""What is hidden but for who listens is a point wide."""


def launch_options() -> dict[str, Any]:
    """What playwright is to start.

    Raises:
        FileNotFoundError: there is no browser.
    """
    found = shutil.which("chromium")
    if found is None:
        raise FileNotFoundError("there is no chromium: `make browser` installs it")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    return {"executable_path": found, "args": arguments, "timeout": PATIENCE * 1000}


async def faults_of_axe(page: Page, only: str = "") -> list[str]:
    """What axe-core finds wrong with the page that is shown, by all of its rules or by one."""
    await page.evaluate(_AXE)
    found: list[str] = await page.evaluate(_VIOLATIONS, only)
    return found


async def cut_off(page: Page) -> list[str]:
    """What a reader has to push aside on the page that is shown, apart from texts of files."""
    found: list[str] = await page.evaluate(_CUT_OFF)
    return found
