"""The schema of the Machine Provider's store: its version, its check, and its migration.

The entity at `SCHEMA_PATH` says which version the records have; a store without it has version 0. A
new version comes with a step in `MIGRATIONS`, which changes what the version before has stored.
Each step can be repeated: it may have been interrupted. A version is needed only where an older
release would misunderstand what this one stores, or the reverse. A new field with a default needs
none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias

from gce_backend.base.errors import SchemaError
from gce_backend.clients.datastore.client import Datastore, Path, Row, Transaction

SCHEMA = 1
"""The version that this release reads and writes."""
SCHEMA_PATH: Path = (("ProviderSchema", "schema"),)
"""The key of the version."""

ProviderMigration: TypeAlias = Callable[[Datastore], Awaitable[None]]


async def _as_it_is(_: Datastore) -> None:
    """Version 1 is the first that is stored; it has what stores before it had."""


MIGRATIONS: Mapping[int, ProviderMigration] = {0: _as_it_is}
"""The steps, by the version that each begins with; each leads to the next version."""


class SchemaChange(NamedTuple):
    """A store's versions before and after its migration."""

    before: int
    after: int


async def check_schema(datastore: Datastore, newest: int = SCHEMA) -> int:
    """Refuses a store that a newer release has written; returns its version.

    Args:
        newest: the newest version that is understood.

    Raises:
        SchemaError: its version is newer, or cannot be understood.
        RemoteError: the store could not be read.
    """
    found = _version_of((await datastore.lookup([SCHEMA_PATH])).get(SCHEMA_PATH))
    if found > newest:
        raise SchemaError(
            f"the Machine Provider's store has schema version {found}, and this release of "
            f"gce-backend understands {newest} at most: use the release that wrote it, or a newer "
            "one"
        )
    return found


async def migrate_schema(
    datastore: Datastore, release: str, steps: Mapping[int, ProviderMigration] = MIGRATIONS
) -> SchemaChange:
    """Brings a store to the present version, step by step.

    Args:
        datastore: that of the process that works: each write is within its term.
        release: the version of the software, for people.
        steps: as `MIGRATIONS`.

    Raises:
        SchemaError: its version is newer, or cannot be understood.
        RemoteError: the store could not be read or written; the next call goes on.
    """
    newest = max(steps) + 1
    before = now = await check_schema(datastore, newest)
    while now < newest:
        await steps[now](datastore)

        async def work(transaction: Transaction, version: int = now + 1) -> None:
            await transaction.lookup([SCHEMA_PATH])
            transaction.upsert(SCHEMA_PATH, {"version": version, "release": release})

        await datastore.transaction(work)
        now += 1
    return SchemaChange(before, now)


def _version_of(row: Row | None) -> int:
    found = row.properties.get("version") if row is not None else 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise SchemaError("the version of the Machine Provider's store cannot be understood")
    return found
