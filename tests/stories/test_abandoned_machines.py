"""VMs that somebody took out of their group, and that exist still: fault 45."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import World, world
from support.outside import abandon, cataloged, ids

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
SELDOM = {"import-config": "* * * * *"}


@pytest.mark.parametrize("leased", [False, True])
async def test_hole_10_an_abandoned_vm_is_told_apart_from_a_deleted_one(
    tmp_path: Path, leased: bool
) -> None:
    """It leaves the catalog unless somebody holds it; its VM stays; looks at it become seldom."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = await w.lease() if leased else min(before)
        await abandon(w, name)
        await w.until(lambda: _is_reported(w, name))
        await w.pass_time(120)
        assert (name in await w.catalog()) is leased
        if leased:
            await w.release()
            await w.pass_time(300)
            assert name not in await w.catalog()
        await w.until(lambda: w.has_vms(4))  # the group has what it is to have
        await w.pass_time(600)
        await w.reset_calls()
        await w.pass_time(600)
        assert (await w.calls())["compute.instances.get"] <= 6
        assert (await ids(w))[name] == before[name]
        problems = (await w.get("/api/status"))["problems"]
        assert not [p for p in problems if p["reason"] == "Missing"]
        [problem] = [p for p in problems if p["reason"] == "Abandoned"][:1]
        assert f"gcloud compute instances delete {name}" in problem["message"]


async def _is_reported(w: World, name: str) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(p["reason"] == "Abandoned" and name in p["examples"] for p in problems)
