"""Draws docs/images/: the status page of a daemon that has had an eventful afternoon.

Daemon and embedded cloud live through it in simulated time; what the daemon answers at its end is
then shown to a headless browser. Nothing is drawn by hand, and every run draws the same afternoon.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from playwright.sync_api import Browser, Route, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from gce_backend.localcloud.cloud import CloudOptions  # noqa: E402
from support.browser import launch_options  # noqa: E402  (beside the tests, which need one, too)
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world  # noqa: E402
from support.simulation import VirtualTimeLoop  # noqa: E402

IMAGES = ROOT / "docs" / "images"
NOON = 1_772_539_200.0
"""Tuesday, 3 March 2026, 12:00 UTC."""
ADDRESS = "http://daemon.test"
THIRD_ZONE = "us-east1-b"
MINUTES = 270


class Shot(NamedTuple):
    """A picture: its file, which page, how wide and high, light or dark."""

    name: str
    path: str
    width: int = 1200
    height: int = 860
    scheme: str = "light"


def templates(large: str = "n2-standard-8") -> str:
    """Three kinds of machines."""
    return (
        template("linux-small", machine_type="e2-standard-2")
        + template("linux-large", machine_type=large)
        + template("android", machine_type="n2-standard-4", image_name="android-builder-14")
    )


def managers(android: int = 8) -> str:
    """Where they are kept."""
    return (
        manager("linux-small", ZONE, 24, 40)
        + manager("linux-small", THIRD_ZONE, 12, 30)
        + manager("linux-large", ZONE, 10, 20)
        + manager("linux-large", OTHER_ZONE, 6, 12)
        + manager("android", OTHER_ZONE, android)
        + manager("android", ZONE, android)
    )


async def lease(w: World, number: int, seconds: int) -> None:
    """Asks for a machine of any kind."""
    request = {"request_id": f"build-{number}", "duration": seconds}
    await w.broker("machine_provider.lease", request | {"dimensions": {"os_family": "LINUX"}})


async def afternoon(w: World) -> None:
    """Builds come and go; the last half hour brings all kinds of trouble."""
    rng = random.Random(4)  # noqa: S311 -- the same afternoon every time
    asked = 0
    for minute in range(MINUTES):
        busy = 1.2 + 0.9 * math.sin(minute / 34)
        for _ in range(int(busy + rng.random())):
            asked += 1
            await lease(w, asked, rng.randrange(900, 2400))
        if minute == MINUTES - 25:
            shortage = "Try a different zone, or try again later."
            await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None, message=shortage)
        if minute == MINUTES - 14:
            w.write_config(templates(large="n2-standard-16"), managers())
        if minute == MINUTES - 9:
            await puzzle(w)
        if minute == MINUTES - 6:
            reason = "network maintenance until 17:00"
            await w.act("/api/pause", {"zone": THIRD_ZONE, "reason": reason})
        if minute == MINUTES - 3:
            w.write_config(templates(large="n2-standard-16"), manager("android", ZONE, 8))
        await w.pass_time(60)


async def puzzle(w: World) -> None:
    """A message that nobody understands."""
    message = {
        "data": base64.b64encode(b'{"hello": "is this the right topic?"}').decode(),
        "attributes": {"type": "GREETING", "sender": "somebody-elses-service"},
    }
    topic = w.settings.pubsub.topic
    path = f"/v1/projects/{w.settings.project}/topics/{topic}:publish"
    await w.call("POST", path, {"messages": [message]})


async def fetched(w: World, path: str) -> tuple[str, bytes]:
    """What the daemon answers: content type and body."""
    async with w.session.get(w.daemon.url + path) as response:
        return response.headers["Content-Type"], await response.read()


async def lived(directory: Path) -> tuple[list[Shot], dict[str, tuple[str, bytes]]]:
    """The pictures to take, and everything that the browser will ask for."""
    options = CloudOptions(boot_seconds=50.0, delete_seconds=25.0, operation_seconds=4.0)
    async with world(
        directory, templates=templates(), managers=managers(), options=options, epoch=NOON
    ) as w:
        await afternoon(w)
        machines = await w.machines("linux-large")
        waiting = [it for it in machines if "after its lease ends" in it["reason"]]
        draining = (waiting or machines)[0]
        shots = [
            Shot("overview", "/", height=1060),
            Shot("overview-dark", "/", height=1060, scheme="dark"),
            Shot("overview-phone", "/", width=375, height=812),
            Shot("machines", "/machines?state=leased", height=760),
            Shot("machine", f"/machines/{draining['name']}", height=860),
            Shot("configuration", "/configuration", height=760),
            Shot("events", "/events?kind=machine", height=760, scheme="dark"),
        ]
        paths = {shot.path for shot in shots}
        answers = {path: await fetched(w, path) for path in paths}
        for name in ("style.css", "page.js", "icon.svg"):
            answers[f"/static/{name}"] = await fetched(w, f"/static/{name}")
        return shots, answers


def draw(browser: Browser, shot: Shot, answers: dict[str, tuple[str, bytes]]) -> None:
    """Takes one picture."""

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(ADDRESS)
        kind, body = answers[path if path in answers else path.partition("?")[0]]
        route.fulfill(status=200, body=body, headers={"Content-Type": kind})

    wanted: dict[str, Any] = {
        "viewport": {"width": shot.width, "height": shot.height},
        "color_scheme": shot.scheme,
        "device_scale_factor": 1,
    }
    context = browser.new_context(**wanted)
    context.route(f"{ADDRESS}/**", answer)
    page = context.new_page()
    page.goto(ADDRESS + shot.path)
    page.screenshot(path=IMAGES / f"{shot.name}.png")
    context.close()


def main() -> None:
    """Lives through the afternoon, then draws."""
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
    ):
        shots, answers = runner.run(lived(Path(directory)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        for shot in shots:
            draw(browser, shot, answers)
        browser.close()


if __name__ == "__main__":
    main()
