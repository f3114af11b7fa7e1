"""Tells the Machine Provider which machines are made on demand.

So a request that an empty pool can serve is told that it waits for machines, not that none fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from gce_backend.actions.demand import kind_of
from gce_backend.base.errors import BackendError, RemoteError
from gce_backend.clients.machine_provider import MethodNotOffered
from gce_backend.engine.context import Context
from gce_backend.model.observed import RequestedMachines

LOOK_SECONDS = 15.0
"""Seconds between two looks for other kinds or numbers."""
AGAIN_SECONDS = 900.0
"""Seconds after which the same is said again: the Machine Provider forgets it after an hour."""
PAUSE_SECONDS = 60.0
"""Seconds until the next try after a failure."""
NOT_OFFERED_SECONDS = 3600.0
"""Seconds until a Machine Provider without the method is told again."""


async def keep_offering(context: Context) -> NoReturn:
    """Tells it whenever it changes, until it is cancelled."""
    said: Sequence[RequestedMachines] = []
    said_at = 0.0
    while True:
        pause, clock = LOOK_SECONDS, context.clock.monotonic
        found = await kinds_of(context) if context.settings.actuate else said
        if found != said or (found and clock() - said_at >= AGAIN_SECONDS):
            try:
                answer = await context.broker().offer(context.memory.store_id, found)
            except BackendError:  # the jobs that need the service report it
                pause = PAUSE_SECONDS
            else:
                said, said_at = found, clock()
                if isinstance(answer, MethodNotOffered):
                    pause = NOT_OFFERED_SECONDS
        await asyncio.sleep(pause)


async def kinds_of(context: Context) -> Sequence[RequestedMachines]:
    """What each active group has at most, in the order of their keys."""
    found = []
    for key, manager in sorted(context.fleet.active_managers(), key=lambda item: str(item[0])):
        most = manager.maximum_size or manager.minimum_size
        try:
            found.append(RequestedMachines(await kind_of(context, key), most))
        except RemoteError:
            continue  # the catalog job reports it
    return found
