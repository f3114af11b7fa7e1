"""What a daemon with a store of its own leaves behind, and the operator who removes it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gce_backend.machine_provider import wire

if TYPE_CHECKING:
    from simulation.world import World


async def remove_leftovers(world: World) -> None:
    """Somebody removes what a stranger's daemon has made, which is gone.

    Only once a daemon tells that its names are taken: nobody looks before.
    """
    if any(node.is_up for node in world.guests):
        return
    conditions = (await world.act("/api/fleet") or {}).get("conditions", ())
    told = [one["message"] for one in conditions if one["reason"] == "NameTaken"]
    if not told:
        return
    for group in sorted(world.groups(), key=lambda group: group.key):
        if (group.zone, group.name) not in world.disturbances.made_elsewhere:
            continue
        for row in world.vms():
            if row.group == group.key:
                await world.providers.ask(partial(_take_out, row.name))
        world.oracle.by_hand.add(group.key)
        path = f"zones/{group.zone}/instanceGroupManagers/{group.name}"
        await world.by_hand("DELETE", path)
        world.note(f"an operator deletes the stranger's group {group.name}")
    for name in sorted(world.disturbances.templates_elsewhere):
        if any(name in text for text in told):
            await world.by_hand("DELETE", f"global/instanceTemplates/{name}")
            world.note(f"an operator deletes the stranger's template {name}")


async def _take_out(name: str, broker: Any) -> None:
    wanted = wire.DeleteRequest(dimensions=wire.Dimensions(backend="GCE", hostname=name))
    await broker.catalog.delete("GCE", [wanted])
