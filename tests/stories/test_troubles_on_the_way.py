"""Faults between configuration and catalog: each strikes, is shown while it lasts, and passes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.metadata import IssuedToken
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, manager, template, world
from support.fleet_views import manager_in

INSTANT = CloudOptions().instant()


@pytest.mark.parametrize(
    "service", ["compute", "datastore", "machine_provider", "metadata", "pubsub"]
)
async def test_a_service_that_answers_503_for_minutes_only_delays(
    tmp_path: Path, service: str
) -> None:
    """Out of order from the start; a minute after it is back at the latest, all is there, once."""
    async with world(tmp_path, start=False) as w:
        await w.inject(f"{service}.*", status=503, times=None)
        await w.start_daemon()
        await w.pass_time(300.0)
        assert await w.fired() >= 3
        sent = sum(n for name, n in (await w.calls()).items() if name.startswith(f"{service}."))
        assert sent < 300
        await w.clear_faults()
        await w.until_states(cataloged=3, within=75.0)
        assert len(await w.vms()) == 3
        assert len(await w.groups()) == 1


@pytest.mark.parametrize("kind", ["drop", "truncate", "html"])
@pytest.mark.parametrize("service", ["compute", "datastore", "machine_provider"])
async def test_answers_that_are_lost_cut_or_foreign_are_unknown_and_double_nothing(
    tmp_path: Path, service: str, kind: str
) -> None:
    """The calls took effect, their answers were useless: read back, adopted, and made once."""
    async with world(tmp_path, start=False) as w:
        when = "before" if kind == "truncate" else "after"
        await w.inject(f"{service}.*", kind=kind, when=when, times=6)
        await w.start_daemon()
        await w.until_states(cataloged=3)
        assert await w.fired() >= 1
        assert len(await w.vms()) == 3
        assert len(await w.groups()) == 1
        state = await w.cloud_state()
        assert len(state["compute"]["projects"][PROJECT]["instanceTemplates"]) == 1
        assert set(await w.catalog()) == set(await w.vms())


@pytest.mark.parametrize(
    "method",
    ["instanceTemplates.insert", "instanceGroupManagers.insert", "instanceGroupManagers.resize"],
)
async def test_a_lost_answer_of_a_mutation_does_not_double_it(tmp_path: Path, method: str) -> None:
    """One template, one group, exactly the wanted VMs: what is sent again has the same requestId.

    A resize is not sent again before the group was looked at: it had been raised already.
    """
    async with world(tmp_path, start=False) as w:
        await w.inject(f"compute.{method}", kind="drop", when="after", times=3)
        await w.start_daemon()
        if method.endswith("resize"):
            await w.until_states(cataloged=3)
            w.write_config(template(), manager(minimum=7))
        size = 7 if method.endswith("resize") else 3
        await w.until_states(cataloged=size, within=30)
        assert await w.fired() == (1 if method.endswith("resize") else 3)
        assert len(await w.vms()) == size
        assert [group["targetSize"] for group in (await w.groups()).values()] == [size]


async def test_429_from_everywhere_for_a_while_only_delays(tmp_path: Path) -> None:
    """All services ask for patience at once."""
    async with world(tmp_path, start=False) as w:
        await w.inject("*", status=429, reason="rateLimitExceeded", retry_after=3, times=None)
        await w.start_daemon()
        await w.pass_time(60.0)
        assert await w.fired() >= 3
        await w.clear_faults()
        await w.until_states(cataloged=3, within=75.0)


async def test_a_quota_of_calls_that_is_used_up_pauses_to_the_next_minute(tmp_path: Path) -> None:
    """Compute grants a few calls a minute and region: the fleet comes, refused calls stay few."""
    options = msgspec.structs.replace(INSTANT, calls_per_minute=3)
    managers = "".join(manager(zone=f"us-central1-{zone}", minimum=1) for zone in "abcf")
    async with world(tmp_path, managers=managers, options=options) as w:
        took = await w.until_states(cataloged=4, within=1800.0)
        assert took > 60.0  # the quota was used up more than once
        assert len(await w.vms()) == 4
        sent = sum(n for name, n in (await w.calls()).items() if name.startswith("compute."))
        assert sent < 4 * 3 * (took / 60.0 + 2.0)  # four groups of methods, three calls a minute


async def test_operations_that_end_in_error_are_shown_and_tried_again(tmp_path: Path) -> None:
    """A quota of resources is used up for a while: a reason, a back-off, then a group."""
    async with world(tmp_path, start=False) as w:
        await w.inject(
            "compute.instanceGroupManagers.insert",
            kind="operation",
            reason="QUOTA_EXCEEDED",
            message="Quota 'INSTANCES' exceeded.",
            times=3,
        )
        await w.start_daemon()

        async def is_shown() -> bool:
            fleet = await w.get("/api/fleet")
            return any(c["reason"] == "QuotaExceeded" for c in fleet.get("conditions", ()))

        await w.until(is_shown, every=0.1)
        assert "INSTANCES" in manager_in(await w.get("/api/fleet"), ZONE)["reason"]
        await w.until_states(cataloged=3)
        assert await w.fired() == 3
        assert len(await w.groups()) == 1


async def test_revoked_tokens_are_replaced_by_one_refresh_for_all(tmp_path: Path) -> None:
    """Every token is refused from one moment on; nothing fails for long."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.reset_calls()
        tokens = w.cloud.tables.table("metadata.tokens", IssuedToken)
        assert len(tokens) > 0
        tokens.clear()
        w.write_config(template(), manager(minimum=6))
        took = await w.until_states(cataloged=6)
        assert took < 30.0
        # One for Google's services, one for the Machine Provider's clients, one for itself.
        asked = (await w.calls())["metadata.instance.service-accounts.token"]
        assert 2 <= asked <= 6


async def test_tokens_that_expire_soon_are_renewed_before_they_do(tmp_path: Path) -> None:
    """A minute's life: ten minutes later the fleet still grows, without a back-off."""
    options = msgspec.structs.replace(INSTANT, token_seconds=60.0)
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(600.0)
        w.write_config(template(), manager(minimum=5))
        assert await w.until_states(cataloged=5) < 30.0
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert not [job["name"] for job in jobs if job["last"] and job["last"]["error"]]


async def test_a_crash_after_each_creation_makes_nothing_twice(tmp_path: Path) -> None:
    """The daemon dies again and again on the way up; what it had begun is found and used."""
    two_zones = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=two_zones, options=CloudOptions()) as w:
        for _ in range(12):
            await w.pass_time(0.7)
            await w.restart_daemon()
        await w.until_states(cataloged=5)
        state = await w.cloud_state()
        assert len(state["compute"]["projects"][PROJECT]["instanceTemplates"]) == 1
        assert len(await w.groups()) == 2
        assert len(await w.vms()) == 5
        assert set(await w.catalog()) == set(await w.vms())
        calls = await w.calls()
        assert not calls["compute.instanceGroupManagers.deleteInstances"]
