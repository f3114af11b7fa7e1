"""The schema of the daemon's store: the entity StoreSchema says which version the entities have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from gce_backend.base.errors import SchemaError
from gce_backend.clients.datastore.schema import SchemaChange, VersionedStore
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import STORE_SCHEMA_KEY, StoreSchema

SCHEMA = 1
"""The version that this release reads and writes."""

Migration: TypeAlias = Callable[[Store], Awaitable[None]]


async def _as_it_is(_: Store) -> None:
    """Version 1 is the first that is stored; it has what stores before it had."""


MIGRATIONS: Mapping[int, Migration] = {0: _as_it_is}
"""The steps, by the version that each begins with; each leads to the next version."""


async def version(store: Store) -> int:
    """The version of a store; 0 when it has none.

    Raises:
        SchemaError: it cannot be understood.
        RemoteError: the store could not be read.
    """
    found = (await store.read([STORE_SCHEMA_KEY])).get(STORE_SCHEMA_KEY)
    if STORE_SCHEMA_KEY in store.corrupt:
        raise SchemaError(f"the store's version is not known: {store.corrupt[STORE_SCHEMA_KEY]}")
    return found.entity.version if found and isinstance(found.entity, StoreSchema) else 0


async def _write(store: Store, number: int, release: str) -> None:
    found = (await store.read([STORE_SCHEMA_KEY])).get(STORE_SCHEMA_KEY)
    base = found.version if found is not None else None
    await store.write([Write(STORE_SCHEMA_KEY, StoreSchema(number, release), base)])


_VERSIONED = VersionedStore("the store", version, _write)


async def check(store: Store, newest: int = SCHEMA) -> int:
    """Refuses a store that a newer release has written: `VersionedStore.check`."""
    return await _VERSIONED.check(store, newest)


async def migrate(
    store: Store, release: str, steps: Mapping[int, Migration] = MIGRATIONS
) -> SchemaChange:
    """Brings a store to the present version: `VersionedStore.migrate`."""
    return await _VERSIONED.migrate(store, release, steps)
