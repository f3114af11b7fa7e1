"""The schema of the store: its version, its check, and the way to the present one.

The entity StoreSchema says which version the entities have; a store without it has version 0. A new
version comes with a step in `MIGRATIONS`, which changes what the version before has stored. Each
step can be repeated: it may have been interrupted. A version is needed only where an older release
would misunderstand what this one stores, or the reverse. A new field with a default needs none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias

from gce_backend.base.errors import SchemaError
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import STORE_SCHEMA_KEY, StoreSchema

SCHEMA = 1
"""The version that this release reads and writes."""

Migration: TypeAlias = Callable[[Store], Awaitable[None]]


async def _as_it_is(_: Store) -> None:
    """Version 1 is the first that is stored; it has what stores before it had."""


MIGRATIONS: Mapping[int, Migration] = {0: _as_it_is}
"""The steps, by the version that each begins with; each leads to the next version."""


class Migrated(NamedTuple):
    """A store's versions before and after its migration."""

    before: int
    after: int


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


async def check(store: Store, newest: int = SCHEMA) -> int:
    """Refuses a store that a newer release has written; returns its version.

    Args:
        newest: the newest version that is understood.

    Raises:
        SchemaError: its version is newer, or cannot be understood.
        RemoteError: the store could not be read.
    """
    found = await version(store)
    if found > newest:
        raise SchemaError(
            f"the store has schema version {found}, and this release of gce-backend understands "
            f"{newest} at most: use the release that wrote it, or a newer one"
        )
    return found


async def migrate(
    store: Store, release: str, steps: Mapping[int, Migration] = MIGRATIONS
) -> Migrated:
    """Brings a store to the present version, step by step.

    Args:
        release: the version of the software, for people.
        steps: as `MIGRATIONS`.

    Raises:
        SchemaError: its version is newer, or cannot be understood.
        RemoteError: the store could not be read or written; the next call goes on.
    """
    newest = max(steps) + 1
    before = now = await check(store, newest)
    while now < newest:
        await steps[now](store)
        found = (await store.read([STORE_SCHEMA_KEY])).get(STORE_SCHEMA_KEY)
        base = found.version if found is not None else None
        await store.write([Write(STORE_SCHEMA_KEY, StoreSchema(now + 1, release), base)])
        now += 1
    return Migrated(before, now)
