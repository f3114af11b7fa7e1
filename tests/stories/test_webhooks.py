"""Webhooks: what a receiver hears of a fleet, and that no job waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from gce_backend.base.cause import caused_by
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.rules.orders import pause
from gce_backend.settings.settings import Secret, Settings, WebhookSettings
from support.fleet_harness import World, manager, template, world


@contextlib.asynccontextmanager
async def receiver(
    *, silent: bool = False, port: int = 0
) -> AsyncIterator[tuple[str, dict[str, list[Any]]]]:
    """An address for each format, and what it hears."""
    heard: dict[str, list[Any]] = {"json": [], "slack": [], "pagerduty": []}

    async def handle(request: web.Request) -> web.Response:
        heard[request.match_info["name"]].append(msgspec.json.decode(await request.read()))
        if silent:
            await asyncio.sleep(3600)
        return web.Response()

    app = web.Application()
    app.router.add_post("/{name}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0]), heard
    finally:
        await runner.cleanup()


def settings(url: str) -> Settings:
    """All three formats, at one receiver."""
    secret = Secret("0123456789abcdef-key")
    return Settings(
        webhooks={
            "json": WebhookSettings(url=f"{url}/json", secret=secret),
            "slack": WebhookSettings(url=f"{url}/slack", events=("order",)),
            "pagerduty": WebhookSettings(
                url=f"{url}/pagerduty", secret=secret, events=("problem",), severity="critical"
            ),
        }
    )


async def by_command(w: World) -> None:
    """An operator pauses a zone by a command, which writes to the store alone."""
    async with w.fleet() as fleet:
        with caused_by("operator pause", "bob@example.com"):
            now = w.clock.now()
            await fleet.change([Change(CONTROL_KEY, pause("why not", now, zone="us-central1-a"))])


async def test_a_receiver_hears_orders_configurations_and_problems(tmp_path: Path) -> None:
    """Each format in its words; a problem's end too, and orders of commands."""
    async with receiver() as (url, heard), world(tmp_path, settings=settings(url)) as w:
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        assert await w.act("/api/drain", {"name": name, "reason": "slow"}) == 200
        await by_command(w)
        await w.pass_time(20)
        w.write_config(template(), "")
        await w.pass_time(60)
        w.write_config(template(), manager(minimum=3))
        await w.pass_time(60)
    said = [(one["type"], one.get("event", {}).get("who")) for one in heard["json"]]
    assert ("machine", "operator") in said
    assert ("control", "bob@example.com") in said
    assert "configuration" in dict(said)
    assert len({one["id"] for one in heard["json"]}) == len(heard["json"])
    states = [
        (one["problem"]["reason"], one["problem"]["state"])
        for one in heard["json"]
        if one["type"] == "problem"
    ]
    assert ("HeldForApproval", "began") in states
    assert ("HeldForApproval", "ended") in states
    assert all("Paused" not in str(one) for one in states)
    first = next(one for one in heard["slack"] if name in one["text"])
    assert "Drained by operator: slow" in first["text"]
    actions = [(one["event_action"], one["dedup_key"]) for one in heard["pagerduty"]]
    held = "local-project/gce-backend/configuration/configuration/HeldForApproval"
    assert ("trigger", held) in actions
    assert ("resolve", held) in actions


async def test_no_job_waits_for_a_receiver_that_does_not_answer(tmp_path: Path) -> None:
    """The fleet comes up, and metrics count what waits."""
    async with receiver(silent=True) as (url, heard), world(tmp_path, settings=settings(url)) as w:
        assert await w.until_states(cataloged=3) < 60
        for number in range(3):
            assert await w.act("/api/pause", {"reason": str(number)}) == 200
            await w.pass_time(6)
        assert heard["slack"]
        await w.pass_time(60)
        async with w.session.get(f"{w.daemon.url}/metrics") as answer:
            text = await answer.text()
    assert 'gce_backend_call_retries_total{api="webhook",method="webhook.post"}' in text
    assert 'gce_backend_webhook_notices_total{outcome="sent",webhook="slack"} 0.0' in text


async def test_a_killed_daemon_loses_no_notice_and_repeats_none(tmp_path: Path) -> None:
    """What waits, what commands order while no daemon runs, and problems that end meanwhile."""
    async with receiver() as (url, heard), world(tmp_path, settings=settings(url)) as w:
        await w.until_states(cataloged=3)
        w.write_config(template(), "")
        await w.pass_time(60)
        held = "local-project/gce-backend/configuration/configuration/HeldForApproval"
        assert held in str(heard["pagerduty"])
        first = len(heard["json"])
        await w.crash_daemon()
        await w.start_daemon()
        await w.pass_time(60)
        assert len(heard["json"]) == first  # neither events nor problems are told again
    port = int(url.rpartition(":")[2])
    async with world(tmp_path, settings=settings(url)) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(20)
        assert await w.act("/api/cordon", {"name": min(await w.vms()), "reason": "odd"}) == 200
        await w.pass_time(20)  # nobody listens
        await w.crash_daemon()
        await by_command(w)
        async with receiver(port=port) as (_, heard):
            await w.start_daemon()
            await w.pass_time(200)
        reasons = [one["event"]["reason"] for one in heard["json"] if one["type"] != "problem"]
        assert len([one for one in reasons if "Cordoned" in one]) == 1
        assert len([one for one in reasons if "why not" in one]) == 1
        assert len({one["id"] for one in heard["json"]}) == len(heard["json"])


async def test_a_problem_that_ends_while_no_daemon_runs_is_told_ended(tmp_path: Path) -> None:
    """So that no incident stays open; not before each job has tried again."""
    async with receiver() as (url, heard), world(tmp_path, settings=settings(url)) as w:
        await w.until_states(cataloged=3)
        w.write_config(template(), "")
        await w.pass_time(60)
        await w.crash_daemon()
        w.write_config(template(), manager(minimum=3))
        await w.start_daemon()
        await w.pass_time(600)
        assert "resolve" not in str(heard["pagerduty"])
        await w.pass_time(200)
        assert "resolve" in str(heard["pagerduty"])
