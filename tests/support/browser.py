"""A headless Chromium, as Debian ships it, with nothing in it that goes out to the network.

Use it for a test that needs a page's scripts or its looks; `html_reader` is enough for its text.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Any, NamedTuple

from playwright.async_api import Browser

from support.patience import PATIENCE


class Chromium(NamedTuple):
    """A running browser, and the event loop that it belongs to."""

    browser: Browser
    runner: asyncio.Runner


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
