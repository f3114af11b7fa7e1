"""Faults 12 and 53: Compute refuses something for ever. Only an operator can mend that."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.permissions import permission_of
from gce_backend.setup.permissions import COMPUTE
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

KINDS = ("instanceGroupManagers", "instanceTemplates")
INSERT = "compute.instanceGroupManagers.insert"
NOT_FOUND = {
    *(f"compute.instanceGroupManagers.{verb}" for verb in ("createInstances", "deleteInstances")),
    *(f"compute.{what}.{verb}" for what in KINDS for verb in ("insert", "delete")),
}
SELDOM = {"import-config": "* * * * *"}
FULL_LOOK = "compute.instances.aggregatedList"


async def reasons(w: World) -> set[str]:
    """The reasons of all conditions shown."""
    return {condition["reason"] for condition in (await w.get("/api/fleet"))["conditions"]}


async def test_fault_12_what_is_forbidden_is_shown_and_not_stormed(tmp_path: Path) -> None:
    """Half an hour without the permission to make groups: a condition, few calls, then recovery."""
    async with world(tmp_path, templates=template(), managers=manager(), start=False) as w:
        message = "Required 'compute.instanceGroupManagers.create' permission"
        await w.inject(INSERT, status=403, reason="forbidden", message=message, times=None)
        await w.start_daemon()
        await w.pass_time(1800)
        assert "PermissionDenied" in await reasons(w)
        assert message in str(await w.get("/api/fleet"))
        assert 5 <= await w.fired() <= 30
        assert (await w.calls())[INSERT] == await w.fired()
        await w.clear_faults()
        await w.until_states(cataloged=3, within=700, every=5.0)
        assert "PermissionDenied" not in await reasons(w)


async def test_the_documented_role_allows_all_that_a_fleet_asks_for(tmp_path: Path) -> None:
    """With its permissions alone: rise, leases, roll-out, full look; nothing is refused."""
    served = msgspec.json.decode(Path(description.__file__).with_suffix(".json").read_bytes())
    beyond = {permission_of(method) for method in served["methods"]} - set(COMPUTE)
    options = msgspec.structs.replace(
        CloudOptions().instant(), denied_permissions=tuple(sorted(beyond))
    )
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        await w.release()
        w.write_config(template(machine_type="e2-medium"), manager())

        async def rolled() -> bool:
            return len(await w.groups()) == 1 and {
                machine["state"] for machine in await w.machines() if machine["state"] != "deleted"
            } == {"cataloged"}

        await w.until(rolled)
        await w.lease("r2")
        await w.release("r2")
        await w.pass_time(120)
        assert (await w.calls())[FULL_LOOK] >= 1
        assert await reasons(w) == set()
        denied = await w.compute("DELETE", f"zones/{ZONE}/instances/{next(iter(await w.vms()))}")
        assert denied["error"]["code"] == 403, "the cloud minds what is denied"


async def test_fault_53_what_compute_does_not_find_for_ever_costs_few_calls_and_is_told(
    tmp_path: Path,
) -> None:
    """Every change of a group or template is answered 404: each backs off alone, and recovers."""
    before = template() + template("old") + template("older")
    async with world(
        tmp_path, templates=before, managers=manager() + manager("old", minimum=0), crons=SELDOM
    ) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        for method in NOT_FOUND:
            await w.inject(method, status=404, reason="notFound", times=None)
        await w.release()
        wanted = manager(minimum=4) + manager(zone=OTHER_ZONE, minimum=1) + manager("new")
        w.write_config(template() + template("new"), wanted)
        await w.pass_time(400)
        await w.reset_calls()
        await w.pass_time(700)
        calls = await w.calls()
        assert {method: 1 <= calls[method] <= 5 for method in NOT_FOUND} == dict.fromkeys(
            NOT_FOUND, True
        )
        told = [c for c in (await w.get("/api/fleet"))["conditions"] if c["reason"] == "NotFound"]
        assert {method for method in NOT_FOUND for c in told if method in c["message"]} == NOT_FOUND
        assert await reasons(w) <= {"NotFound"}
        await w.clear_faults()
        await w.until_states(cataloged=8, within=1500, every=5.0)

        async def is_clean() -> bool:
            templates = (await w.compute("GET", "global/instanceTemplates"))["items"]
            return (len(await w.groups()), len(templates)) == (3, 2)

        await w.until(is_clean, within=900, every=5.0)
        await w.pass_time(120)
        assert await reasons(w) == set()
