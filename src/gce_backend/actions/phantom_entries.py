"""Phantoms: catalog entries of VMs that are gone, made by additions that took effect too late.

A replica that was stopped, or a call that was delayed, adds a machine after its entry was taken out
and its VM was deleted: the Machine Provider then offers what does not exist. So the sweep looks at
new tombstones, too, and takes their entries out.
"""

from __future__ import annotations

from gce_backend.clients.machine_provider import CatalogEntry, NotCataloged
from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import PHANTOM_LOOK_SECONDS, phantom_looks
from gce_backend.rules.facets import Facet


def tombstones_due(context: Context) -> list[MachineKey]:
    """The deleted machines whose entries are to be looked for now."""
    looks = context.memory.catalog.phantom_looks
    for key in tuple(looks):
        if (known := context.fleet.instances.get(key)) is None or not known.is_tombstone:
            del looks[key]
    most = len(PHANTOM_LOOK_SECONDS)
    return [
        key
        for key, instance in context.fleet.having(Facet.DELETED)
        if (had := looks.get(key, 0)) < most
        and had < _looks(context, instance)
        and not context.is_paused(key)
    ]


async def take_out(context: Context, key: MachineKey, entry: CatalogEntry | NotCataloged) -> None:
    """Removes the entry of a deleted machine; somebody else's under its name stays.

    One that somebody has leased stays too: the Machine Provider removes it when the lease ends.

    Args:
        key: the deleted machine.
        entry: what the catalog says of its host name.

    Raises:
        BackendError: the Machine Provider does not answer.
    """
    instance = context.fleet.instances.get(key)
    if instance is None or not instance.is_tombstone:
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
    context.memory.catalog.phantom_looks[key] = _looks(context, instance)


def _looks(context: Context, instance: Instance) -> int:
    deletion = instance.deletion
    if deletion is None or deletion.confirmed is None:
        return 0
    return phantom_looks(context.clock.elapsed(deletion.confirmed))
