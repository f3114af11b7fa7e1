"""Tests of pages log what is wrong, and that plainly; those that need a browser share one."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator

import pytest
import structlog
from playwright.async_api import async_playwright, expect

from support.browser import Chromium, launch_options
from support.patience import PATIENCE


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser; whoever asks for it runs in its event loop, in real time."""
    with asyncio.Runner() as runner:
        playwright = runner.run(async_playwright().start())
        browser = runner.run(playwright.chromium.launch(**launch_options()))
        expect.set_options(timeout=PATIENCE * 1000)
        yield Chromium(browser, runner)
        runner.run(browser.close())
        runner.run(playwright.stop())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test in the browser's event loop."""
    found = pyfuncitem.funcargs.get("chromium")
    if not isinstance(found, Chromium):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    found.runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
