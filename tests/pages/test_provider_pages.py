"""The Machine Provider's pages: what waits and why, leases, machines, refusals, and access."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from playwright.async_api import expect

from gce_backend.localcloud.faults import Fault
from gce_backend.machine_provider import trends
from gce_backend.machine_provider.service import ProviderService
from gce_backend.web.pages.provider_session import (
    COOKIE,
    MAX_SESSIONS,
    SESSION_SECONDS,
    ProviderSessions,
)
from machine_provider.test_leases_api import ANN, BOB, LIMITED, ROOT, Api
from machine_provider.test_service import until_ready
from support.browser import Chromium, cut_off, faults_of_axe
from support.html_reader import Page
from support.plain_texts import faults_on
from support.provider_harness import DAEMON, Place, place

PAGES = ("/", "/leases", "/machines", "/users", "/refused")
ELSEWHERE = {"Host": "machines.example.com"}


class Pages(Api):
    """The pages of one process, in a browser of their own.

    Attributes:
        cookies: what the browser keeps.
        last: the cookies of the last answer to a form.
    """

    def __init__(self, p: Place, service: ProviderService) -> None:
        super().__init__(p, service)
        self.cookies: dict[str, str] = {}
        self.last: SimpleCookie = SimpleCookie()

    async def send(
        self,
        path: str,
        fields: dict[str, str],
        *,
        status: int = 303,
        to: str = "",
        origin: dict[str, str] | None = None,
    ) -> None:
        """Sends a form; it must be answered with that status, or lead to that page."""
        headers = {"Origin": self.service.url} if origin is None else origin
        headers = {"Cookie": self._kept(), **headers}
        url = self.service.url + path
        async with self.place._session.post(
            url, data=fields, headers=headers, allow_redirects=False
        ) as response:
            answer = (response.status, response.headers.get("Location", ""))
            assert answer == (status, to), await response.text()
            self.last = response.cookies
            self.cookies |= {name: one.value for name, one in response.cookies.items()}

    def _kept(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    async def go(self, path: str, **headers: str) -> Page:
        """A page; every answer forbids what is not its own."""
        url = self.service.url + path
        headers = {"Cookie": self._kept(), **headers}
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
        assert "os_family:LINUX num_cpus:8 0 2 1 0 0 0" in overview
        await asyncio.sleep(150)
        drawn = await mp.go("/")
        titles = [
            attributes["aria-label"] or ""
            for tag, attributes in drawn.tags
            if tag == "svg" and "aria-label" in attributes
        ]
        assert len(titles) == 3
        assert re.search(r"at most 2; now 2 leased, 0 to be leased, 0 others", titles[0])
        assert re.match(r"Longest wait for a machine since .*: [12] min$", titles[1])
        assert titles[2].startswith("os_family:LINUX num_cpus:8: at most 2 machines since")
        assert "Actions" not in drawn.text
        users = await mp.go("/users")
        assert "small 1 of 1 1 0 of 0 1 0 1 1 h" in users.text
        assert "users 1 1 0 of 1 0 0 1 4 h" in users.text
        assert "bob@example.com small 1 1 1" in users.text
        assert "ago: machines.trouble needs the role BACKEND" in users.text
        assert sum(tag == "svg" for tag, _ in users.tags) > sum(
            tag == "svg" for tag, _ in (await mp.go("/refused")).tags
        )
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
        for path in PAGES:
            assert faults_on((await mp.go(path)).source) == [], path
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


async def test_who_signs_in_changes_leases_as_the_api_would(tmp_path: Path) -> None:
    """A session is its token's: a user's own leases, an administrator's all, no other site's form.

    A browser gets no token back, and a form that is sent twice leases one machine.
    """
    async with pages(tmp_path) as mp:
        await mp.add("vm-3", num_cpus=4, snapshot_labels=["warm:yes"])
        [pending] = [
            one
            for one in (await mp.ok("GET", "leases", who=BOB))["leases"]
            if one["state"] == "pending"
        ]
        await mp.send("/orders/release", {"id": pending["id"]}, status=401)
        await mp.send("/session", {"token": "x"}, status=401)
        await mp.send("/session", {}, status=401)
        token = await mp.place.token(ANN)
        for foreign in ({"Origin": "http://evil.example"}, {}):
            await mp.send("/session", {"token": token}, status=403, origin=foreign)
        await mp.send("/session", {"token": token, "to": "//evil.example"}, to="/")
        assert token not in str(mp.cookies)
        https = {"X-Forwarded-Proto": "https", "Origin": mp.service.url}
        await mp.send("/session", {"token": token}, to="/", origin=https)
        cookie = mp.last[COOKIE]
        flags = [cookie[flag] for flag in ("httponly", "secure", "samesite")]
        assert flags == [True, True, "Strict"]
        assert ANN in (await mp.go("/")).source
        await mp.send("/orders/release", {"id": pending["id"]}, status=404)
        assert "Cancel" not in (await mp.go("/")).text
        form = (await mp.go("/")).inputs
        assert msgspec.json.decode(form["dimensions"]) == {
            "backend": "GCE",
            "os_family": "LINUX",
            "num_cpus": 4,
            "snapshot_labels": ["warm:yes"],
        }
        assert "os_family:LINUX num_cpus:4 snapshot_labels:warm:yes" in (await mp.go("/")).text
        wanted = {name: form[name] for name in ("request_id", "dimensions")}
        for _ in range(2):
            await mp.send("/orders/lease", wanted | {"minutes": "90"}, to="/leases")
        await mp.send("/orders/lease", wanted | {"minutes": "5 h"}, status=400)
        await mp.send("/orders/lease", wanted | {"dimensions": "{"}, status=400)
        await mp.send("/orders/lease", wanted | {"request_id": "x", "minutes": "999"}, status=403)
        await mp.send("/orders/nothing", {}, status=404)
        [lease] = [one for one in (await mp.ok("GET", "leases"))["leases"] if "label" not in one]
        assert (lease["machines"], lease["ends_at"] - lease["began"]) == (["vm-3"], 5400)
        before = mp.place.clock.now()
        await mp.send("/orders/extend", {"id": lease["id"], "minutes": "30"}, to="/leases")
        assert abs((await mp.get(lease))["ends_at"] - before - 1800) < 60
        await mp.send("/orders/hold", {"id": lease["id"], "minutes": "20"}, to="/leases")
        assert (await mp.get(lease))["state"] == "held"
        moved = {"id": lease["id"], "user": "x@elsewhere.org"}
        await mp.send("/orders/transfer", moved, status=403)
        await mp.send("/orders/transfer", moved | {"user": " cy@example.com "}, to="/leases")
        assert "held cy@example.com users" in (await mp.go("/leases")).text
        await mp.send("/orders/release", {"id": lease["id"]}, status=403)
        cy = f"leases/{lease['id']}:transfer", {"user": ANN}, "cy@example.com"
        await mp.ok("POST", *cy)
        await mp.send("/orders/release", {"id": lease["id"], "to": "/machines"}, to="/machines")
        await mp.send("/session/end", {}, to="/")
        await mp.send("/orders/release", {"id": pending["id"]}, status=401)
        await mp.send("/session", {"token": await mp.place.token(ROOT)}, to="/")
        assert (await mp.go("/leases", **ELSEWHERE)).status == 200
        await mp.send("/orders/release", {"id": pending["id"]}, to="/leases")
        machine = {"name": "vm-1", "backend": "GCE"}
        await mp.send("/orders/cordon", machine, to="/machines")
        shown = (await mp.go("/machines?q=vm-1")).text
        assert "vm-1 leased cordoned" in shown
        await mp.send(
            "/orders/uncordon", machine | {"to": "/machines?q=vm-1"}, to="/machines?q=vm-1"
        )
        assert "cordoned" not in (await mp.go("/machines?q=vm-1")).text
        assert "No request waits." in (await mp.go("/")).text
        assert mp.service.provider is not None
        sessions, token = ProviderSessions(mp.place.clock), await mp.place.token(ANN)
        request = make_mocked_request("GET", "/")
        kept = [
            await sessions.begin(mp.service.provider, token, request)
            for _ in range(MAX_SESSIONS + 1)
        ]

        def of(cookie: str) -> str | None:
            headers = {"Cookie": f"{COOKIE}={cookie}"}
            return sessions.authorization(make_mocked_request("GET", "/", headers=headers))

        assert [of(kept[0]), of(kept[1]), of("")] == [None, f"Bearer {token}", None]
        sessions.end(make_mocked_request("GET", "/", headers={"Cookie": f"{COOKIE}={kept[1]}"}))
        assert of(kept[1]) is None
        await mp.place.kill(mp.service)
        await asyncio.sleep(SESSION_SECONDS)
        assert of(kept[2]) is None


async def test_the_end_of_a_token_ends_its_session(tmp_path: Path) -> None:
    """A page that updates itself is no guesser: the refusal is noted once, and slows nobody."""
    async with pages(tmp_path) as mp:
        await mp.send("/session", {"token": await mp.place.token(ANN)}, to="/")
        assert ANN in (await mp.go("/")).source.partition("<footer>")[2]
        known = Fault(method="metadata.tokeninfo", status=400, times=None)
        mp.place.cloud.faults.add(known)
        await asyncio.sleep(61)
        for _ in range(3):
            assert ANN not in (await mp.go("/")).source.partition("<footer>")[2]
        refused = (await mp.go("/refused")).text
        assert refused.count("users.whoami") == 1
        await mp.send("/orders/release", {"id": "x"}, status=401)
        assert "SSH tunnel" in (await mp.go("/", **ELSEWHERE)).text


async def test_a_browser_shows_the_queue_and_follows_it(
    chromium: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page updates itself; on a phone nothing is cut off, and axe-core finds nothing wrong.

    Who signs in cancels a request there, after a second thought. Charts are drawn without a script.
    """
    monkeypatch.setattr(trends, "EVERY_SECONDS", 0.5)
    async with pages(tmp_path) as mp:
        context = await chromium.browser.new_context(viewport={"width": 360, "height": 700})
        page = await context.new_page()
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.clock.install()
        await page.goto(mp.service.url + "/session?to=/")
        await page.get_by_label("Token").fill(await mp.place.token(BOB))
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("footer")).to_contain_text(BOB)
        await asyncio.sleep(2)
        for path in PAGES:
            await page.goto(mp.service.url + path)
            await expect(page.locator("h1")).to_be_visible()
            drawn = {"/": 3, "/users": 2}.get(path, 0)
            await expect(page.locator("svg.chart")).to_have_count(drawn)
            wide = "document.documentElement.scrollWidth <= innerWidth"
            assert await page.evaluate(wide), path
            assert await faults_of_axe(page) == [], path
            await page.emulate_media(color_scheme="dark")
            assert await faults_of_axe(page, "color-contrast") == [], path
            await page.emulate_media(color_scheme="light")
        await page.goto(mp.service.url)
        queue = page.get_by_role("table", name="Requests that wait")
        await expect(queue).to_contain_text("second")
        await queue.get_by_text("Cancel").first.click()
        await page.clock.run_for(5000)
        await queue.get_by_role("button", name="Cancel second").click()
        await expect(page.locator("main")).to_contain_text("No request waits.")
        [lease] = (await mp.ok("GET", "leases", who=BOB))["leases"]
        await mp.ok("POST", f"leases/{lease['id']}:release", who=BOB)
        await page.clock.run_for(5000)
        await expect(page.locator("main")).not_to_contain_text(BOB)
        await context.close()
        assert not wrong


async def test_no_table_is_cut_off_on_a_desktop(chromium: Chromium, tmp_path: Path) -> None:
    """With the daemon's long names, kinds of many dimensions, and ids as requests have them."""
    name, disk = "linux-small-9df70045-euw1b-w2zb", {"disk_gb": 100, "disk_type": "SSD"}
    kind = {"num_cpus": 8, "memory_gb": 16.0, "linux_flavor": "DEBIAN", "os_version": "12"}
    labels = {"project": "a-project-of-thirty-characters", "snapshot_labels": ["contents:checkout"]}
    async with place(tmp_path, LIMITED) as p:
        service = await p.start()
        await until_ready(p, service)
        mp = Pages(p, service)
        await mp.add(name, snapshot="linux-checkout", **kind, **disk, **labels)
        await mp.lease("88548516-246b-479d-901c-67e329d7d65c", BOB)
        await mp.lease("13199807-19f2-4ea5-87b6-fe1a8e8f33d0", BOB)
        context = await chromium.browser.new_context(viewport={"width": 1280, "height": 800})
        page = await context.new_page()
        for path in PAGES:
            await page.goto(service.url + path)
            await expect(page.locator("h1")).to_be_visible()
            assert await cut_off(page) == [], path
        await context.close()
