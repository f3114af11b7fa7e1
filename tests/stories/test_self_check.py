"""The daemon looks at itself, seldom: what `doctor` would find shows without anybody's asking."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gce_backend.daemon.daemon import Daemon
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import MACHINE_PROVIDER_KEY, MachineProviderAddress
from support.fleet_harness import PROJECT, World, prepare, world
from support.scraped import scrape

TOPICS = f"/v1/projects/{PROJECT}/topics"
PERMISSIONS = "cloudresourcemanager.projects.testIamPermissions"

FORBIDDEN = {"status": 403, "reason": "PERMISSION_DENIED"}


async def readiness(w: World) -> dict[str, dict[str, Any]]:
    """The checks of `/readyz` by name."""
    return {check["name"]: check for check in (await w.get("/readyz"))["checks"]}


def fails(w: World, name: str, words: str) -> Callable[[], Awaitable[bool]]:
    """Whether a check fails with these words."""

    async def failing() -> bool:
        check = (await readiness(w))[name]
        return not check["ok"] and words in check["message"]

    return failing


async def is_ready(w: World) -> bool:
    """Whether all checks are well."""
    return all(check["ok"] for check in (await readiness(w)).values())


async def shown(w: World, reason: str) -> dict[str, Any]:
    """The one problem with this reason."""
    problems = (await w.get("/api/status"))["problems"]
    [found] = [problem for problem in problems if problem["reason"] == reason]
    return dict(found)


async def test_a_topic_that_was_deleted_and_made_anew_is_noticed(tmp_path: Path) -> None:
    """Pulls succeed, and nothing ever comes: the subscription is of the deleted topic."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        topic = f"{TOPICS}/{w.settings.pubsub.topic}"
        await w.call("DELETE", topic)
        await w.call("PUT", topic, {})
        await w.until(fails(w, "messages", "_deleted-topic_"), within=660.0)
        problem = await shown(w, "MessagesCutOff")
        assert problem["severity"] == "critical"
        assert "delete the subscription, and run setup again" in problem["message"]
        found = await scrape(w)
        assert found.of("ready", check="messages") == {(): 0}
        assert found.of("conditions", reason="MessagesCutOff") == {("self-check",): 1}


async def test_a_subscription_that_was_made_anew_on_another_topic_is_noticed_until_it_is_mended(
    tmp_path: Path,
) -> None:
    """The message names both topics; the remedy that it names ends the problem."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        subscription = f"/v1/projects/{PROJECT}/subscriptions/{w.settings.pubsub.subscription}"
        made = await w.call("GET", subscription)
        body = {key: made[key] for key in ("topic", "ackDeadlineSeconds", "expirationPolicy")}
        other = f"{TOPICS}/another"
        await w.call("PUT", other, {})
        await w.call("DELETE", subscription)
        await w.call("PUT", subscription, {**body, "topic": other.removeprefix("/v1/")})
        await w.until(fails(w, "messages", f"topics/another, not {body['topic']}"), within=660.0)
        assert (await shown(w, "MessagesCutOff"))["severity"] == "critical"
        await w.call("DELETE", subscription)
        await prepare(w, w.settings)
        await w.until(lambda: is_ready(w), within=130.0)
        problems = (await w.get("/api/status"))["problems"]
        assert not [problem for problem in problems if problem["reason"] == "MessagesCutOff"]


async def test_line_10_a_permission_that_was_taken_away_is_noticed_and_its_return_too(
    tmp_path: Path,
) -> None:
    """No job need fail first."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.until(lambda: is_ready(w))
        await w.inject(PERMISSIONS, kind="answer", body={"permissions": []}, times=None)
        await w.until(fails(w, "permissions", "datastore.entities.update"), within=700.0)
        assert (await shown(w, "PermissionMissing"))["severity"] == "critical"
        await w.clear_faults()
        assert await w.until(lambda: is_ready(w)) < 90


async def test_line_10_an_address_that_the_daemon_may_not_use_is_noticed(tmp_path: Path) -> None:
    """As `doctor` would find it: the host is not on the list of the settings."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        elsewhere = MachineProviderAddress(instance_url="https://elsewhere.invalid")
        await w.daemon.context.fleet.change([Change(MACHINE_PROVIDER_KEY, lambda _: elsewhere)])
        await w.until(fails(w, "addresses", "elsewhere.invalid"), within=700.0)
        assert (await shown(w, "AddressRefused"))["severity"] == "critical"


async def test_what_cannot_be_looked_at_proves_nothing(tmp_path: Path) -> None:
    """Without the right to look, or an answer, the daemon stays ready."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject("pubsub.projects.topics.get", times=None, **FORBIDDEN)
        await w.inject("pubsub.projects.subscriptions.get", status=503, times=None)
        await w.inject(PERMISSIONS, times=None, **FORBIDDEN)
        await w.pass_time(700.0)
        assert await is_ready(w)


async def test_line_10_a_second_daemon_on_the_store_is_noticed_and_a_restart_is_none(
    tmp_path: Path,
) -> None:
    """Each of the two says so, and where the other one is; the one that stays is well again."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(100.0)
        await w.restart_daemon()
        await w.pass_time(700.0)
        assert await is_ready(w)
        second = Daemon(w.settings, clock=w.clock, rng=random.Random(99))
        await second.start()
        await w.until(fails(w, "alone", second.url), within=2000.0)
        assert (await shown(w, "SecondDaemon"))["severity"] == "critical"
        await second.stop()
        assert await w.until(lambda: is_ready(w)) < 150


async def test_looking_is_cheap(tmp_path: Path) -> None:
    """Three looks in half an hour: one lookup each, no commit, and a dozen reads of Pub/Sub."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(120.0)
        await w.reset_calls()
        await w.pass_time(1800.0)
        calls = await w.calls()
        assert 2 <= calls[PERMISSIONS] / 2 <= 4
        assert calls["datastore.projects.commit"] == 0
        looks = {
            name: n for name, n in calls.items() if name.startswith("pubsub") and "pull" not in name
        }
        assert sum(looks.values()) <= 4 * 12
