"""Phantoms: catalog entries of VMs that are gone, made by additions that took effect too late.

A replica that was stopped, or a call that was delayed, adds a machine after its entry was taken out
and its VM was deleted: the Machine Provider then offers what does not exist. So the sweep looks at
new tombstones, too, and takes their entries out.
"""

from __future__ import annotations

from gce_backend.clients.machine_provider import CatalogEntry, NotCataloged
from gce_backend.engine.context import Context
from gce_backend.fleet.phantom_looks import PhantomLook
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import PHANTOM_LOOK_SECONDS, phantom_looks

PAUSED_SECONDS = 60.0
"""Until the next look at a machine with which nothing may be done now."""


def tombstones_due(context: Context, *, least: float, share: float) -> list[MachineKey]:
    """The deleted machines whose entries are to be looked for now.

    Args:
        context: all that is known.
        least: machines a minute, even if few are due.
        share: of those that are due: so many a minute, if these are more.
    """
    phantoms, known = context.memory.catalog.phantoms, context.fleet.tombstones
    for number, key in reversed(tuple(known.after(phantoms.read))):
        phantoms.read = number
        context.memory.catalog.agents.forget(key)
        _plan(context, number, key, 0)
    due = phantoms.due(context.clock.monotonic(), known.has)

    def is_due(key: MachineKey) -> bool:
        look = phantoms.of(key)
        return look is not None and known.has(look.number, key)

    def still() -> list[MachineKey]:
        for key in tuple(due):
            if not is_due(key):
                phantoms.forget(key)
        return list(due)

    return context.phantom_turns.take(
        len(due),
        still,
        is_due,
        pace=max(least, len(due) * share) / 60.0,
        now=context.clock.monotonic(),
    )


async def take_out(context: Context, key: MachineKey, entry: CatalogEntry | NotCataloged) -> None:
    """Removes the entry of a deleted machine; somebody else's under its name stays.

    One that somebody has leased stays too: the Machine Provider removes it when the lease ends.

    Args:
        context: all that is known.
        key: the deleted machine.
        entry: what the catalog says of its host name.

    Raises:
        BackendError: the Machine Provider does not answer.
    """
    look, instance = context.memory.catalog.phantoms.of(key), context.fleet.instances.get(key)
    if look is None or instance is None or not context.fleet.tombstones.has(look.number, key):
        return
    if context.is_paused(key):
        again = context.clock.monotonic() + PAUSED_SECONDS
        context.memory.catalog.phantoms.plan(look._replace(at=again))
        return
    if isinstance(entry, CatalogEntry) and entry.is_of(
        instance_token(context.project, key), instance.gce_id
    ):
        answer = await context.broker().delete_machine(key.name)
        if answer.error is None:
            context.log.warning(
                "instance.phantom_removed",
                **key.log_fields,
            )
    _plan(context, look.number, key, look.looks + 1)


def _plan(context: Context, number: int, key: MachineKey, looks: int) -> None:
    """Plans a machine's next look, after so many: one that was late counts for all before it."""
    phantoms = context.memory.catalog.phantoms
    deletion = context.fleet.instances[key].deletion
    if deletion is None or deletion.confirmed is None:
        phantoms.forget(key)
        return
    age = context.clock.elapsed(deletion.confirmed)
    looks = max(looks, phantom_looks(age)) if looks else 0
    if looks == len(PHANTOM_LOOK_SECONDS):
        phantoms.forget(key)
        return
    wait = max(0.0, PHANTOM_LOOK_SECONDS[looks] - age)
    phantoms.plan(PhantomLook(context.clock.monotonic() + wait, number, looks, key))
