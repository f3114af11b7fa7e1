"""The pages in a headless Chromium: self-update, keyboard, phone, dark, no script, load time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from support.broker_messages import publish, wire
from support.browser import Chromium, cut_off, faults_of_axe
from support.crowd import crowded
from support.fleet_harness import CONTROL_TOKEN, OTHER_ZONE, ZONE, World, manager, template, world
from support.patience import PATIENCE

PAGES = ("/", "/machines", "/jobs", "/messages", "/events", "/configuration", "/explain?name=linux")
LOOK_MS = 5000
"""How often a page looks for what is new."""
FILES = 4
"""What a page is of: itself, its style, its script and its icon."""


class Reader:
    """Somebody at a browser. What goes wrong in it, and whom it asks, is noted.

    Attributes:
        page: the page before them.
    """

    def __init__(self, w: World, page: Page) -> None:
        self._w = w
        self.page = page
        self.wrong: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda said: self.wrong.append(said.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url))

    async def go(self, path: str) -> None:
        """Opens a page."""
        await self.page.goto(self._w.daemon.url + path)

    async def wait(self, milliseconds: int = LOOK_MS) -> None:
        """Lets the page's time pass."""
        await self.page.clock.run_for(milliseconds)

    async def eval(self, script: str) -> Any:
        """What a script says in the page."""
        return await self.page.evaluate(script)


@contextlib.asynccontextmanager
async def reading(w: World, chromium: Chromium, **options: Any) -> AsyncIterator[Reader]:
    """A reader who in the end has met no error, and has asked nobody but the daemon."""
    context = await chromium.browser.new_context(**options)
    context.set_default_timeout(PATIENCE * 1000)
    page = await context.new_page()
    reader = Reader(w, page)
    yield reader
    await context.close()
    assert not reader.wrong
    assert reader.asked
    assert all(url.startswith(w.daemon.url + "/") for url in reader.asked)


async def test_the_page_updates_itself_and_keeps_what_the_reader_does(
    chromium: Chromium, tmp_path: Path
) -> None:
    """Focus, typed text, scroll position and what was folded outlive a change around them."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        page = reader.page
        await page.set_viewport_size({"width": 900, "height": 300})
        await page.clock.install()
        await reader.go("/configuration")
        await reader.eval("window.same = document.querySelector('main h1')")
        await page.locator("summary", has_text="templates.cfg").click()
        await page.locator("#find").fill("linux-7")
        await reader.eval("document.querySelector('#find').setSelectionRange(2, 4)")
        await reader.eval("scrollTo(0, 60)")
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=4)
        await reader.wait()
        await expect(page.locator("del")).to_contain_text("minimum_size: 3")
        await expect(page.locator("#find")).to_be_focused()
        assert await page.locator("#find").input_value() == "linux-7"
        assert await reader.eval("document.activeElement.selectionStart") == 2
        assert await reader.eval("scrollY") == 60
        assert await reader.eval("document.querySelector('details').open") is False
        assert await reader.eval("window.same === document.querySelector('main h1')")


async def test_a_problem_appears_and_goes_without_a_reload(
    chromium: Chromium, tmp_path: Path
) -> None:
    """In a region that is read out; the title counts it, too."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        page = reader.page
        await page.clock.install()
        await reader.go("/")
        live = page.locator("[aria-live]")
        await expect(live).to_contain_text("None.")
        w.write_config("", "")

        async def held() -> bool:
            return bool((await w.get("/api/control"))["held_revision"])

        await w.until(held, every=0.1)
        await reader.wait()
        await expect(live).to_contain_text("HeldForApproval")
        await expect(page).to_have_title(re.compile(r"^\(1\) Overview"))
        w.write_config(template(), manager(minimum=3))

        async def good() -> bool:
            return not await held()

        await w.until(good, every=0.1)
        await reader.wait()
        await expect(live).to_contain_text("None.")
        await expect(page).to_have_title("Overview · GCE Backend")


async def test_a_page_that_cannot_reach_the_daemon_says_since_when(
    chromium: Chromium, tmp_path: Path
) -> None:
    """It keeps what it knew, and goes on when the daemon is back."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        context = await chromium.browser.new_context()
        context.set_default_timeout(PATIENCE * 1000)
        page = await context.new_page()
        await page.clock.install()
        await page.goto(w.daemon.url)
        await context.set_offline(offline=True)
        await page.clock.run_for(LOOK_MS)
        freshness = page.locator("#freshness")
        await expect(freshness).to_contain_text("Not reachable since")
        said = await freshness.text_content()
        await page.clock.run_for(3 * LOOK_MS)
        assert await freshness.text_content() == said
        await expect(page.locator("main")).to_contain_text("3 in all")
        await context.set_offline(offline=False)
        await page.clock.run_for(2 * LOOK_MS)
        await expect(freshness).to_contain_text("As of")
        await context.close()


async def test_a_hidden_page_asks_nothing(chromium: Chromium, tmp_path: Path) -> None:
    """And asks at once when it is looked at again."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        page = reader.page
        asked: list[str] = []
        await page.clock.install()
        await reader.go("/jobs")
        page.on("request", lambda request: asked.append(request.url))
        hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}})"
        tell = "document.dispatchEvent(new Event('visibilitychange'))"
        await reader.eval(f"{hide.format('true')}; {tell}")
        await reader.wait(4 * LOOK_MS)
        assert not [url for url in asked if url.endswith("/jobs")]
        async with page.expect_request("**/jobs"):
            await reader.eval(f"{hide.format('false')}; {tell}")


async def test_everything_can_be_reached_by_keyboard(chromium: Chromium, tmp_path: Path) -> None:
    """The skip link, the pages, the search; whatever has the focus shows it."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = reader.page
        await reader.go("/machines")
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await expect(page.locator(".skip")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.locator("#q")).to_be_focused()
        await page.keyboard.type(name[-4:])
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        seen = set()
        for _ in range(60):
            await page.keyboard.press("Tab")
            focused = await reader.eval(
                """() => {
                  const at = document.activeElement;
                  const style = getComputedStyle(at);
                  return [at.id || at.textContent.trim(), style.outlineStyle, at.tagName];
                }"""
            )
            if focused[2] == "BODY":
                break
            assert focused[1] != "none", focused
            seen.add(focused[0])
        assert {"Overview", "Jobs", "find", "Find", "state", "zone", "Show", name} <= seen
        await page.locator("tbody a").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(name)


CUT_OFF = """[...document.querySelectorAll('button, .cards th, .cards td')]
  .filter(it => it.scrollHeight > it.clientHeight + 1 || it.scrollWidth > it.clientWidth + 1)
  .filter(it => it.clientWidth && getComputedStyle(it).display != 'inline')
  .map(it => it.outerHTML.slice(0, 80))"""
"""Buttons and cells whose text is larger than they are."""


async def test_no_page_is_wider_than_its_screen(chromium: Chromium, tmp_path: Path) -> None:
    """On a phone and on what is between it and a desk; also with long names and messages."""
    managers = manager(minimum=3) + manager("linux", OTHER_ZONE, 2)
    async with world(tmp_path, managers=managers) as w:
        await w.until_states(cataloged=5)
        name = await w.lease()
        w.write_config("", "")
        await publish(w, wire("NONSENSE", {}))

        async def held() -> bool:
            return bool((await w.get("/api/control"))["held_revision"])

        await w.until(held, every=0.1)
        async with reading(w, chromium) as reader:
            for path in (*PAGES, f"/machines/{name}", "/session", "/explain?name=linux"):
                await reader.go(path)
                for width in (320, 375, 768, 1024, 1280):
                    await reader.page.set_viewport_size({"width": width, "height": 800})
                    wide = await reader.eval("document.scrollingElement.scrollWidth")
                    assert wide <= width, (path, width)
                    assert await reader.eval(CUT_OFF) == [], (path, width)
            await reader.page.set_viewport_size({"width": 375, "height": 812})
            await reader.go("/")
            row = reader.page.locator(f"#row-linux-{ZONE}")
            await expect(
                row.locator("[data-label=Leased], [data-label=Cataloged]")
            ).not_to_have_count(0)
            assert await reader.page.locator(".cards .zero").first.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_on_any_page(
    chromium: Chromium, tmp_path: Path, scheme: str
) -> None:
    """Contrast, names, roles, order: in both colour schemes, on a troubled fleet.

    Nor is anything cut off on a desktop.
    """
    managers = manager(minimum=3) + manager("linux", OTHER_ZONE, 2)
    async with world(tmp_path, managers=managers) as w:
        await w.until_states(cataloged=5)
        name = await w.lease()
        await w.act("/api/pause", {"reason": "a look"})
        w.write_config("", "")
        await publish(w, wire("NONSENSE", {}))

        async def told() -> bool:
            return len((await w.get("/api/status"))["problems"]) == 3

        await w.until(told, every=0.1)
        token = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
        async with reading(w, chromium, color_scheme=scheme, extra_http_headers=token) as reader:
            only = "color-contrast" if scheme == "dark" else ""  # the rest is the same in both
            for path in (*PAGES, f"/machines/{name}", "/session"):
                await reader.go(path)
                assert await faults_of_axe(reader.page, only) == [], path
                assert await cut_off(reader.page) == [], path
            ground = await reader.eval("getComputedStyle(document.body).backgroundColor")
            dark = max(int(part) for part in re.findall(r"\d+", ground)) < 60
            assert dark is (scheme == "dark")


async def test_without_a_script_all_can_be_read_and_found(
    chromium: Chromium, tmp_path: Path
) -> None:
    """The server draws everything; forms and links lead everywhere."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        async with reading(w, chromium, java_script_enabled=False) as reader:
            page = reader.page
            await reader.go("/")
            await page.get_by_role("link", name="Machines", exact=True).click()
            await page.get_by_label("State").select_option("leased")
            await page.get_by_role("button", name="Show").click()
            await page.get_by_role("link", name=name).click()
            await expect(page.locator("h1")).to_have_text(name)
            await page.get_by_role("searchbox", name="Machine, group or template").fill("linux")
            await page.get_by_role("button", name="Find").click()
            await expect(page.locator("main")).to_contain_text("template")


async def test_an_operator_signs_in_pauses_and_resumes(chromium: Chromium, tmp_path: Path) -> None:
    """As a real browser sends forms: with its Origin, and the cookie of this site alone."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        page = reader.page
        await reader.go("/")
        await page.get_by_role("link", name="Sign in", exact=True).click()
        await page.get_by_label("Token").fill(CONTROL_TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        assert await reader.eval("document.cookie") == ""
        await page.get_by_label("Stop all changes").fill("a look")
        await page.get_by_role("button", name="Pause everything").click()
        await expect(page.locator("main")).to_contain_text("Paused by operator: everything: a look")
        assert (await w.get("/api/control"))["paused"]
        await page.get_by_role("button", name="Resume everything").click()
        await expect(page.locator("main")).not_to_contain_text("Paused")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()


async def test_an_operator_cordons_a_machine_and_takes_it_back(
    chromium: Chromium, tmp_path: Path
) -> None:
    """On the machine's page, which shows what became of it."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        name, page = next(iter(await w.catalog())), reader.page
        await reader.go(f"/machines/{name}")
        await page.get_by_role("link", name="Sign in", exact=True).click()
        await page.get_by_label("Token").fill(CONTROL_TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_label("Why cordon?").fill("a bad disk")
        await page.get_by_role("button", name="Cordon").click()
        await expect(page.locator("h1")).to_have_text(name)
        await expect(page.locator(".verdict")).to_contain_text("a bad disk")
        await expect(page.get_by_role("button", name="Drain")).to_be_visible()
        await page.get_by_role("button", name="Uncordon").click()
        await expect(page.locator(".verdict")).not_to_contain_text("a bad disk")
        await expect(page.get_by_role("button", name="Cordon")).to_be_visible()


async def test_keys_lead_to_search_rows_and_help(chromium: Chromium, tmp_path: Path) -> None:
    """`/`, `?`, `j` and `k`; in a field they are letters."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        page, keys = reader.page, reader.page.keyboard
        await reader.go("/machines")
        rows = page.locator("tbody th a")
        for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
            await keys.press(key)
            await expect(rows.nth(row)).to_be_focused()
        await keys.press("/")
        await expect(page.locator("#find")).to_be_focused()
        await keys.type("j?k")
        assert await page.locator("#find").input_value() == "j?k"
        await page.locator("main").focus()
        await keys.press("?")
        await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        await keys.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_zones_fold_and_columns_sort_in_the_address(
    chromium: Chromium, tmp_path: Path
) -> None:
    """Without a reload, and the way back leads back; the same address shows the same later."""
    managers = manager(minimum=3) + manager("linux", OTHER_ZONE, 2)
    async with world(tmp_path, managers=managers) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=5)
        page = reader.page
        await reader.go("/")
        zone, fold = page.locator(f"#row-linux-{ZONE}"), page.get_by_label("Zones of linux")
        await expect(zone).to_be_visible()
        await expect(page.locator("#row-linux")).to_contain_text("2 zones")
        await reader.eval("window.same = true")
        await fold.click()
        await expect(zone).to_have_count(0)
        await expect(fold).to_have_attribute("aria-expanded", "false")
        await expect(fold).to_be_focused()
        await page.get_by_role("link", name="Leased", exact=True).click()
        await expect(page.locator("th[aria-sort=ascending]")).to_have_text("Leased")
        assert page.url.endswith("/?turned=linux&sort=leased")
        await page.go_back()
        await page.go_back()
        await expect(zone).to_be_visible()
        assert await reader.eval("window.same")
        await reader.go("/?turned=linux&sort=leased")
        await expect(zone).to_have_count(0)


async def test_a_chart_tells_its_numbers_at_the_pointer(chromium: Chromium, tmp_path: Path) -> None:
    """Of the sample that is nearest, with its time."""
    async with world(tmp_path) as w, reading(w, chromium) as reader:
        await w.until_states(cataloged=3)
        await reader.go("/")
        told = reader.page.locator(".reading")
        await expect(told).to_be_hidden()
        await reader.page.locator(".plot").hover()
        await expect(told).to_contain_text(" UTC: 0 leased, ")


async def test_ten_thousand_machines_are_no_work_for_a_browser(
    chromium: Chromium, tmp_path: Path
) -> None:
    """What it lays out and fetches is bounded, whatever there is; time would tell of the host."""
    async with crowded(tmp_path, 10_000) as w, reading(w, chromium) as reader:
        fetched: list[str] = []
        reader.page.on("request", lambda request: fetched.append(request.url))
        for path, most in (("/", 1000), ("/machines", 2000), ("/machines?q=0012&page=2", 2000)):
            fetched.clear()
            await reader.go(path)
            count = await reader.eval("document.querySelectorAll('*').length")
            assert count < most, path
            assert len(fetched) <= FILES, fetched
        await reader.go("/machines?q=kind3-us-east1-b-0012")
        await expect(reader.page.locator("tbody tr")).to_have_count(1)
