"""actions.resources: what is made is made once, and only what is ours is adopted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.configuration import parsing, types
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.keys import revision_key
from gce_backend.rules import compute_bodies
from gce_backend.rules.ownership import Mark
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, manager, template, world
from support.fleet_views import manager_in
from support.outside import cataloged


async def test_conflict_on_create_is_adopted_only_with_our_description(tmp_path: Path) -> None:
    """Fault 19: what bears another owner's word is not touched, and is said to be in the way."""
    async with world(tmp_path, start=False) as w:
        wanted = parsing.parse(template(), manager(), {}).templates[0]
        revision = revision_key(wanted.base_name, types.checksum(wanted))
        body = compute_bodies.template_body(Mark("another-owner"), revision, wanted)
        await w.compute("POST", "global/instanceTemplates", body)
        await w.start_daemon()
        await w.pass_time(300)
        assert await w.vms() == {}
        assert (await w.calls())["compute.instanceTemplates.insert"] <= 12
        fleet = await w.get("/api/fleet")
        assert "NameTaken" in {condition["reason"] for condition in fleet["conditions"]}
        await w.compute("DELETE", f"global/instanceTemplates/{body['name']}")
        await cataloged(w, 3)


@pytest.mark.parametrize(
    "method",
    [
        "instanceTemplates.insert",
        "instanceGroupManagers.insert",
        "instanceGroupManagers.createInstances",
    ],
)
async def test_a_lost_answer_of_a_mutation_does_not_double_it(tmp_path: Path, method: str) -> None:
    """One template, one group, exactly the wanted VMs: what is sent again has the same requestId.

    A growth is not sent again before the group was looked at: it had grown already.
    """
    async with world(tmp_path, start=False) as w:
        await w.inject(f"compute.{method}", kind="drop", when="after", times=3)
        await w.start_daemon()
        if method.endswith("createInstances"):
            await w.until_states(cataloged=3)
            w.write_config(template(), manager(minimum=7))
        size = 7 if method.endswith("createInstances") else 3
        await w.until_states(cataloged=size, within=30)
        assert await w.fired() == (1 if method.endswith("createInstances") else 3)
        assert len(await w.vms()) == size
        assert [group["targetSize"] for group in (await w.groups()).values()] == [size]


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
