"""The schema of a store in Datastore: the check of its version, and the way to the present one.

A store says in one entity which version its entities have; without it, it has version 0. A new
version comes with a step, which changes what the version before has stored. Each step can be
repeated: it may have been interrupted. A version is needed only where an older release would
misunderstand what this one stores, or the reverse. A new field with a default needs none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from gce_backend.base.errors import SchemaError

S = TypeVar("S")


class SchemaChange(NamedTuple):
    """A store's versions before and after its migration."""

    before: int
    after: int


class VersionedStore(NamedTuple, Generic[S]):
    """How the version of one kind of store is read and written.

    Attributes:
        name: the store, in messages.
        read: reads the version; raises `SchemaError` when it cannot be understood.
        write: writes a version, and which release did it.
    """

    name: str
    read: Callable[[S], Awaitable[int]]
    write: Callable[[S, int, str], Awaitable[None]]

    async def check(self, store: S, newest: int) -> int:
        """Refuses a store that a newer release has written; returns its version.

        Args:
            newest: the newest version that is understood.

        Raises:
            SchemaError: its version is newer, or cannot be understood.
            RemoteError: the store could not be read.
        """
        found = await self.read(store)
        if found > newest:
            raise SchemaError(
                f"{self.name} has schema version {found}, and this release of gce-backend "
                f"understands {newest} at most: use the release that wrote it, or a newer one"
            )
        return found

    async def migrate(
        self, store: S, release: str, steps: Mapping[int, Callable[[S], Awaitable[None]]]
    ) -> SchemaChange:
        """Brings a store to the present version, step by step.

        Args:
            release: the version of the software, for people.
            steps: by the version that each begins with; each leads to the next version.

        Raises:
            SchemaError: its version is newer, or cannot be understood.
            RemoteError: the store could not be read or written; the next call goes on.
        """
        newest = max(steps) + 1
        before = await self.check(store, newest)
        for version in range(before, newest):
            await steps[version](store)
            await self.write(store, version + 1, release)
        return SchemaChange(before, newest)
