"""An operator's word, as a command stores it: for tests in which a configuration is held."""

from __future__ import annotations

import random

import msgspec

from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.model.orders import Control
from support.fleet_harness import PROJECT, World


async def approve(w: World, revision: str) -> None:
    """What `gce-backend approve` does: an operator's word, in the store."""
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    try:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONTROL_KEY])

        def apply(control: Control | None) -> Control:
            return msgspec.structs.replace(control or Control(), approved_revision=revision)

        await fleet.change([Change(CONTROL_KEY, apply)])
    finally:
        await clients.close()
