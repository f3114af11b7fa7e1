"""Others who work on the daemon's store: a replica, and a picture as the commands have it.

Use it for a test of what two processes do to one store.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Mapping

import msgspec

from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.settings.settings import JobSettings
from support.fleet_harness import PROJECT, World


@contextlib.asynccontextmanager
async def replica(w: World, crons: Mapping[str, str] | None = None) -> AsyncIterator[Daemon]:
    """Another daemon of the same fleet, on the same store.

    Args:
        w: the world.
        crons: cron expressions of jobs, where they differ from the first daemon's.
    """
    jobs = {name: JobSettings(cron=cron) for name, cron in (crons or {}).items()}
    settings = msgspec.structs.replace(w.settings, jobs={**w.settings.jobs, **jobs})
    second = Daemon(settings, clock=w.clock, rng=random.Random(99))
    try:
        await second.start()
        yield second
    finally:
        await second.abort()


@contextlib.asynccontextmanager
async def somebody_else(w: World) -> AsyncIterator[Fleet]:
    """A picture of its own, as the commands have: changes made with it are not the daemon's."""
    clients = Clients(w.settings, w.clock, random.Random(9), Metrics())
    try:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.load()
        yield fleet
    finally:
        await clients.close()
