"""A daemon that knows ten thousand machines: their entities are written straight to the store.

Use it for a test of pages or answers about very many machines, which need not rise first.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import CatalogState, Instance, Lease
from gce_backend.model.keys import GroupKey
from gce_backend.settings.settings import Settings
from support.fleet_harness import PROJECT, World, manager, template, world

ZONES = (
    *("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f", "us-east1-b"),
    *("us-east1-c", "us-east1-d", "europe-west1-b", "europe-west1-c", "europe-west1-d"),
)
TEMPLATES = tuple(f"kind{number}" for number in range(10))


@contextlib.asynccontextmanager
async def crowded(tmp_path: Path, size: int) -> AsyncIterator[World]:
    """A world whose daemon watches, and does nothing, and knows `size` machines in 100 groups.

    A third of them are leased.
    """
    groups = len(ZONES) * len(TEMPLATES)
    async with world(
        tmp_path,
        templates="".join(map(template, TEMPLATES)),
        managers="".join(
            manager(name, zone, size // groups) for name in TEMPLATES for zone in ZONES
        ),
        settings=Settings(actuate=False),
    ) as w:

        async def has_groups() -> bool:
            return await w.is_loaded() and len(_managers(w)) == groups

        await w.until(has_groups)
        managers = _managers(w)
        await w.crash_daemon()
        await _settle(w, [(key, number) for key in managers for number in range(size // groups)])
        await w.start_daemon()
        await w.until(w.is_loaded)
        yield w


def _managers(w: World) -> list[GroupKey]:
    assert w.daemon.context is not None
    return list(w.daemon.context.fleet.managers)


async def _settle(w: World, machines: list[tuple[GroupKey, int]]) -> None:
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    now = w.clock.now()
    try:
        store = Store(clients.datastore(PROJECT))
        for start in range(0, len(machines), 500):
            await store.write(
                [
                    Write(key.child(_name(key, number)), _machine(number, now), None)
                    for key, number in machines[start : start + 500]
                ]
            )
    finally:
        await clients.close()


def _name(manager: GroupKey, number: int) -> str:
    return f"{manager.base_name}-{manager.zone}-{number:04d}"


def _machine(number: int, now: float) -> Instance:
    lease = Lease(now, now + 3600) if number % 3 == 0 else None
    return Instance(gce_id=1000 + number, catalog=CatalogState.CATALOGED, lease=lease)
