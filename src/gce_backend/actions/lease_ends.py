"""When leases end, as the catalog says it: the original Machine Provider's LEASED never does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from gce_backend.base.errors import BackendError
from gce_backend.clients.machine_provider import CatalogEntry
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.messages import lease_end, leased

AT_ONCE = 10
PATIENCE_SECONDS = 10.0
"""After which no more questions are asked: messages must not wait for a slow Machine Provider."""


def end_of(entry: CatalogEntry) -> float | None:
    """The end of an entry's lease in Unix seconds; None when it has none, or makes no sense."""
    return None if entry.leased_indefinitely else lease_end(entry.lease_expiration_ts)


async def lease_entry(context: Context, key: MachineKey) -> CatalogEntry | None:
    """The entry of a machine that is leased; None when the catalog does not say that it is.

    Raises:
        BackendError: the Machine Provider does not answer.
    """
    entry = await context.broker().get(key.name)
    instance = context.fleet.instances.get(key)
    if instance is None or not isinstance(entry, CatalogEntry) or entry.state != "LEASED":
        return None
    return entry if entry.is_of(instance_token(context.project, key), instance.gce_id) else None


async def ask(context: Context, keys: Sequence[MachineKey]) -> int:
    """Asks once for the ends of leases, and stores them; the sweep asks for what has no answer.

    Returns:
        how many entities changed.

    Raises:
        RemoteError: Datastore could not be written.
    """
    ends: dict[MachineKey, float] = {}

    async def ask_one(key: MachineKey) -> bool:
        try:
            entry = await lease_entry(context, key)
        except BackendError:  # the sweep, which comes next, tells of it
            return False
        if entry is not None and (end := end_of(entry)) is not None:
            ends[key] = end
        return True

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                if not all(await asyncio.gather(*(ask_one(key) for key in some))):
                    break
    return await context.fleet.change([Change(key, _ends(end)) for key, end in ends.items()])


def _ends(end: float) -> Apply[Instance]:
    """A change: a lease that is known, and has not been given back meanwhile, ends then."""
    return when_present(
        lambda known: leased(known, end, known.lease.since) if known.lease is not None else known
    )
