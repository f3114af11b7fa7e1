"""Single troubles, each at a known moment: they lead to awaits that chance spares.

Unlike the kinds of `events.py` these are never chosen by chance: a life of `crashes.py` names them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec

from gce_backend.localcloud.datastore.keys import parse_key
from gce_backend.localcloud.faults import Fault
from gce_backend.model.entities import (
    InstanceGroupManager,
    InstanceTemplateRevision,
    StoreIdentity,
)
from simulation import events
from simulation.events import Act
from simulation.pools import ZONES, Pool
from simulation.world import World
from support.fleet_harness import PROJECT

TEMPLATES, GROUPS = "compute.instanceTemplates", "compute.instanceGroupManagers"
METADATA = "compute.instances.setMetadata"
TOTAL = 512 * 1024
"""Bytes of metadata that Compute Engine allows a VM."""

TROUBLES: dict[str, Act] = {}


def trouble(act: Act) -> Act:
    """Makes a function a trouble that a life can name."""
    if act.__name__ in events.KINDS:
        raise ValueError(f"{act.__name__} is the name of an event")
    TROUBLES[act.__name__] = act
    return act


def _fails(name: str, *, seconds: float = 0.0, **fields: Any) -> None:
    """Makes a trouble of a fault of the embedded cloud; it ends after `seconds`, if there are any.

    Args:
        name: the trouble's.
        seconds: how long it lasts; 0 lets it strike once.
        fields: the fault's.
    """

    async def act(world: World, _: random.Random) -> None:
        fault = Fault(**fields, times=None if seconds else 1)
        world.disturbances.inject(fault, ())
        if seconds:
            await asyncio.sleep(seconds)
            world.disturbances.end(fault)

    TROUBLES[name] = act


_fails("endless_template", method=f"{TEMPLATES}.insert", kind="endless")
_fails("endless_group", method=f"{GROUPS}.insert", kind="endless")
_fails("endless_growth", method=f"{GROUPS}.createInstances", kind="endless")
_fails("endless_end_of_group", method=f"{GROUPS}.delete", kind="endless")
_fails("endless_end_of_template", method=f"{TEMPLATES}.delete", kind="endless")
_fails("endless_metadata", method=METADATA, kind="endless")
_fails("template_refused", method=f"{TEMPLATES}.insert", status=400, reason="invalid")
_fails("template_fails", method=f"{TEMPLATES}.insert", kind="operation", reason="INTERNAL")
_fails("group_refused", method=f"{GROUPS}.insert", status=400, reason="invalid")
_fails("group_fails", method=f"{GROUPS}.insert", kind="operation", reason="INTERNAL")
_fails("group_still_there", method=f"{GROUPS}.delete", status=404, reason="notFound")
_fails("template_still_there", method=f"{TEMPLATES}.delete", status=404, reason="notFound")
_fails("template_unanswered", seconds=30, method=f"{TEMPLATES}.insert", when="after", status=503)
_fails("nothing_is_added", seconds=30, method="machine_provider.catalog.add*", status=503)
_fails("names_refused", method=f"{GROUPS}.createInstances", status=409, reason="alreadyExists")
_fails(
    "names_taken",
    method=f"{GROUPS}.createInstances",
    kind="operation",
    reason="RESOURCE_ALREADY_EXISTS",
)
_fails("growth_fails", method=f"{GROUPS}.createInstances", kind="operation", reason="INTERNAL")
_fails("metadata_fails", method=METADATA, kind="operation", reason="INTERNAL")
_fails("operation_forgotten", method="compute.zoneOperations.get", status=404, reason="notFound")
_fails("no_new_template", seconds=700, method=f"{TEMPLATES}.insert", status=503)
_fails("no_new_group", seconds=700, method=f"{GROUPS}.insert", status=503)
_fails("no_end_of_group", seconds=300, method=f"{GROUPS}.delete", status=503)
_fails("no_end_of_template", seconds=200, method=f"{TEMPLATES}.delete", status=503)
_fails("templates_unlisted", method=f"{TEMPLATES}.list", kind="empty")
_fails("template_denied", method=f"{TEMPLATES}.get", status=404, reason="notFound")
_fails(
    "nobody_tells_the_end",
    seconds=60,
    method="machine_provider.catalog.get",
    status=404,
    reason="notFound",
    message="Not Found",
)


def _sized(size: int) -> Act:
    async def act(world: World, _: random.Random) -> None:
        world.pools["linux"].zones[ZONES[0]] = size
        world.write()

    return act


TROUBLES |= {f"size_{size}": _sized(size) for size in range(1, 10)}


@trouble
async def leave_zone(world: World, _: random.Random) -> None:
    """The second zone is taken out of the configuration."""
    world.pools["linux"].zones.pop(ZONES[1], None)
    world.write()


@trouble
async def enter_zone(world: World, _: random.Random) -> None:
    """The second zone is named again."""
    world.pools["linux"].zones[ZONES[1]] = 2
    world.write()


@trouble
async def large(world: World, _: random.Random) -> None:
    """Machines of another type."""
    world.pools["linux"].machine_type = "e2-standard-2"
    world.write()


@trouble
async def small(world: World, _: random.Random) -> None:
    """Machines of the first type again."""
    world.pools["linux"].machine_type = "e2-small"
    world.write()


def _second(size: int) -> Act:
    async def act(world: World, _: random.Random) -> None:
        world.pools.pop("other", None)
        if size:
            world.pools["other"] = Pool("e2-medium", {ZONES[1]: size})
        world.write()

    return act


TROUBLES |= {f"other_{size}": _second(size) for size in (0, 1, 3)}


@trouble
async def names_in_flight_are_taken(world: World, _: random.Random) -> None:
    """Somebody makes, under their names, what the daemon is about to make."""
    context = world.nodes[0].daemon.context if world.nodes[0].daemon is not None else None
    if context is None:
        return
    fleet, templates = context.fleet, "global/instanceTemplates"
    some = min(row.name for row in world.compute_store.templates.values())
    body = await world.by_hand("GET", f"{templates}/{some}")
    for key, revision in list(fleet.revisions.items()):
        if revision.url is None:
            made = {"name": fleet.template_name(key), "properties": body["properties"]}
            await world.by_hand("POST", templates, made)
    for group, manager in list(fleet.managers.items()):
        if manager.url is None:
            name = fleet.group_name(group)
            path = f"zones/{group.zone}/instanceGroupManagers"
            made = {
                "name": name,
                "instanceTemplate": f"projects/{PROJECT}/{templates}/{some}",
                "baseInstanceName": "strangers",
                "targetSize": 1,
            }
            world.oracle.foreign.add(f"{PROJECT}/{group.zone}/{name}")
            await world.by_hand("POST", path, made)


@trouble
async def replace_empty_group(world: World, _: random.Random) -> None:
    """Somebody deletes an empty group, and makes another one of that name."""
    for group in [row for row in world.groups() if row.target_size == 0]:
        path = f"zones/{group.zone}/instanceGroupManagers"
        body = await world.by_hand("GET", f"{path}/{group.name}")
        world.oracle.by_hand.add(group.key)
        await world.by_hand("DELETE", f"{path}/{group.name}")
        await asyncio.sleep(5)
        kept = ("name", "instanceTemplate", "baseInstanceName")
        made = {name: body[name] for name in kept}
        world.oracle.foreign.add(group.key)
        await world.by_hand("POST", path, {**made, "targetSize": 0})


@trouble
async def delete_templates(world: World, rng: random.Random) -> None:
    """Somebody deletes all templates that no group uses."""
    for _ in world.compute_store.templates.values():
        await events.delete_template(world, rng)


def _edit(
    world: World, kind: type, edit: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> None:
    """Changes the properties of all entities of a kind; None removes one."""
    storage = world.services["datastore"]._storage
    version = storage.next_version(world.clock.now())
    writes = {}
    for name, row in list(world.entities.items()):
        if row.key["path"][-1]["kind"] == kind.KIND:  # type: ignore[attr-defined]  # of entities
            left = edit(dict(row.properties))
            changed = {"version": version, "properties": left}
            after = msgspec.structs.replace(row, **changed) if left is not None else None
            writes[name] = (parse_key(row.key, PROJECT), after)
    storage.apply(version, writes)


@trouble
async def forget_ids(world: World, _: random.Random) -> None:
    """The store is as an earlier release wrote it: without the ids of templates and groups."""

    def without(properties: dict[str, Any]) -> dict[str, Any]:
        properties.pop("gce_id", None)
        return properties

    for kind in (InstanceTemplateRevision, InstanceGroupManager):
        _edit(world, kind, without)


@trouble
async def lose_identity(world: World, _: random.Random) -> None:
    """Somebody removes the entity with the store's id."""
    _edit(world, StoreIdentity, lambda _: None)


@trouble
async def mute(world: World, _: random.Random) -> None:
    """From now on messages about leases do not tell their ends, as the original's never do."""
    pubsub = world.services["pubsub"]
    deliver = pubsub._deliver

    def muted(topic: str, message: dict[str, Any]) -> str:
        attributes = dict(message.get("attributes", {}))
        attributes.pop("lease_expiration_ts", None)
        number: str = deliver(topic, {**message, "attributes": attributes})
        return number

    pubsub._deliver = muted


@trouble
async def fill_metadata(world: World, _: random.Random) -> None:
    """Somebody fills the metadata of all VMs to the brim."""
    for row in world.vms():
        path = f"zones/{row.zone}/instances/{row.name}"
        found = (await world.by_hand("GET", path)).get("metadata", {})
        items = list(found.get("items", ()))
        room = TOTAL - sum(len(item["key"] + item["value"]) for item in items)
        items += [{"key": key, "value": "x" * (room // 2 - 8)} for key in ("x1", "x2")]
        body = {"fingerprint": found.get("fingerprint", ""), "items": items}
        await world.by_hand("POST", f"{path}/setMetadata", body)


@trouble
async def outgrow(world: World, rng: random.Random) -> None:
    """The first template may grow, and people ask for more machines than there are."""
    world.pools["linux"].headroom = 6
    world.write()
    for _ in range(len(world.vms()) + 3):
        await events.lease(world, rng)


@trouble
async def tight_maximum(world: World, _: random.Random) -> None:
    """There may be one machine more than the minimum in each zone."""
    world.pools["linux"].headroom = 1
    world.write()


@trouble
async def no_maximum(world: World, _: random.Random) -> None:
    """The first template no longer grows."""
    world.pools["linux"].headroom = None
    world.write()


@trouble
async def look(world: World, _: random.Random) -> None:
    """Somebody looks at what the daemon tells."""
    for path in ("/api/events?limit=5", "/api/fleet", "/metrics", "/"):
        await world.act(path)


@trouble
async def spoil_config(world: World, _: random.Random) -> None:
    """Somebody submits what is no configuration."""
    (world.config_dir / "templates.cfg").write_text("templates { nonsense")


@trouble
async def undo(world: World, _: random.Random) -> None:
    """An operator undoes the last roll-out; the configuration describes something else later."""
    await world.act("/api/rollout-undo", {"template": "linux", "reason": "simulated"})
    await asyncio.sleep(300)
    world.pools["linux"].machine_type = "e2-medium"
    world.write()


@trouble
async def snapshots(world: World, _: random.Random) -> None:
    """Somebody takes a snapshot."""
    body = {"name": "checkout", "labels": {"contents": "checkout"}}
    await world.by_hand("POST", "global/snapshots", body)


@trouble
async def from_snapshots(world: World, _: random.Random) -> None:
    """Machines have a second disk, and the image says how large the first is."""
    world.pools["linux"].lines = '  disk_size_gb: 0\n  snapshot_labels: "contents:checkout"\n'
    world.write()


@trouble
async def unsized(world: World, _: random.Random) -> None:
    """The image says how large the machines' disks are."""
    world.pools["linux"].lines = "  disk_size_gb: 0\n"
    world.write()


@trouble
async def boot_snapshot(world: World, _: random.Random) -> None:
    """Machines boot from a snapshot, which says how large their disks are."""
    lines = '  disk_size_gb: 0\n  image_name: ""\n  boot_snapshot_name: "checkout"\n'
    world.pools["linux"].lines = lines
    world.write()


@trouble
async def group_unanswered(world: World, _: random.Random) -> None:
    """A group is made, nobody hears of it, and nothing more is answered for two minutes."""
    insert = f"{GROUPS}.insert"
    world.disturbances.inject(Fault(method=insert, when="after", status=503), ())
    silence = Fault(method=insert, status=503, skip=1, times=None)
    world.disturbances.inject(silence, ())
    await asyncio.sleep(120)
    world.disturbances.end(silence)


@trouble
async def use_templates(world: World, _: random.Random) -> None:
    """Somebody makes groups of our instance templates, which then cannot be deleted."""
    for row in list(world.compute_store.templates.values()):
        name = f"strangers-{row.name}"[:60]
        made = {
            "name": name,
            "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/{row.name}",
            "baseInstanceName": "strangers",
            "targetSize": 0,
        }
        world.oracle.foreign.add(f"{PROJECT}/{ZONES[0]}/{name}")
        await world.by_hand("POST", f"zones/{ZONES[0]}/instanceGroupManagers", made)


@trouble
async def spot(world: World, _: random.Random) -> None:
    """Machines are Spot VMs, and boot from the newest image of a family."""
    lines = '  image_name: ""\n  image_family: "debian-12"\n  provisioning_model: "SPOT"\n'
    world.pools["linux"].lines = lines
    world.write()


@trouble
async def short_lived(world: World, _: random.Random) -> None:
    """Machines are to be replaced once they are ten minutes old."""
    world.pools["linux"].fields = {"max_age_seconds": 600}
    world.write()
