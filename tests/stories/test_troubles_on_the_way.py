"""Faults between configuration and catalog: each strikes, is shown while it lasts, and passes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.metadata import IssuedToken
from support.fleet_harness import PROJECT, manager, template, world

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
        # Four groups of methods, three calls a minute; and once a minute the list of what stopped.
        assert sent < 4 * 3 * (took / 60.0 + 2.0) + 2 * (took / 60.0 + 1.0)


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
        # One for Google's services; the Machine Provider verifies its own once a minute.
        assert (await w.calls())["metadata.instance.service-accounts.token"] in {1, 2}


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
