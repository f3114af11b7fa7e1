"""Fault 12: the service account may not do something. Only an operator can mend that."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.permissions import permission_of
from gce_backend.setup.permissions import COMPUTE
from support.fleet_harness import ZONE, World, manager, template, world

INSERT = "compute.instanceGroupManagers.insert"
FULL_LOOK = "compute.instances.aggregatedList"


async def reasons(w: World) -> set[str]:
    """The reasons of all conditions shown."""
    return {condition["reason"] for condition in (await w.get("/api/fleet"))["conditions"]}


async def test_fault_12_what_is_forbidden_is_shown_and_not_stormed(tmp_path: Path) -> None:
    """An hour without the permission to make groups: a condition, few calls, then recovery."""
    async with world(tmp_path, templates=template(), managers=manager(), start=False) as w:
        message = "Required 'compute.instanceGroupManagers.create' permission"
        await w.inject(INSERT, status=403, reason="forbidden", message=message, times=None)
        await w.start_daemon()
        await w.pass_time(3600)
        assert "PermissionDenied" in await reasons(w)
        assert message in str(await w.get("/api/fleet"))
        assert 5 <= await w.fired() <= 30
        assert (await w.calls())[INSERT] == await w.fired()
        await w.clear_faults()
        await w.until_states(cataloged=3, within=700)
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
