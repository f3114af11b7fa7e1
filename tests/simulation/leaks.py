"""An operator deletes what the daemon tells of as untracked, with the command that it names."""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING, Final

from gce_backend.base.errors import BackendError
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.daemon.clients import Clients, Remotes
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.setup import leaks
from simulation.network import MemoryConnector
from simulation.oracle import OPERATORS
from support.fleet_harness import PROJECT

if TYPE_CHECKING:
    from simulation.world import World

PATIENCE_SECONDS: Final = 1800.0
"""How long an operator lets the daemon adopt what it tells of."""
ORDER = ("group", "VM", "instance template")
"""A group would make its VMs again, and needs its template."""


async def delete_leaks(world: World) -> None:
    """`gce-backend leaks`, and `leaks --delete` for each VM, group and template in its list.

    Only once a daemon has told of something untracked for a while: it may adopt it still.
    """
    conditions = (await world.act("/api/fleet") or {}).get("conditions", ())
    told = (one["since"] for one in conditions if one["reason"] == "Untracked")
    if min(told, default=float("inf")) > world.clock.now() - PATIENCE_SECONDS:
        return
    clients = Clients(
        world.settings,
        world.clock,
        random.Random(0),
        Metrics(),
        connector=lambda: MemoryConnector(world.loop.network, "operator"),
    )
    try:
        clients.session.headers.update(OPERATORS)
        await _delete_all(world, clients)
    except BackendError as error:
        world.note(f"an operator could not look for leaks: {error}")
    finally:
        await clients.close()


async def _delete_all(world: World, clients: Clients) -> None:
    fleet = Fleet(Store(clients.datastore(PROJECT)))
    await fleet.load()
    compute = clients.compute(CallBudget(world.clock, dict.fromkeys(QuotaGroup, 1000)))
    remotes = Remotes(
        session=clients.session, tokens=clients.identity, settings=world.settings, fleet=fleet
    )
    found = await leaks.find(fleet, compute, world.settings.owner, _no_price)
    wanted = (one for one in found.leaks if one.kind in ORDER and not _is_foreign(world, one))
    for leak in sorted(wanted, key=lambda one: ORDER.index(one.kind)):
        try:
            await leaks.delete(
                compute, remotes.broker(), leak, str(uuid.UUID(int=int(leak.gce_id)))
            )
        except BackendError as error:
            world.note(f"an operator could not delete the {leak.kind} {leak.name}: {error}")
        else:
            world.note(f"an operator deletes the {leak.kind} {leak.name}, which is untracked")


def _is_foreign(world: World, leak: leaks.Leak) -> bool:
    """Whether somebody made it by hand, of a template of ours: whoever did so knows."""
    known = world.oracle.vms.get(leak.gce_id)
    return known is not None and known.foreign


async def _no_price(_project: str, _zone: str, _machine_type: str) -> float | None:
    return None
