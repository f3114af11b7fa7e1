"""What is in a daemon's way, and the operator who removes it as docs/runbook.md says.

A daemon with a store of its own leaves things behind, and somebody makes a group by hand.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gce_backend.machine_provider import wire
from support.fleet_harness import PROJECT

if TYPE_CHECKING:
    from simulation.world import World


async def remove_leftovers(world: World) -> None:
    """Somebody removes what is in the way.

    Only once a daemon tells of it: nobody looks before.
    """
    conditions = (await world.act("/api/fleet") or {}).get("conditions", ())
    taken = [one["message"] for one in conditions if one["reason"] == "NameTaken"]
    guests_left = bool(taken) and not any(node.is_up for node in world.guests)
    for group in sorted(world.groups(), key=lambda group: group.key):
        if (group.zone, group.name) in world.disturbances.made_elsewhere:
            if guests_left:
                await _delete(world, group, "the stranger's")
        elif any(_is_in_the_way(group, text) for text in taken):
            await _delete(world, group, "somebody's")
    for name in sorted(world.disturbances.templates_elsewhere) if guests_left else ():
        if any(name in text for text in taken):
            await world.by_hand("DELETE", f"global/instanceTemplates/{name}")
            world.note(f"an operator deletes the stranger's template {name}")


def _is_in_the_way(group: Any, text: str) -> bool:
    """Whether a daemon says that a group that has the name of one of its own is nobody's."""
    return text.startswith(f"group {group.name} in {PROJECT}, {group.zone} exists and is not ours")


async def _delete(world: World, group: Any, whose: str) -> None:
    for row in world.vms():
        if row.group == group.key:
            await world.providers.ask(partial(_take_out, row.name))
    world.oracle.by_hand.add(group.key)
    path = f"zones/{group.zone}/instanceGroupManagers/{group.name}"
    await world.by_hand("DELETE", path)
    world.note(f"an operator deletes {whose} group {group.name}")


async def _take_out(name: str, broker: Any) -> None:
    wanted = wire.DeleteRequest(dimensions=wire.Dimensions(backend="GCE", hostname=name))
    await broker.catalog.delete("GCE", [wanted])
