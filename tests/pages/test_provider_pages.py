"""The Machine Provider's pages: what waits and why, leases, machines, refusals, and access."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from playwright.async_api import expect

from machine_provider.test_leases_api import BOB, LIMITED, ROOT, Api
from machine_provider.test_service import until_ready
from support.browser import Chromium
from support.html_reader import Page
from support.provider_harness import DAEMON, place

PAGES = ("/", "/leases", "/machines", "/refused")
ELSEWHERE = {"Host": "machines.example.com"}


class Pages(Api):
    """The pages of one process."""

    async def go(self, path: str, **headers: str) -> Page:
        """A page; every answer forbids what is not its own."""
        url = self.service.url + path
        async with self.place._session.get(url, headers=headers) as response:
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            page = Page(response.status, await response.text())
        assert all(address.startswith(("/", "#")) for address in (*page.links, *page.loaded))
        return page


@contextlib.asynccontextmanager
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    """One process with two leases, one of them long, a request that waits, and a silent agent."""
    async with place(tmp_path, LIMITED) as p:
        service = await p.start()
        await until_ready(p, service)
        made = Pages(p, service)
        await made.add("vm-1", "vm-2", num_cpus=8)
        await made.lease("r1", label="nightly <b>")
        await made.lease("r2", BOB)
        await made.lease("r3", BOB, label="second")
        await made.refused("POST", "machines/vm-1:trouble", {"message": "x"}, BOB)
        said = {"message": "The VM does not run."}
        await made.ok("POST", "machines/vm-2:trouble", said, DAEMON)
        yield made


async def test_pages_tell_what_waits_who_holds_what_and_who_was_refused(tmp_path: Path) -> None:
    """What a name says is text, never markup."""
    async with pages(tmp_path) as mp:
        overview = (await mp.go("/")).text
        assert "0 can be leased 2 leased" in overview
        assert "1 request waits" in overview
        assert "second bob@example.com 1 1 machine: os_family:LINUX" in overview
        assert "its group holds 1 of at most 1 machine" in overview
        assert "os_family:LINUX num_cpus:8 0 2 0 0 0" in overview
        assert "bob@example.com small 1 1 0" in overview
        leases = (await mp.go("/leases")).text
        assert "2 leases" in leases
        assert "nightly <b> active ann@example.com" in leases
        assert "vm-2: The VM does not run." in leases
        machines = await mp.go("/machines?state=LEASED&q=vm-1")
        assert "1 machine" in machines.text
        assert "vm-1 leased" in machines.text
        assert "vm-2" not in machines.text
        refused = (await mp.go("/refused")).text
        assert "bob@example.com 127.0.0.1 machines.trouble" in refused
        assert "needs the role BACKEND" in refused
        await mp.place.kill(mp.service)


async def test_pages_are_open_here_and_elsewhere_to_viewers_alone(tmp_path: Path) -> None:
    """Another host's name is elsewhere, and so is a proxy; a standby process says so."""
    async with pages(tmp_path) as mp:
        user = {"Authorization": f"Bearer {await mp.place.token(BOB)}"}
        viewer = {"Authorization": f"Bearer {await mp.place.token(ROOT)}"}
        for path in PAGES:
            assert (await mp.go(path)).status == 200
            assert (await mp.go(path, **ELSEWHERE)).status == 403
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        assert (await mp.go("/", **forwarded)).status == 403
        assert (await mp.go("/", **ELSEWHERE, **user)).status == 403
        assert (await mp.go("/", **ELSEWHERE, **viewer)).status == 200
        wrong = {"Authorization": "Bearer x"}
        assert (await mp.go("/", **ELSEWHERE, **wrong)).status == 401
        assert "bob@example.com" in (await mp.go("/refused")).text
        standby = await mp.place.start()
        await asyncio.sleep(2)
        shown = await Pages(mp.place, standby).go("/")
        assert (shown.status, "stands by" in shown.text) == (503, True)


async def test_a_browser_shows_the_queue_and_follows_it(chromium: Chromium, tmp_path: Path) -> None:
    """The page updates itself; on a phone nothing is cut off, and nothing is wrong in it."""
    async with pages(tmp_path) as mp:
        context = await chromium.browser.new_context(viewport={"width": 360, "height": 700})
        page = await context.new_page()
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.clock.install()
        for path in PAGES:
            await page.goto(mp.service.url + path)
            await expect(page.locator("h1")).to_be_visible()
            wide = "document.documentElement.scrollWidth <= innerWidth"
            assert await page.evaluate(wide), path
        await page.goto(mp.service.url)
        queue = page.get_by_role("table", name="Requests that wait")
        await expect(queue).to_contain_text("second")
        [waits] = [
            one for one in (await mp.ok("GET", "leases", who=BOB))["leases"] if "label" in one
        ]
        await mp.ok("POST", f"leases/{waits['id']}:release", who=BOB)
        await page.clock.run_for(5000)
        await expect(page.locator("main")).to_contain_text("No request waits.")
        await context.close()
        assert not wrong
