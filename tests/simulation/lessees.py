"""What lessees do with their leases, and what the Machine Provider's clocks do to them."""

from __future__ import annotations

import asyncio
import random

from simulation.events import event
from simulation.world import USERS, World


def _running(world: World, rng: random.Random) -> tuple[str, str, str] | None:
    """A request whose machines somebody has: its name, the lessee, and the lease; None for none."""
    known = world.oracle.queue.requests
    found = [
        (name, known[lease].user, lease)
        for name, (_, lease) in sorted(world.leased_by.items())
        if lease in known and known[lease].runs
    ]
    return rng.choice(found) if found else None


@event(1.5)
async def hand_over(world: World, rng: random.Random) -> None:
    """A lessee transfers a lease; the former one can no longer end it."""
    running = _running(world, rng)
    if running is None:
        return
    request, former, lease = running
    user = rng.choice([one for one in USERS if one != former])
    queue = world.oracle.queue
    queue.may_have(lease, user)
    if await world.call("leases.transfer", former, {"id": lease, "user": user}) is None:
        world.note(f"{former} cannot transfer {request}")
        return
    world.note(f"{former} transfers {request} to {user}")
    if await world.call("leases.release", former, {"id": lease}) is not None:
        world.oracle.fail("Q", f"{former} releases {request}, which is {user}'s")


@event(1.5)
async def fail_work(world: World, rng: random.Random) -> None:
    """A lessee's work fails: the machines are held, if access.cfg says so."""
    running = _running(world, rng)
    if running is None:
        return
    request, user, lease = running
    found = await world.call("leases.release", user, {"id": lease, "failed": True})
    if found is None:
        return
    held = found.get("state") == "held"
    world.note(f"the work of {request} fails: its machines are {'held' if held else 'released'}")
    if not held:
        world.oracle.queue.given_up(lease)
        world.oracle.forget(request)


@event(1)
async def extend(world: World, rng: random.Random) -> None:
    """A lessee wants to keep the machines for longer."""
    running = _running(world, rng)
    if running is None:
        return
    request, user, lease = running
    seconds = rng.choice((1800, 7200))
    found = await world.call("leases.extend", user, {"id": lease, "duration": seconds})
    world.note(f"{user} extends {request} to {seconds} s from now: {found is not None}")


@event(1, 27)
async def provider_clock_jump(world: World, rng: random.Random) -> None:
    """The clock of a process of the Machine Provider jumps, and is put right later."""
    node = rng.choice(world.providers.nodes)
    jump = rng.choice((-86400.0, -3600.0, 3600.0, 86400.0))
    node.clock.offset += jump
    world.note(f"clock of {node.name} jumps by {jump:g} s")
    world.disturbances.met(27)
    await asyncio.sleep(rng.uniform(30, 900))
    node.clock.offset -= jump
    world.note(f"clock of {node.name} is put right")
