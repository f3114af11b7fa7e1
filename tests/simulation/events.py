"""What happens to a world: users, operators, other people's hands, daemons' fates, broken networks.

To add a fault: write a function here that does it, put `@event(weight, rows...)` above it, and say
with `world.disturbances.met(row)` when it has really happened, unless a rule or an injected fault
counts itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.localcloud.datastore.keys import parse_key
from gce_backend.localcloud.faults import Fault
from gce_backend.machine_provider import wire
from simulation.faults import STRANGER, Rule
from simulation.network import Fate, Request
from simulation.nodes import Host, Node, WorldClock
from simulation.pools import FAMILY, TYPES, ZONES, Pool, draw, owner_of
from simulation.world import (
    MP_NAMESPACE,
    OFFERED,
    STRANGERS_SYSTEM,
    USERS,
    World,
)
from support.fleet_harness import PROJECT

Act = Callable[[World, random.Random], Awaitable[None]]
H = TypeVar("H", bound=Host)
BROKER = "machine_provider.*"
TOPIC = f"projects/{PROJECT}/topics/machine-provider"
SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/machine-provider"
LATEST_SECONDS = 600.0
"""How late a call is executed at most."""
_NOWHERE = Pool("", {})
MISTAKE = 20
"""Machines that somebody asks for by mistake."""


class Event(msgspec.Struct, frozen=True):
    """Something that happens.

    Attributes:
        at: when, in simulated seconds after the fleet has risen.
        kind: what: a name in `KINDS`.
        chance: names the chance in it.
    """

    at: float
    kind: str
    chance: int


class Kind(NamedTuple):
    """A kind of event: what it does, how often it is chosen, which rows of safety.md it meets."""

    act: Act
    weight: float
    rows: tuple[int, ...]


KINDS: dict[str, Kind] = {}


def event(weight: float, *rows: int) -> Callable[[Act], Act]:
    """Makes a function a kind of event."""

    def add(act: Act) -> Act:
        KINDS[act.__name__.strip("_")] = Kind(act, weight, rows)
        return act

    return add


# Users


@event(12, 32)
async def lease(world: World, rng: random.Random) -> None:
    """Somebody wants a machine for minutes or hours."""
    world.leases += 1
    request = f"lease-{world.leases}"
    seconds = rng.choice((300, 1800, 7200, 6 * 3600, 86400, None))
    user, count = rng.choice(USERS), rng.choice((1, 1, 1, 1, 2, 3))
    more = {} if rng.random() < 0.8 else {"keepalive": rng.choice((60, 600))}
    name = await world.lease(request, seconds, user=user, count=count, **more)
    world.wanted.append(request)
    terms = f"{count} for {seconds or 'endless'} s, {more or 'no more terms'}"
    world.note(f"user asks for {request}, {terms}: {name or 'waits'}")


@event(1.5)
async def ask_for_too_many(world: World, rng: random.Random) -> None:
    """Somebody wants machines again and again: more than there are, so that some requests wait."""
    for _ in range(min(world.shape.machines, 20)):
        await lease(world, rng)


@event(4)
async def lease_all(world: World, rng: random.Random) -> None:
    """Somebody takes all that is free."""
    free = sum(1 for entry in world.oracle.entries.values() if entry.state == "AVAILABLE")
    for _ in range(min(free, 40)):
        await lease(world, rng)


@event(8)
async def release(world: World, rng: random.Random) -> None:
    """Somebody gives a machine back."""
    if world.wanted:
        request = world.wanted.pop(rng.randrange(len(world.wanted)))
        world.note(f"user releases {request}")
        await world.release(request)


@event(2)
async def release_all(world: World, rng: random.Random) -> None:
    """Everybody does."""
    while world.wanted:
        await release(world, rng)


@event(2)
async def forget(world: World, rng: random.Random) -> None:
    """Somebody no longer thinks of it: the lease runs out by itself."""
    if world.wanted:
        request = world.wanted.pop(rng.randrange(len(world.wanted)))
        world.note(f"user forgets {request}")


# Configuration


def _changed(world: World, text: str) -> None:
    world.write()
    world.note(f"config: {text}")


@event(6)
async def change_type(world: World, rng: random.Random) -> None:
    """A new revision of a template."""
    name = rng.choice(sorted(world.pools)) if world.pools else ""
    if name:
        world.pools[name].machine_type = rng.choice(TYPES)
        _changed(world, f"{name} is of type {world.pools[name].machine_type}")


@event(2)
async def flap(world: World, rng: random.Random) -> None:
    """A new revision, and the old one again a few minutes later."""
    if not world.pools:
        return
    name = rng.choice(sorted(world.pools))
    before = world.pools[name].machine_type
    world.pools[name].machine_type = rng.choice([kind for kind in TYPES if kind != before])
    _changed(world, f"{name} is of type {world.pools[name].machine_type}")
    await asyncio.sleep(rng.uniform(5, 400))
    if name in world.pools:
        world.pools[name].machine_type = before
        _changed(world, f"{name} is of type {before} again")


@event(5)
async def change_zone(world: World, rng: random.Random) -> None:
    """A zone is taken out of the configuration, or named again."""
    if not world.pools:
        return
    pool = world.pools[rng.choice(sorted(world.pools))]
    zone = rng.choice(ZONES)
    if zone in pool.zones:
        del pool.zones[zone]
        _changed(world, f"{zone} is taken out")
    else:
        pool.zones[zone] = rng.randint(1, max(1, world.shape.machines // 2))
        _changed(world, f"{zone} is named, {pool.zones[zone]} machines")


@event(4)
async def flap_zone(world: World, rng: random.Random) -> None:
    """A zone is taken out, and named again minutes later."""
    if not world.pools:
        return
    pool = world.pools[rng.choice(sorted(world.pools))]
    if not pool.zones:
        return
    zone = rng.choice(sorted(pool.zones))
    minimum = pool.zones.pop(zone)
    _changed(world, f"{zone} is taken out")
    await asyncio.sleep(rng.uniform(30, 900))
    pool.zones.setdefault(zone, minimum)
    _changed(world, f"{zone} is named again")


@event(5)
async def change_size(world: World, rng: random.Random) -> None:
    """More machines, or fewer."""
    if not world.pools:
        return
    pool = world.pools[rng.choice(sorted(world.pools))]
    for zone in sorted(pool.zones):
        pool.zones[zone] = rng.randint(1, max(2, world.shape.machines))
    _changed(world, f"sizes are {pool.zones}")


@event(0.7, 35)
async def taken_back_growth(world: World, rng: random.Random) -> None:
    """A size by mistake while a zone has no machines; it is put right before they are made."""
    named = [(name, zone) for name, pool in world.pools.items() for zone in sorted(pool.zones)]
    if not named:
        return
    name, zone = rng.choice(named)
    pool = world.pools[name]
    right = pool.zones[zone]
    calls_fail = {"method": "compute.instanceGroupManagers.createInstances", "status": 503}
    wrong: dict[str, Any] = rng.choice(({"kind": "stockout"}, calls_fail))
    fault = _fault(world, 35, zone=zone, times=None, **wrong)
    pool.zones[zone] = right + MISTAKE
    _changed(world, f"{zone} is to have {right + MISTAKE} machines, by mistake, and has no room")
    await asyncio.sleep(rng.uniform(40, 200))
    if pool.zones.get(zone) != right + MISTAKE:
        world.disturbances.end(fault)
        return
    pool.zones[zone] = right
    _changed(world, f"{zone} is to have {right} machines again")
    changes = world.changes
    await asyncio.sleep(LATEST_SECONDS - 100.0)
    given_up = await _is_calm(world, fault)
    world.disturbances.end(fault)
    world.note(f"{zone} has room again")
    since = world.loop.time()
    if not given_up or not await _is_calm(world, fault) or world.changes != changes:
        return
    vms = world.oracle.vms.values()
    lives = [vm for vm in vms if zone in vm.group and vm.name.startswith(f"{name}-")]
    made = sum(1 for vm in lives if vm.made >= since)
    lost = sum(1 for vm in lives if vm.doomed is not None and vm.doomed >= since)
    if pool.headroom is None and made > right + lost and not await _held(world):
        world.oracle.fail("L1", f"{zone}: {made} VMs are made, and {right} are wanted at most")


async def _is_calm(world: World, fault: Fault | None = None) -> bool:
    """Whether for five minutes all daemons work, and nothing, but for one fault, hinders them."""
    struck, calm = world.disturbances.strikes(), True
    for _ in range(15):
        await asyncio.sleep(20.0)
        work = all(host.is_awake for host in world.hosts)
        calm = calm and work and not world.pauses and world.disturbances.is_alone(fault)
    return calm and world.disturbances.strikes() == struck


@event(4)
async def change_fields(world: World, rng: random.Random) -> None:
    """Other fields of a template and its managers: limits, schedules, zones, kinds of VMs."""
    if not world.pools:
        return
    name = rng.choice(sorted(world.pools))
    if name != "odd":
        drawn = draw(world.pools[name], rng, world.clock.now())
        _changed(world, f"{name} has {drawn}")


@event(1)
async def new_image(world: World, rng: random.Random) -> None:
    """A family of images has a newer one."""
    image = f"{FAMILY}-v{rng.randint(1, 99)}"
    url = f"{world.cloud.base_url}/_localcloud/images"
    async with world.session.put(url, json={"family": FAMILY, "image": image}) as response:
        world.changes += 1
        world.note(f"the newest image of {FAMILY} is {image}: {response.status}")


@event(1)
async def demand_step(world: World, rng: random.Random) -> None:
    """Somebody takes one machine more than is free, for a while: one growth, then one shrink."""
    if not world.pools:
        return
    name = rng.choice(sorted(world.pools))
    pool = world.pools[name]
    if not pool.headroom or pool.schedules or "max_age_seconds" in pool.fields:
        pool.headroom, pool.schedules = rng.choice((1, 3, 8)), ()
        pool.fields.pop("max_age_seconds", None)
        _changed(world, f"{name} may have {pool.headroom} more, at all times")
    if not await _is_still(world, name):
        return
    free = sum(world.oracle.entries[row.name].state == "AVAILABLE" for row in _offered(world))
    before = world.changes, world.leases, len(world.wanted)
    surplus, since = float(pool.fields.get("surplus_seconds", 900)), world.loop.time()
    asked = [f"step-{world.loop.time():.0f}-{number}" for number in range(min(free, 30) + 1)]
    world.note(f"demand rises by {len(asked)}")
    for request in asked:
        await world.lease(request, None)
    world.leases += len(asked)
    calm = await _is_calm(world) and not world.asked_in_vain()
    still = not calm or await _is_still(world, name)
    for request in asked:
        await world.release(request)
    calm = calm and (world.changes, world.leases - len(asked), len(world.wanted)) == before
    world.note(f"demand falls again{'' if calm else ', and nobody looks'}")
    for _ in range(int(max(surplus, 0.0) // 300) + 2):
        calm = await _is_calm(world) and calm
    if not calm or not await _is_calm(world):
        return
    made, lost = _pace(world, name, since)
    most = 2 * len(asked) + 2 + (pool.spare or 0)
    steady = still and made <= most and lost <= most and await _is_still(world, name)
    if not steady and (world.changes, world.leases - len(asked), len(world.wanted)) == before:
        text = f"{name}: {made} VMs are made and {lost} deleted for {len(asked)} leases"
        world.oracle.fail("D", text)


def _pace(world: World, name: str, since: float) -> tuple[int, int]:
    """How many VMs of a pool were made since then, and how many were destroyed."""
    ours = [vm for vm in world.oracle.vms.values() if owner_of(vm.name, world.pools) == name]
    made = sum(vm.made >= since for vm in ours)
    return made, sum(vm.doomed is not None and vm.doomed >= since for vm in ours)


async def _is_still(world: World, name: str) -> bool:
    """Whether for five minutes nothing is wrong, and no VM of a pool comes or goes."""
    since = world.loop.time()
    return await _is_calm(world) and _pace(world, name, since) == (0, 0)


@event(1)
async def order_about_rollout(world: World, rng: random.Random) -> None:
    """An operator pauses or undoes a roll-out, and lets it go on."""
    order = rng.choice(("pause", "undo"))
    if await world.act(f"/api/rollout-{order}", {"template": "linux", "reason": "simulated"}):
        world.note(f"operator: rollout {order}")
        await asyncio.sleep(rng.uniform(20, 900))
        await world.act("/api/rollout-resume", {"template": "linux"})
        world.note("operator: rollout resume")


@event(2)
async def other_template(world: World, rng: random.Random) -> None:
    """A second template comes, or goes."""
    if "other" in world.pools:
        del world.pools["other"]
        _changed(world, "other is taken out")
    else:
        world.pools["other"] = Pool(rng.choice(TYPES), {rng.choice(ZONES): rng.randint(1, 3)})
        _changed(world, "other is named")


@event(1.5, 28, 51)
async def empty_config(world: World, rng: random.Random) -> None:
    """An empty configuration, by mistake, once or twice; perhaps somebody approves it once."""
    await _empty_config(world, rng, approved=rng.random() < 0.4)


@event(0, 28, 51)
async def approved_empty_config(world: World, rng: random.Random) -> None:
    """The same, and it is approved the first time: chosen by scripts alone."""
    await _empty_config(world, rng, approved=True, alone=True)


async def _empty_config(
    world: World, rng: random.Random, *, approved: bool, alone: bool = False
) -> None:
    kept, world.pools = world.pools, {}
    for turn in range(2):
        _changed(world, "everything is taken out")
        since, approvals = world.loop.time(), world.approvals
        await asyncio.sleep(rng.uniform(40, 300))
        held = await _held(world)
        unasked = turn and world.approved and not held and world.approvals == approvals
        if unasked and _lost_unasked(world, since, kept, most=not alone):
            world.oracle.fail("S5", "an empty configuration that was approved once came twice")
        if held:
            world.disturbances.met(28)
            if turn:
                world.disturbances.met(51)
        if held and approved and turn == 0 and await world.act("/api/approve", {"revision": held}):
            world.note(f"operator approves {held[:12]}")
            world.approved.append(held)
            world.approvals += 1
            await asyncio.sleep(rng.uniform(60, 900))
        world.pools = kept
        _changed(world, "what was there before is back")
        await asyncio.sleep(rng.uniform(60, 900))
        kept, world.pools = world.pools, {}
    world.pools = kept
    _changed(world, "what was there before is back")


@event(0.7, 54)
async def leave_project(world: World, rng: random.Random) -> None:
    """Everything is taken out, and approved; a VM that no entity knows stays behind."""
    rows = [row for row in world.vms() if row.id and row.group and row.status == "RUNNING"]
    rows = [row for row in rows if world.oracle.holder(row.name) is None]
    if not rows or not world.pools:
        return
    row = rng.choice(sorted(rows, key=lambda row: row.name))
    await _abandon(world, row)
    await asyncio.sleep(3.0)
    _remove_entity(world, "Instance", row.name)
    kept, world.pools = world.pools, {}
    _changed(world, "everything is taken out, for good")
    since = world.loop.time()
    while world.groups() and world.loop.time() < since + 1200:
        await world.release_everything()
        await approve_held(world)
        await asyncio.sleep(20.0)
    if not world.groups():
        for node in world.nodes:  # what a process knew of it is forgotten
            world.kill(node)
            await world.start_daemon(node)
        await _judge_left_behind(world, row)
    world.pools = kept
    _changed(world, "what was there before is back")
    world.strangers.add(row.name)  # its entry, which only the Machine Provider remembers
    if any(left.id == row.id for left in world.vms()):
        await _delete_vm(world, row)


async def _judge_left_behind(world: World, row: Any) -> None:
    """S2: a VM is reported in a project without a group of ours."""
    for _ in range(40):
        if not any(left.id == row.id for left in world.vms()):
            return
        fleet = await world.act("/api/fleet") or {}
        if row.name in str(fleet.get("conditions", "")):
            world.note(f"vm {row.name} is reported, and its project has no group")
            world.disturbances.met(54)
            return
        await asyncio.sleep(20.0)
    if world.disturbances.is_quiet_now and await world.act("/api/fleet") is not None:
        world.oracle.fail("S2", f"vm {row.name} is not reported: its project has no group")


def _lost_unasked(world: World, since: float, kept: dict[str, Pool], *, most: bool) -> bool:
    """Whether machines, or most of them, were destroyed since then, not by hand.

    Args:
        kept: what the configuration said before: what it did not name leaves for another reason.
    """
    lost = [
        vm
        for number, vm in world.oracle.vms.items()
        if vm.doomed is not None
        and vm.doomed > since
        and number not in world.oracle.by_hand
        and vm.group.split("/")[1] in kept.get(owner_of(vm.name, kept), _NOWHERE).zones
    ]
    return bool(lost) and (not most or len(lost) > len(world.vms()))


async def _held(world: World) -> str:
    found = await world.act("/api/control")
    return (found or {}).get("held_revision") or ""


# Operators


@event(3)
async def approve(world: World, rng: random.Random) -> None:
    """An operator approves what is held."""
    del rng
    await approve_held(world)


async def approve_held(world: World) -> None:
    """An operator approves what is held, if anything is."""
    held = await _held(world)
    if held and await world.act("/api/approve", {"revision": held}):
        world.approvals += 1
        world.note(f"operator approves {held[:12]}")


@event(2)
async def pause(world: World, rng: random.Random) -> None:
    """An operator pauses the fleet, or a part, and lets it go on."""
    scope = rng.choice(({}, {"zone": ZONES[0]}, {"template": "linux"}))
    if await world.act("/api/pause", {"reason": "simulated", **scope}):
        world.note(f"operator pauses {scope or 'everything'}")
        world.pauses += 1
        await asyncio.sleep(rng.uniform(20, 900))
        await world.act("/api/resume", {"all": True})
        world.pauses -= 1
        world.note("operator resumes")


@event(3)
async def drain(world: World, rng: random.Random) -> None:
    """An operator drains a machine."""
    names = sorted(row.name for row in world.vms())
    if names:
        name = rng.choice(names)
        if await world.act("/api/drain", {"name": name, "reason": "simulated"}):
            world.note(f"operator drains {name}")


# Daemons


def _up(hosts: Sequence[H], rng: random.Random) -> H | None:
    up = [host for host in hosts if host.is_up]
    return rng.choice(up) if up else None


@event(5, 1, 55)
async def kill(world: World, rng: random.Random) -> None:
    """Kill -9, and a new process after a while; sometimes several in a row."""
    node = _up(world.nodes, rng)
    if node is not None:
        await _kill(world, node, rng, 1)


async def _kill(world: World, host: Host, rng: random.Random, row: int) -> None:
    for turn in range(rng.choice((1, 1, 1, 4))):
        if host.is_up:
            world.kill(host)
            world.note(f"{host.name} is killed")
            world.disturbances.met(row, *((55,) if turn else ()))
        await asyncio.sleep(rng.uniform(0.5, 120) if turn == 0 else rng.uniform(1, 20))
        await world.start_on(host)
        world.note(f"{host.name} starts")


@event(2, 37)
async def terminate(world: World, rng: random.Random) -> None:
    """SIGTERM, and a new process."""
    node = _up(world.nodes, rng)
    if node is not None:
        await _terminate(world, node, rng, 37)


async def _terminate(world: World, host: Host, rng: random.Random, row: int) -> None:
    if not host.is_awake:
        return
    world.note(f"{host.name} is told to stop")
    world.disturbances.met(row)
    await world.stop(host)
    await asyncio.sleep(rng.uniform(1, 60))
    await world.start_on(host)
    world.note(f"{host.name} starts")


@event(4, 26, 38)
async def freeze(world: World, rng: random.Random) -> None:
    """A process stands still for seconds or many minutes, and goes on as if nothing had been."""
    node = _up(world.nodes, rng)
    if node is not None:
        await _freeze(world, node, world.nodes, rng, 38)


async def _freeze(
    world: World, host: Host, replicas: Sequence[Host], rng: random.Random, row: int
) -> None:
    if host.process is None or not host.is_awake:
        return
    process, seconds = host.process, rng.choice((12.0, 30.0, 90.0, 400.0, 900.0))
    process.paused = True
    world.note(f"{host.name} stands still")
    world.disturbances.met(row)
    if any(other is not host and other.is_up for other in replicas):
        world.disturbances.met(26)
    await asyncio.sleep(seconds)
    if not process.dead:
        process.resume(world.loop)
        world.note(f"{host.name} goes on after {seconds:g} s")


@event(1.5, 27, 52)
async def clock_jump(world: World, rng: random.Random) -> None:
    """A clock jumps, forward or back, and is put right later."""
    node = rng.choice(world.nodes)
    jump = rng.choice((-86400.0, -3600.0, 3600.0, 86400.0))
    node.clock.offset += jump
    world.note(f"clock of {node.name} jumps by {jump:g} s")
    world.disturbances.met(27, *((52,) if jump == -86400 else ()))
    await asyncio.sleep(rng.uniform(30, 1800))
    node.clock.offset -= jump
    world.note(f"clock of {node.name} is put right")


@event(0.4, 27, 52)
async def clock_set_back(world: World, rng: random.Random) -> None:
    """All clocks are a day behind from now on, while a VM that stopped waits to be replaced."""
    free = [row for row in _offered(world) if world.oracle.entries[row.name].state == "AVAILABLE"]
    row = await _stop_vm(world, free, rng)
    if row is None:
        return
    await asyncio.sleep(100.0)  # a daemon has seen it, and stored since when
    for node in world.nodes:
        node.clock.offset -= 86400.0
    world.note("all clocks are set back a day")
    world.disturbances.met(27, 52)
    changes = world.changes
    calm = [await _is_calm(world) for _ in range(4)]
    stays = any(one.id == row.id for one in world.vms()) and world.oracle.holder(row.name) is None
    if stays and all(calm) and world.changes == changes and not await _held(world):
        world.oracle.fail(
            "L1", f"vm {row.name} stopped, and waits until clocks are where they were"
        )
    for node in world.nodes:
        node.clock.offset += 86400.0
    world.note("all clocks are put right")


@event(1, 44)
async def stranger(world: World, rng: random.Random) -> None:
    """A second daemon of the same owner, with a store of its own and a copied configuration."""
    settings = msgspec.structs.replace(
        world.settings,
        store=msgspec.structs.replace(world.settings.store, namespace="elsewhere"),
    )
    node = Node(STRANGER, WorldClock(world.loop))
    with contextlib.suppress(BackendError):  # what is wrong with the cloud is its own affair
        await world.prepare_store(settings)
    world.guests.append(node)
    await world.start_daemon(node, settings)
    world.note("a stranger's daemon of the same owner starts")
    world.disturbances.met(44)
    await asyncio.sleep(rng.uniform(300, 1800))
    world.kill(node)
    world.note("the stranger's daemon is gone")


# Backups and lost entities


@event(3)
async def back_up(world: World, rng: random.Random) -> None:
    """The store, or the Machine Provider's, is backed up."""
    namespace = rng.choice(("", MP_NAMESPACE))
    world.back_up(namespace)
    world.note(f"backup of {namespace or 'the store'}")


@event(2, 41)
async def restore_store(world: World, rng: random.Random) -> None:
    """The store is put back to its backup, with daemons stopped, as docs/deploy.md says."""
    if "" not in world.backups:
        world.back_up("")
        world.note("backup of the store")
        await asyncio.sleep(rng.uniform(300, 3600))
    up = [node for node in world.nodes if node.is_up]
    for node in up:
        world.kill(node)
    world.restore("")
    world.note("the store is restored")
    world.disturbances.met(41)
    await asyncio.sleep(rng.uniform(1, 60))
    for node in up:
        await world.start_daemon(node)


@event(2, 42)
async def restore_machine_provider(world: World, rng: random.Random) -> None:
    """The Machine Provider is put back to its backup."""
    if MP_NAMESPACE not in world.backups:
        world.back_up(MP_NAMESPACE)
        world.note("backup of the Machine Provider")
        await asyncio.sleep(rng.uniform(300, 3600))
    up = [node for node in world.providers.nodes if node.is_up]
    for node in up:  # as docs/machine-provider.md says
        world.kill(node)
    world.restore(MP_NAMESPACE)
    world.note("the Machine Provider is restored")
    world.disturbances.met(42)
    await asyncio.sleep(rng.uniform(1, 30))
    for node in up:
        await world.start_on(node)


@event(3, 29)
async def restart_machine_provider(world: World, rng: random.Random) -> None:
    """A process of the Machine Provider is killed, or told to stop, and another one starts."""
    node = _up(world.providers.nodes, rng)
    if node is None:
        return
    if rng.random() < 0.3:
        await _terminate(world, node, rng, 29)
    else:
        await _kill(world, node, rng, 29)


@event(2, 26, 29)
async def freeze_machine_provider(world: World, rng: random.Random) -> None:
    """A process of the Machine Provider stands still, and goes on when another one may work."""
    node = _up(world.providers.nodes, rng)
    if node is not None:
        await _freeze(world, node, world.providers.nodes, rng, 29)


@event(2, 40, 41)
async def lose_entity(world: World, rng: random.Random) -> None:
    """An entity of the store is removed by hand."""
    kinds = ("Instance", "Instance", "InstanceGroupManager", "InstanceTemplateRevision")
    kind = rng.choice(kinds)
    names = sorted(
        row.key["path"][-1]["name"]
        for row in world.entities.values()
        if row.key["path"][-1]["kind"] == kind
    )
    if names:
        _remove_entity(world, kind, rng.choice(names))


def _remove_entity(world: World, kind: str, name: str) -> None:
    """Removes the first entity of that kind and name."""
    storage = world.services["datastore"]._storage
    found = sorted(
        at
        for at, row in world.entities.items()
        if (row.key["path"][-1]["kind"], row.key["path"][-1]["name"]) == (kind, name)
    )
    if not found:
        return
    row = storage.get(found[0])
    key = parse_key(row.key, PROJECT)
    storage.apply(storage.next_version(world.clock.now()), {found[0]: (key, None)})
    if kind == "Instance":
        world.oracle.entity_removed(name)
    else:
        world.lost[found[0]] = row
    world.note(f"entity {kind} {name} is removed by hand")
    world.disturbances.met(40, 41)


@event(0.4, 40, 41)
async def lose_revision(world: World, rng: random.Random) -> None:
    """The entity of a revision that drains is removed by hand, and nobody adopts its template.

    The configuration cannot be read meanwhile, so nobody knows what is left over. Others go on.
    """
    states = {row.name: world.oracle.entries[row.name].state for row in _offered(world)}
    busy = {_revision_of(name) for name, state in states.items() if state == "LEASED"}
    free = sorted(name for name, state in states.items() if state == "AVAILABLE")
    drains = sorted(busy - {_revision_of(name) for name in free})
    kind = "InstanceTemplateRevision"
    paths = [row.key["path"] for row in world.entities.values()]
    lost = [
        path[-1]["name"]
        for template, checksum in drains
        for path in paths
        if (path[0]["name"], path[-1]["kind"], path[-1]["name"][:8]) == (template, kind, checksum)
    ]
    if not lost or not free:
        return
    (world.config_dir / "templates.cfg").unlink(missing_ok=True)
    world.note("config: templates.cfg is gone")
    for node in [node for node in world.nodes if node.is_up]:  # it does not know what is served
        world.kill(node)
        await world.start_daemon(node)
    _remove_entity(world, kind, lost[0])
    name = rng.choice(free)
    [row] = [row for row in world.vms() if row.name == name]
    await _delete_vm(world, row)
    changes = world.changes
    calm = [await _is_calm(world) for _ in range(4)]
    wanted = sum(pool.zones.get(row.zone, 0) for pool in world.pools.values() if not pool.flavor)
    have = sum(one.zone == row.zone for one in _offered(world))
    if have < wanted and all(calm) and world.changes == changes:
        text = f"{row.zone}: {have} of {wanted} machines, while the entity of {lost[0]} is missing"
        world.oracle.fail("L1", text)
    _changed(world, "templates.cfg is back")


def _offered(world: World) -> list[Any]:
    """The VMs of ours that run, and that the catalog offers or has leased."""
    entries, vms = world.oracle.entries, world.oracle.vms
    return [
        row
        for row in world.vms()
        if row.status == "RUNNING"
        and row.name in entries
        and entries[row.name].state in OFFERED
        and not vms[row.id].foreign
    ]


def _revision_of(name: str) -> tuple[str, str]:
    """The template of a VM, and the beginning of its revision's checksum."""
    template, checksum, _, _ = name.rsplit("-", 3)
    return template, checksum


@event(0.7, 48)
async def odd_template(world: World, rng: random.Random) -> None:
    """A template whose machines the Machine Provider refuses, and with them the whole batch."""
    if "odd" in world.pools:
        del world.pools["odd"]
        _changed(world, "odd is taken out")
        return
    world.pools["odd"] = Pool(TYPES[0], {rng.choice(ZONES): 2}, flavor="FEDORA")
    _changed(world, "odd is named: the catalog refuses its machines")
    await asyncio.sleep(rng.uniform(60, 600))
    world.disturbances.met(48)


# Other people's hands at Compute


@event(4, 34)
async def delete_vm(world: World, rng: random.Random) -> None:
    """Somebody deletes a VM."""
    rows = sorted((row for row in world.vms() if row.id), key=lambda row: row.name)
    if rows:
        await _delete_vm(world, rng.choice(rows))


async def _delete_vm(world: World, row: Any) -> None:
    world.oracle.by_hand.add(row.id)
    if world.oracle.holder(row.name) is not None:
        world.disturbances.met(34)
    world.note(f"somebody deletes vm {row.name}")
    await world.by_hand("DELETE", f"zones/{row.zone}/instances/{row.name}")


@event(1.5, 47)
async def melt(world: World, rng: random.Random) -> None:
    """Somebody's cleaner deletes VMs again and again."""
    for turn in range(4):
        for row in sorted(world.vms(), key=lambda row: row.name):
            if row.id and rng.random() < 0.5:
                await _delete_vm(world, row)
                if turn:
                    world.disturbances.met(47)
        await asyncio.sleep(rng.uniform(60, 200))


@event(3, 45)
async def stop_vm(world: World, rng: random.Random) -> None:
    """A VM stops: its guest powers off, its host fails, it is suspended or preempted."""
    await _stop_vm(world, world.vms(), rng)


async def _stop_vm(world: World, rows: list[Any], rng: random.Random) -> Any:
    """Stops one of these VMs; None when none of them runs undisturbed."""
    rows = [row for row in rows if row.status == "RUNNING" and row.action == "NONE"]
    if not rows:
        return None
    row = rng.choice(sorted(rows, key=lambda row: row.name))
    status: Any = rng.choice(("TERMINATED", "TERMINATED", "STOPPED", "SUSPENDED"))
    world.note(f"vm {row.name} stops by itself")
    world.compute_store.put_vm(msgspec.structs.replace(row, status=status))
    world.disturbances.met(45)
    return row


@event(2, 45)
async def preempt(world: World, rng: random.Random) -> None:
    """Compute Engine takes a VM back, or a third of them: each has 30 s, and stops or is gone."""
    rows = sorted(
        (row for row in _offered(world) if row.action == "NONE" and not row.preempted),
        key=lambda row: row.name,
    )
    held = [row for row in rows if world.oracle.holder(row.name) is not None]
    action, among = rng.choice(("STOP", "DELETE")), held or rows
    number = max(1, len(among) // 3) if rng.random() < 0.3 else 1
    for row in rng.sample(among, min(number, len(among))):
        if action == "DELETE":
            world.oracle.by_hand.add(row.id)
        if await world.happen(row.name, f"preempt?action={action}"):
            world.note(f"vm {row.name} is preempted ({action})")
            world.oracle.queue.preempted[row.name] = world.loop.time()
            world.disturbances.met(45)


@event(2, 33)
async def recreate_vm(world: World, rng: random.Random) -> None:
    """Somebody recreates a VM: another one of the same name."""
    rows = sorted((row for row in world.vms() if row.id and row.group), key=lambda row: row.name)
    if not rows:
        return
    row = rng.choice(rows)
    group = row.group.rpartition("/")[2]
    world.oracle.by_hand.add(row.id)
    world.note(f"somebody recreates vm {row.name}")
    link = f"zones/{row.zone}/instances/{row.name}"
    path = f"zones/{row.zone}/instanceGroupManagers/{group}/recreateInstances"
    await world.by_hand("POST", path, {"instances": [link]})
    world.disturbances.met(33)


@event(1.5, 45)
async def abandon_vm(world: World, rng: random.Random) -> None:
    """Somebody takes a VM out of its group."""
    rows = sorted((row for row in world.vms() if row.id and row.group), key=lambda row: row.name)
    if not rows:
        return
    await _abandon(world, rng.choice(rows))


async def _abandon(world: World, row: Any) -> None:
    group = row.group.rpartition("/")[2]
    world.note(f"somebody abandons vm {row.name}")
    link = f"zones/{row.zone}/instances/{row.name}"
    path = f"zones/{row.zone}/instanceGroupManagers/{group}/abandonInstances"
    await world.by_hand("POST", path, {"instances": [link]})
    world.disturbances.met(45)


@event(1.5, 46)
async def delete_group(world: World, rng: random.Random) -> None:
    """Somebody deletes a group; sometimes somebody makes another one under its name."""
    groups = sorted((g for g in world.groups() if g.phase == "READY"), key=lambda g: g.key)
    if not groups:
        return
    group = rng.choice(groups)
    path = f"zones/{group.zone}/instanceGroupManagers"
    body = await world.by_hand("GET", f"{path}/{group.name}")
    world.oracle.by_hand.add(group.key)
    world.note(f"somebody deletes group {group.name}")
    await world.by_hand("DELETE", f"{path}/{group.name}")
    if rng.random() < 0.6 and "instanceTemplate" in body:
        await asyncio.sleep(rng.uniform(5, 20))
        made = {
            "name": group.name,
            "instanceTemplate": body["instanceTemplate"],
            "baseInstanceName": body.get("baseInstanceName", "strangers"),
            "targetSize": rng.randint(1, 3),
        }
        answer = await world.by_hand("POST", path, made)
        if "error" not in answer and group.key in world.compute_store.groups:  # it may fail later
            world.oracle.foreign.add(group.key)
            world.note(f"somebody makes a group named {group.name}")
            world.disturbances.met(46)


@event(1)
async def delete_template(world: World, rng: random.Random) -> None:
    """Somebody deletes an instance template, which only works when no group uses it."""
    names = sorted(row.name for row in world.compute_store.templates.values())
    if names:
        name = rng.choice(names)
        await world.by_hand("DELETE", f"global/instanceTemplates/{name}")
        world.note(f"somebody deletes template {name}")


@event(1.5, 31)
async def steal_name(world: World, rng: random.Random) -> None:
    """Somebody else's backend has a machine of that host name in the catalog."""
    free = sorted(row.name for row in world.vms() if row.name not in world.oracle.entries)
    if not free:
        return
    name = rng.choice(free)
    request = wire.AddRequest(
        dimensions=wire.Dimensions(backend="GCE", hostname=name, os_family=STRANGERS_SYSTEM),
        policies=wire.Policies(),
    )
    world.strangers.add(name)
    world.stolen.add(name)
    await world.providers.ask(lambda broker: broker.catalog.add("GCE", [request]))
    world.note(f"a stranger's machine named {name} is in the catalog")
    world.disturbances.met(31)


# Messages


@event(3, 5)
async def repeat_messages(world: World, rng: random.Random) -> None:
    """The last messages come twice."""
    for topic, message in world.messages[-rng.randint(1, 12) :]:
        world.services["pubsub"]._deliver(topic, _again(message))
        world.disturbances.met(5)
    world.note("the last messages come again")


@event(3, 6)
async def old_message(world: World, rng: random.Random) -> None:
    """A message of long ago comes again."""
    if world.messages:
        topic, message = rng.choice(world.messages)
        world.services["pubsub"]._deliver(topic, _again(message))
        word = base64.b64decode(message.get("data", "")).decode()
        name = message.get("attributes", {}).get("hostname", "")
        world.note(f"an old message comes again: {word} {name}")
        world.disturbances.met(6)


@event(2, 6)
async def old_reclaimed(world: World, rng: random.Random) -> None:
    """A RECLAIMED of long ago comes again, about a machine that is leased now if there is one."""
    word = base64.b64encode(b"RECLAIMED").decode()
    found = [(t, m) for t, m in world.messages if m.get("data") == word]
    now = [
        (t, m)
        for t, m in found
        if world.oracle.holder(m.get("attributes", {}).get("hostname", "")) is not None
    ]
    if found:
        topic, message = rng.choice(now or found)
        world.services["pubsub"]._deliver(topic, _again(message))
        world.note(f"an old RECLAIMED comes again: {message['attributes'].get('hostname')}")
        world.disturbances.met(6)


def _again(message: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in {"messageId", "publishTime"}}


@event(1, 50)
async def metadata_flood(world: World, rng: random.Random) -> None:
    """For a minute SUBSCRIBED names another subscription for each machine every few seconds."""
    del rng
    subscribed = base64.b64encode(b"SUBSCRIBED").decode()
    last = {
        m["attributes"]["hostname"]: (t, m)
        for t, m in world.messages
        if m.get("data") == subscribed and m.get("attributes", {}).get("hostname")
    }
    alive = {row.name for row in world.vms()}
    world.note("the metadata of all machines is to change all the time")
    for turn in range(21):
        for name, (topic, message) in last.items():
            if name in alive:
                again = _again(message)
                if turn < 20:  # the last one says what is true
                    other = {"subscription": f"other-{turn}"}
                    again["attributes"] = {**message["attributes"], **other}
                world.services["pubsub"]._deliver(topic, again)
        await asyncio.sleep(3.0)
    world.note("the metadata of all machines may stay")


@event(1.5, 7)
async def poison(world: World, rng: random.Random) -> None:
    """A message that makes no sense."""
    message = rng.choice(
        (
            {"data": base64.b64encode(b"RECLAIMED").decode(), "attributes": {"key": "no-such"}},
            {"data": base64.b64encode(b"\xff\xfe\x00").decode(), "attributes": {}},
            {"data": base64.b64encode(b"LEASED").decode(), "attributes": {"hostname": "x" * 900}},
        )
    )
    world.services["pubsub"]._deliver(TOPIC, message)
    world.note("a poisonous message comes")
    world.disturbances.met(7)


@event(2, 10)
async def lose_messages(world: World, rng: random.Random) -> None:
    """For a while every message is lost."""
    deliveries = world.services["pubsub"]._deliveries
    until = world.loop.time() + rng.uniform(60, 1500)
    world.note("messages are lost from now on")
    while world.loop.time() < until:
        await asyncio.sleep(0.4)
        if SUBSCRIPTION not in deliveries._backlogs:
            break
        lost = deliveries.backlog(SUBSCRIPTION).unacknowledged
        if lost:
            deliveries.clear(SUBSCRIPTION)
            world.disturbances.met(10, times=lost)
    world.note("messages are not lost any more")


@event(1, 9, 56)
async def delete_subscription(world: World, rng: random.Random) -> None:
    """Somebody deletes the subscription, or its topic, and makes it again later."""
    pubsub = world.services["pubsub"]
    resource = pubsub._subscription_json(SUBSCRIPTION)
    if resource is None:
        return
    topic = rng.random() < 0.3
    if topic:
        del pubsub._topics[TOPIC]
        pubsub._by_topic.pop(TOPIC, None)
    pubsub._remove(SUBSCRIPTION)
    world.note(f"somebody deletes the subscription{' and its topic' if topic else ''}")
    world.disturbances.met(9)
    await asyncio.sleep(rng.uniform(60, 1200))
    world.mend_subscription(dict(resource))
    world.note("somebody makes the subscription again")
    world.disturbances.met(56)


# Calls on the way

MUTATIONS = (
    r"POST .*/deleteInstances",
    r"POST .*/createInstances\?",
    r"POST .*/instanceGroupManagers\?",
    r"DELETE .*/instanceGroupManagers/",
    r"POST .*/instanceTemplates\?",
    r"POST .*/setMetadata",
    r"catalog/v1/add_machines",
    r"catalog/v1/delete_machine",
)


def _rule(
    world: World,
    rng: random.Random,
    fate: Fate,
    where: str,
    *rows: int,
    times: int = 1,
    seconds: tuple[float, float] = (0.0, 0.0),
    struck: Callable[[Request], None] | None = None,
) -> None:
    rule = Rule(fate, where, rows, times=times, chance=rng, seconds=seconds, struck=struck)
    world.disturbances.add(rule)


@event(8, 43)
async def late_call(world: World, rng: random.Random) -> None:
    """A mutation is executed minutes after its time-out."""
    where = rng.choice(MUTATIONS)
    _rule(world, rng, "late", where, 43, times=rng.randint(1, 2), seconds=(30, LATEST_SECONDS))


@event(4, 43)
async def a_little_late(world: World, rng: random.Random) -> None:
    """A mutation is executed just after its time-out, while it is being repeated."""
    where = rng.choice(MUTATIONS)
    _rule(world, rng, "late", where, 43, times=1, seconds=(30, 110))


def _late(name: str, text: str, where: str) -> None:
    async def act(world: World, rng: random.Random) -> None:
        # Now and then every repetition is late, too.
        times = rng.choice((1, 2, 5))
        _rule(world, rng, "late", where, 43, times=times, seconds=(31, LATEST_SECONDS))

    act.__name__, act.__doc__ = name, text
    event(1, 43)(act)


for _name, _where in (
    ("late_addition", r"catalog/v1/add_machines"),
    ("late_removal", r"catalog/v1/delete_machine"),
    ("late_growth", r"POST .*/createInstances\?"),
    ("late_deletion", r"POST .*/deleteInstances"),
    ("late_group_deletion", r"DELETE .*/instanceGroupManagers/"),
):
    _late(_name, f"A call is executed after its time-out: {_name}.", _where)


@event(2, 43)
async def late_commit(world: World, rng: random.Random) -> None:
    """A commit is executed minutes after its time-out."""
    _rule(world, rng, "late", r":commit", 24, 43, seconds=(20, LATEST_SECONDS))


@event(5, 4)
async def lost_answer(world: World, rng: random.Random) -> None:
    """A mutation's answer is lost."""
    _rule(world, rng, "lose", rng.choice(MUTATIONS), 4, times=rng.randint(1, 2))


@event(3, 24)
async def lost_commit(world: World, rng: random.Random) -> None:
    """A commit's answer is lost, or the commit."""
    fate: Fate = rng.choice(("lose", "drop"))
    _rule(world, rng, fate, r":commit", 24, times=rng.randint(1, 3))


def _start_again(world: World, host: Host) -> None:
    world.note(f"{host.name} starts")
    world.later(world.start_on(host))


def _killer(world: World, *rows: int) -> Callable[[Request], None]:
    def struck(request: Request) -> None:
        node = next((host for host in world.hosts if host.name == request.client), None)
        if node is not None and node.is_up:
            world.kill(node)
            world.note(f"{node.name} is killed at that moment")
            world.disturbances.met(*rows)
            # Not in the context of the dead, in which nothing runs.
            again = functools.partial(_start_again, world, node)
            world.loop.call_later(5.0, again, context=world.context)

    return struck


@event(4, 1, 3)
async def kill_before_call(world: World, rng: random.Random) -> None:
    """The intent is stored, and the process dies before the call leaves."""
    _rule(world, rng, "drop", rng.choice(MUTATIONS), struck=_killer(world, 1, 3))


@event(4, 1, 2)
async def kill_after_call(world: World, rng: random.Random) -> None:
    """The call is made, and the process dies before it can store what came of it."""
    _rule(world, rng, "lose", rng.choice(MUTATIONS), struck=_killer(world, 1, 2))


@event(3)
async def repeated_call(world: World, rng: random.Random) -> None:
    """The network delivers a mutation twice, the second time later."""
    _rule(world, rng, "repeat", rng.choice(MUTATIONS), 43, seconds=(0, LATEST_SECONDS))


@event(3, 39, 42)
async def stale_answers(world: World, rng: random.Random) -> None:
    """Lists, or what the catalog says, are answered from the past for a while."""
    where, row = rng.choice(
        (
            (r"listManagedInstances", 39),
            (r"aggregated/instanceGroupManagers", 39),
            (r"catalog/v1/get", 42),
        )
    )
    _rule(world, rng, "stale", where, row, times=rng.randint(1, 8))


@event(2, 14)
async def half_open(world: World, rng: random.Random) -> None:
    """Connections that say nothing, or drip."""
    fate: Fate = rng.choice(("stall", "drip"))
    where = rng.choice((r"/compute/", r":commit|:lookup", r"catalog/v1", r":pull"))
    _rule(world, rng, fate, where, 14, times=rng.randint(1, 5), seconds=(20, 60))


@event(2, 8)
async def lost_acks(world: World, rng: random.Random) -> None:
    """Acknowledgements are lost."""
    _rule(world, rng, "drop", r":acknowledge", 8, times=rng.randint(1, 10))


def _fault(world: World, *rows: int, **fields: Any) -> Fault:
    fault = Fault(**fields)
    world.disturbances.inject(fault, rows)
    return fault


@event(8, 11, 12, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 48)
async def bad_answers(world: World, rng: random.Random) -> None:
    """A service answers badly a few times."""
    managers, times = "compute.instanceGroupManagers", rng.randint(1, 4)
    templates, metadata = "compute.instanceTemplates", "compute.instances.setMetadata"
    choices: tuple[tuple[int, dict[str, Any]], ...] = (
        (11, {"method": "compute.*", "status": 403, "reason": "rateLimitExceeded"}),
        (11, {"method": "compute.*", "status": 429, "reason": "rateLimitExceeded"}),
        (11, {"method": "machine_provider.*", "status": 429, "retry_after": 20.0}),
        (12, {"method": f"{managers}.*", "status": 403, "reason": "forbidden"}),
        (13, {"method": "compute.*", "status": 503}),
        (13, {"method": "datastore.*", "status": 503, "reason": "UNAVAILABLE"}),
        (13, {"method": "pubsub.*", "status": 500, "reason": "INTERNAL"}),
        (15, {"method": "compute.*", "kind": "html"}),
        (15, {"method": "*", "kind": "truncate"}),
        (16, {"method": f"{managers}.deleteInstances", "kind": "operation", "reason": "INTERNAL"}),
        (16, {"method": f"{managers}.insert", "kind": "operation", "reason": "INTERNAL"}),
        (17, {"method": "compute.zoneOperations.*", "status": 404, "reason": "notFound"}),
        (18, {"method": f"{managers}.get", "status": 404, "reason": "notFound"}),
        (18, {"method": "compute.instances.get", "status": 404, "reason": "notFound"}),
        (18, {"method": "compute.instanceTemplates.get", "status": 404, "reason": "notFound"}),
        (18, {"method": f"{managers}.deleteInstances", "status": 404, "reason": "notFound"}),
        (18, {"method": "machine_provider.catalog.get", "status": 404, "reason": "notFound"}),
        (19, {"method": f"{managers}.insert", "status": 409, "reason": "alreadyExists"}),
        (
            19,
            {
                "method": f"{templates}.insert",
                "status": 409,
                "reason": "alreadyExists",
            },
        ),
        (
            20,
            {"method": metadata, "status": 412, "reason": "conditionNotMet"},
        ),
        (21, {"method": f"{managers}.aggregatedList", "kind": "unreachable"}),
        (21, {"method": f"{managers}.listManagedInstances", "kind": "lost-page"}),
        (22, {"method": f"{managers}.listManagedInstances", "kind": "empty"}),
        (22, {"method": f"{managers}.aggregatedList", "kind": "empty"}),
        (23, {"method": "datastore.projects.commit", "status": 409, "reason": "ABORTED"}),
        (48, {"method": "machine_provider.catalog.add_machines", "status": 400}),
        (48, {"method": f"{managers}.deleteInstances", "status": 400, "reason": "invalid"}),
    )
    row, fields = rng.choice(choices)
    skip = rng.randint(0, 6) if fields["method"].endswith("*") else 0
    _fault(world, row, times=times, skip=skip, **fields)
    world.note(f"fault: {fields} {times} times")


@event(3, 17, 29, 30, 35, 36, 49, 53)
async def long_trouble(world: World, rng: random.Random) -> None:
    """Something is wrong for minutes."""
    removal = "machine_provider.catalog.delete_machine"
    metadata, slow = "compute.instances.setMetadata", {"kind": "latency", "method": BROKER}
    gone = {"machine_deletion_request": {"dimensions": {}}, "error": "ENTRY_NOT_FOUND"}
    choices: tuple[tuple[int, tuple[dict[str, Any], ...]], ...] = (
        (29, ({"method": "machine_provider.*", "status": 503},)),
        (
            30,
            (
                {"method": "machine_provider.catalog.get", "status": 404, "reason": "notFound"},
                {"method": removal, "kind": "answer", "body": gone},
            ),
        ),
        (35, ({"kind": "stockout", "zone": rng.choice(ZONES)},)),
        (35, ({"kind": "outage", "zone": rng.choice(ZONES)},)),
        (36, ({"method": "metadata.*", "status": 503},)),
        (49, ({**slow, "seconds": 12.0},)),
        (
            49,
            ({**slow, "when": "after", "seconds": 25.0},),
        ),
        (
            53,
            (
                {
                    "method": metadata,
                    "status": 412,
                    "reason": "conditionNotMet",
                },
            ),
        ),
        (53, ({"method": "compute.instances.get", "status": 404, "reason": "notFound"},)),
        (17, ({"method": "compute.zoneOperations.wait", "kind": "latency", "seconds": 600.0},)),
    )
    row, wanted = rng.choice(choices)
    faults = [_fault(world, row, times=None, **fields) for fields in wanted]
    world.note(f"trouble begins: {wanted[0]}")
    if row == 29:
        world.disturbances.met(29)
    if row == 36:
        world.services["metadata"].revoke_all()
    denial = world.loop.time()
    if row == 30:
        world.oracle.denials.append(denial)
    await asyncio.sleep(rng.uniform(60, 1200))
    for fault in faults:
        world.disturbances.end(fault)
    if row == 30:
        world.oracle.denials.remove(denial)
    world.note("trouble ends")


@event(0.6, 20, 53)
async def contested_metadata(world: World, rng: random.Random) -> None:
    """Every write of metadata meets another one, for a while."""
    method = "compute.instances.setMetadata"
    fault = _fault(
        world,
        20,
        53,
        method=method,
        status=412,
        reason="conditionNotMet",
        kind="status",
        times=None,
    )
    world.note("somebody else writes metadata all the time")
    await asyncio.sleep(1500.0)
    world.disturbances.end(fault)


@event(0.4, 49)
async def slow_catalog(world: World, rng: random.Random) -> None:
    """The Machine Provider takes seconds for each machine that it adds, until the very end."""
    world.slow_addition = rng.uniform(1.0, 3.0)
    world.note(f"the catalog takes {world.slow_addition:.1f} s for each machine from now on")


@event(0, 6)
async def false_reclaimed(world: World, rng: random.Random) -> None:
    """RECLAIMED is said of a machine that somebody holds: chosen by scripts alone."""
    held = [
        (t, m)
        for t, m in world.messages
        if world.oracle.holder(m.get("attributes", {}).get("hostname", "")) is not None
    ]
    if held:
        topic, message = rng.choice(held)
        word = base64.b64encode(b"RECLAIMED").decode()
        world.services["pubsub"]._deliver(topic, {**_again(message), "data": word})
        world.note(f"a false RECLAIMED comes: {message['attributes'].get('hostname')}")
        world.disturbances.met(6)


@event(0.4, 47)
async def furnace(world: World, rng: random.Random) -> None:
    """For 25 minutes somebody's cleaner deletes every VM soon after it runs."""
    del rng

    async def clean() -> None:
        for row in sorted(world.vms(), key=lambda row: row.name):
            if row.id and row.status == "RUNNING" and row.id not in world.oracle.by_hand:
                await _delete_vm(world, row)
                world.disturbances.met(47)

    await _clean_up(world, "VM", clean)


@event(0.2, 47)
async def group_furnace(world: World, rng: random.Random) -> None:
    """For 25 minutes somebody's cleaner deletes every group soon after its VMs run."""
    del rng

    async def clean() -> None:
        full = {row.group for row in world.vms() if row.status == "RUNNING"}
        for group in sorted(world.groups(), key=lambda group: group.key):
            if group.phase == "READY" and group.key in full:
                world.oracle.by_hand.add(group.key)
                path = f"zones/{group.zone}/instanceGroupManagers/{group.name}"
                await world.by_hand("DELETE", path)
                world.disturbances.met(47)

    await _clean_up(world, "group", clean)


async def _clean_up(world: World, what: str, clean: Callable[[], Awaitable[None]]) -> None:
    """Row 47: what vanishes again and again is made again ever more slowly."""
    wanted = sum(sum(pool.zones.values()) for pool in world.pools.values())
    before = _made_for_us(world)
    world.note(f"somebody's cleaner deletes every {what} from now on")
    for _ in range(75):
        await clean()
        await asyncio.sleep(20.0)
    made = _made_for_us(world) - before
    world.note(f"the cleaner stops; {made} VMs were made meanwhile")
    if made > 6 * max(wanted, 4) + 40:
        world.oracle.fail("L1", f"{made} VMs were made in 25 minutes, and {wanted} are wanted")


def _made_for_us(world: World) -> int:
    """VMs that ever were, without those that Compute makes for somebody else's groups."""
    return sum(not vm.foreign for vm in world.oracle.vms.values())


@event(1.5, 36)
async def revoke_tokens(world: World, rng: random.Random) -> None:
    """All tokens are refused from now on."""
    del rng
    world.services["metadata"].revoke_all()
    world.note("all tokens are revoked")
    world.disturbances.met(36)


@event(1, 25)
async def small_batches(world: World, rng: random.Random) -> None:
    """Datastore answers in small pieces."""
    datastore = world.services["datastore"]
    datastore.defer_after, datastore.batch_size = 1, 2
    world.note("Datastore answers in small pieces")
    before = world.cloud.calls["datastore.projects.lookup"]
    await asyncio.sleep(rng.uniform(60, 300))
    datastore.defer_after, datastore.batch_size = None, 300
    if world.cloud.calls["datastore.projects.lookup"] > before:
        world.disturbances.met(25)


def plan(seed: str, hours: float, rate: float, only: tuple[str, ...] = ()) -> list[Event]:
    """The events of an episode.

    Args:
        seed: names the chance.
        hours: how long it is.
        rate: events in an hour.
        only: of these kinds alone; all when empty.
    """
    rng = random.Random(f"plan {seed}")
    names = list(only or KINDS)
    weights = [1.0 if only else KINDS[name].weight for name in names]
    # Swarm testing: each episode leaves out some kinds, so that others meet more often.
    if not only:
        weights = [weight * rng.choice((0, 1, 1, 3)) for weight in weights]
    count = max(1, round(hours * rate))
    times = sorted(rng.uniform(0, hours * 3600) for _ in range(count))
    return [
        Event(round(at, 1), rng.choices(names, weights)[0], rng.getrandbits(32)) for at in times
    ]
