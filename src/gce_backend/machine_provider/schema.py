"""The schema of the Machine Provider's store: `SCHEMA_PATH` is the entity with its version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from gce_backend.base.errors import SchemaError
from gce_backend.clients.datastore.client import Datastore, Path, Transaction
from gce_backend.clients.datastore.schema import SchemaChange, VersionedStore

SCHEMA = 1
"""The version that this release reads and writes."""
SCHEMA_PATH: Path = (("ProviderSchema", "schema"),)
"""The key of the version."""

ProviderMigration: TypeAlias = Callable[[Datastore], Awaitable[None]]


async def _as_it_is(_: Datastore) -> None:
    """Version 1 is the first that is stored; it has what stores before it had."""


MIGRATIONS: Mapping[int, ProviderMigration] = {0: _as_it_is}
"""The steps, by the version that each begins with; each leads to the next version."""


async def _version(datastore: Datastore) -> int:
    row = (await datastore.lookup([SCHEMA_PATH])).get(SCHEMA_PATH)
    found = row.properties.get("version") if row is not None else 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise SchemaError("the version of the Machine Provider's store cannot be understood")
    return found


async def _write(datastore: Datastore, number: int, release: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.lookup([SCHEMA_PATH])
        transaction.upsert(SCHEMA_PATH, {"version": number, "release": release})

    await datastore.transaction(work)


_VERSIONED = VersionedStore("the Machine Provider's store", _version, _write)


async def check_schema(datastore: Datastore, newest: int = SCHEMA) -> int:
    """Refuses a store that a newer release has written: `VersionedStore.check`."""
    return await _VERSIONED.check(datastore, newest)


async def migrate_schema(
    datastore: Datastore, release: str, steps: Mapping[int, ProviderMigration] = MIGRATIONS
) -> SchemaChange:
    """Brings a store to the present version: `VersionedStore.migrate`.

    Args:
        datastore: that of the process that works: each write is within its term.
    """
    return await _VERSIONED.migrate(datastore, release, steps)
