"""Permits that leave a doubt are confirmed by the Machine Provider just before they are used.

That it did not know a machine (fault 30) may have been the word of a wrong or an empty one, long
ago; and a machine that was added twice may be held under its second entry when the RECLAIMED of the
first one comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.base.errors import HostnameReuseError
from gce_backend.clients.machine_provider import CatalogEntry, CatalogError, NotCataloged
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import Key
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import found_again, settles_in
from gce_backend.rules.permits import is_doubtful, permit

REUSED = (
    "the catalog holds its host name for another: it is deleted once that entry has gone. Find out "
    "whose it is, and take it out of the catalog"
)


async def with_fresh_permits(context: Context, keys: Sequence[Key]) -> list[Key]:
    """The instances with a permit that the Machine Provider, where there is doubt, confirms.

    Args:
        context: the job's context.
        keys: instances that were read just before.
    """
    now = context.clock.now()
    doubtful: list[Key] = []
    certain: list[Key] = []
    for key in keys:
        instance = context.fleet.instances.get(key)
        if instance is None or permit(instance, now) is None or settles_in(instance, now) > 0:
            continue
        (doubtful if is_doubtful(instance, now) else certain).append(key)

    async def look(key: Key) -> Result:
        if not await _is_confirmed(context, key):
            return Result.NOTHING
        certain.append(key)
        return Result.CHANGED

    await act_on_each(context, doubtful, look)
    return certain


async def _is_confirmed(context: Context, key: Key) -> bool:
    broker, instance = context.broker(), context.fleet.instances[key]
    if instance.pending_deletion is not None:
        answer = await broker.delete_machine(key.name)
        return answer.error in {None, CatalogError.ENTRY_NOT_FOUND}
    entry = await broker.get(key.name)
    if instance.catalog is CatalogState.REFUSED:
        if isinstance(entry, CatalogEntry):  # somebody may hold this host name through it
            raise HostnameReuseError(REUSED)
        return isinstance(entry, NotCataloged)
    if isinstance(entry, CatalogEntry):
        token = instance_token(context.project, key)
        # One whose deletion is under way must leave the catalog again; the others are well.
        if not entry.is_of(token, instance.gce_id):
            return False
        if instance.deletion is None:
            await context.fleet.change([Change(key, _found(CatalogState.CATALOGED))])
            return False
    answer = await broker.delete_machine(key.name)
    if answer.error is None:
        await context.fleet.change([Change(key, _found(CatalogState.REMOVED))])
        return instance.deletion is not None
    if answer.error == CatalogError.LEASED:
        if instance.deletion is None:
            await context.fleet.change([Change(key, _found(CatalogState.CATALOGED))])
        return False
    return answer.error == CatalogError.ENTRY_NOT_FOUND


def _found(state: CatalogState) -> Apply[Instance]:
    return when_present(lambda instance: found_again(instance, state))
