"""Entities in Datastore: how each is written as properties, and guarded by its version.

Scalar fields are native Datastore values; composite ones are JSON text. Nothing is indexed but keys
and kinds, since nothing is looked for in another way: index writes would be paid for by every
transition.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec

from gce_backend.base.errors import CorruptEntityError
from gce_backend.clients.datastore.client import (
    Datastore,
    Delete,
    Filter,
    Insert,
    Mutation,
    Properties,
    Row,
    Transaction,
    Unindexed,
    Update,
)
from gce_backend.clients.datastore.values import (
    MAX_INTEGER,
    MIN_INTEGER,
    WHOLE,
    has_number,
)
from gce_backend.model.entities import (
    ConfigServiceAddress,
    Daemons,
    DeletionWindow,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    MachineProviderAddress,
    SetAsideMessage,
    StoredConfiguration,
    StoreIdentity,
    StoreSchema,
    ToldNotices,
)
from gce_backend.model.events import HistoryPage
from gce_backend.model.keys import Key, is_misplaced
from gce_backend.model.orders import Control

if TYPE_CHECKING:  # heavy, and a command has no log
    from structlog.typing import FilteringBoundLogger

KINDS: tuple[type[Any], ...] = (
    Control,
    SetAsideMessage,
    StoredConfiguration,
    ConfigServiceAddress,
    MachineProviderAddress,
    StoreIdentity,
    DeletionWindow,
    InstanceTemplate,
    InstanceTemplateRevision,
    InstanceGroupManager,
    Instance,
)
"""What the picture is made of; history, signs of life, told notices and the schema are not."""
MAX_PROBLEM = 300
"""Characters of what is said of a corrupt entity's property."""

_LARGE = re.compile(r"-?\d{19,20}")


class Stored(NamedTuple):
    """An entity with the version in which it was read or written."""

    entity: Entity
    version: int


class Write(NamedTuple):
    """One guarded write.

    Attributes:
        key: what is written.
        entity: the new value; None deletes.
        base: the version that it was computed from; None when the entity was absent.
    """

    key: Key
    entity: Entity | None
    base: int | None


class _Codec:
    """How one kind's entities are written as properties."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        self.composite = {
            name: msgspec.json.Decoder(field.type)
            for name, field in self.fields.items()
            if not _is_scalar(field.type)
        }
        self.integers = {name for name, field in self.fields.items() if int in _members(field.type)}

    def encode(self, entity: Entity) -> Properties:
        """Properties of `entity`; fields that have their default are left out."""
        properties: dict[str, Any] = {}
        for name, value in msgspec.to_builtins(entity).items():
            if name in self.composite:
                properties[name] = Unindexed(msgspec.json.encode(value).decode())
            else:
                fits = not isinstance(value, int) or MIN_INTEGER <= value <= MAX_INTEGER
                properties[name] = Unindexed(value if fits else str(value))
        return properties

    def decode(self, row: Row) -> Entity:
        """The entity in `row`; properties that are not ours are ignored.

        Raises:
            CorruptEntityError: a property is not of its field's type.
        """
        key = Key.of(row.path)
        for name, problem in row.problems.items():
            if name == WHOLE or name in self.fields:
                raise CorruptEntityError(f"{key}: {_place(name)}{problem}")
        values: dict[str, Any] = {}
        for name, wrapped in row.properties.items():
            if name not in self.fields:
                continue
            value = wrapped.value if isinstance(wrapped, Unindexed) else wrapped
            decoder = self.composite.get(name)
            if decoder is None:
                # An integer beyond 64 bits, as Compute's ids may be, is stored as text.
                large = name in self.integers and isinstance(value, str) and _LARGE.fullmatch(value)
                values[name] = int(large[0]) if large else value
                continue
            try:
                values[name] = decoder.decode(str(value))
            except (ValueError, RecursionError, ArithmeticError) as error:
                raise CorruptEntityError(f"{key}: {_place(name)}{_short(error)}") from error
        try:
            entity: Entity = msgspec.convert(values, self.kind)
        except (ValueError, ArithmeticError) as error:
            raise CorruptEntityError(f"{key}: {_short(error)}") from error
        return entity


def _place(name: str) -> str:
    return f"property {name}: " if name else ""


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_PROBLEM]


def _members(annotation: Any) -> set[Any]:
    """The types of a field, without what bounds them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return set().union(*map(_members, get_args(annotation)))
    return {annotation}


def _is_scalar(annotation: Any) -> bool:
    return all(
        member in {str, int, float, bool, NoneType}
        or (isinstance(member, type) and issubclass(member, StrEnum))
        for member in _members(annotation)
    )


_STORED: tuple[type[Any], ...] = (*KINDS, HistoryPage, Daemons, StoreSchema, ToldNotices)
_CODECS = {kind.KIND: _Codec(kind) for kind in _STORED}


def encode(entity: Entity) -> Properties:
    """An entity's Datastore properties."""
    return _CODECS[entity.KIND].encode(entity)


def decode(row: Row) -> Entity:
    """The entity of a Datastore row.

    Raises:
        CorruptEntityError: the row cannot be understood.
    """
    key = Key.of(row.path)
    if has_number(row.path):
        raise CorruptEntityError(f"{key}: its key has a number where this project writes names")
    if is_misplaced(key):
        raise CorruptEntityError(f"{key}: an entity of kind {key.kind} cannot be there")
    return _CODECS[key.kind].decode(row)


Decision = Callable[[Mapping[Key, Entity]], Mapping[Key, Entity | None]]
"""From the entities that exist among those asked for, to the new value of each that changes."""


class Store:
    """Reads and writes entities.

    Args:
        datastore: the wire client.
        log: gets the entities that turn out to be corrupt; None logs nothing.

    Attributes:
        corrupt: entities that were found and cannot be understood, with what is wrong.
    """

    def __init__(self, datastore: Datastore, log: FilteringBoundLogger | None = None) -> None:
        self._datastore = datastore
        self._log = log
        self.corrupt: dict[Key, str] = {}

    def use(self, datastore: Datastore) -> None:
        """Writes through this client from now on: the same namespace, within a term."""
        self._datastore = datastore

    async def read(self, keys: Iterable[Key]) -> dict[Key, Stored]:
        """The entities that exist among `keys`, strongly consistent; corrupt ones are left out.

        Raises:
            RemoteError: Datastore could not be read.
        """
        wanted = list(keys)
        rows = await self._datastore.lookup([key.path for key in wanted])
        for key in wanted:
            if key.path not in rows:  # nothing is left of it to understand
                self.corrupt.pop(key, None)
        return self._understood({Key.of(path): row for path, row in rows.items()})

    async def read_kind(
        self, kind: str, after: Key | None = None
    ) -> AsyncIterator[dict[Key, Stored]]:
        """All entities of a kind, page by page, to the last one; corrupt ones are left out.

        Args:
            kind: their kind.
            after: only those whose keys are greater.

        Raises:
            RemoteError: Datastore could not be read.
        """
        parents: dict[Key, Key] = {}
        filters = [Filter("__key__", "GREATER_THAN", after.path)] if after is not None else []
        async for rows in self._datastore.query_pages(kind, filters=filters):
            page: dict[Key, Row] = {}
            for row in rows:
                key = Key.of(row.path)
                if key.parent is not None:  # siblings share their parent's key
                    parent = parents.setdefault(key.parent, key.parent)
                    key = msgspec.structs.replace(key, parent=parent)
                page[key] = row
            yield self._understood(page)

    def _understood(self, rows: Mapping[Key, Row]) -> dict[Key, Stored]:
        """What can be understood; the rest is remembered. One bad entity spoils only itself."""
        found: dict[Key, Stored] = {}
        for key, row in rows.items():
            try:
                found[key] = Stored(decode(row), row.version)
            except CorruptEntityError as error:
                problem = str(error)
                if self._log is not None and self.corrupt.get(key) != problem:
                    self._log.error("entity.corrupt", key=str(key), kind=key.kind, error=problem)
                self.corrupt[key] = problem
            else:
                self.corrupt.pop(key, None)
        return found

    async def read_versions(self, kind: str) -> AsyncIterator[dict[Key, int]]:
        """The versions of all entities of a kind, page by page, to the last one.

        Raises:
            RemoteError: Datastore could not be read.
        """
        async for rows in self._datastore.query_pages(kind):
            yield {Key.of(row.path): row.version for row in rows}

    async def names(self, kind: str) -> list[str]:
        """The names of all entities of a kind, in order; the entities themselves are not read.

        Raises:
            RemoteError: Datastore could not be read.
        """
        rows = await self._datastore.query(kind, keys_only=True)
        return [Key.of(row.path).name for row in rows]

    async def write(self, writes: Sequence[Write]) -> list[int]:
        """Writes all, each only if its entity still has the version it was computed from.

        Returns:
            The new versions, in order.

        Raises:
            AbortedError, AlreadyExistsError, NotFoundError: an entity has changed in between.
            RemoteError: Datastore could not be reached; which writes took effect is unknown.
        """
        return await self._datastore.commit([_mutation(write) for write in writes])

    async def transact(
        self, keys: Sequence[Key], decide: Decision
    ) -> tuple[dict[Key, Stored | None], set[Key]]:
        """Reads `keys` and writes what `decide` makes of them, in one transaction.

        Args:
            keys: all that the decision depends on or changes.
            decide: pure; called again with fresh values when the transaction was aborted.

        Returns:
            All of `keys` as they are now, None for what is absent; and the keys that were
            written.

        Raises:
            AbortedError: aborted again and again.
            CorruptEntityError: one of them cannot be understood; nothing was written.
            RemoteError: Datastore could not be reached; the outcome is unknown.
        """
        seen: dict[Key, Stored | None] = {}
        written: dict[Key, Entity | None] = {}

        async def attempt(transaction: Transaction) -> Transaction:
            rows = await transaction.lookup([key.path for key in keys])
            found = {Key.of(path): decode(row) for path, row in rows.items()}
            seen.update(dict.fromkeys(keys))
            seen.update({key: Stored(found[key], rows[key.path].version) for key in found})
            written.clear()
            written.update(decide(found))
            for key, entity in written.items():
                if entity is None:
                    transaction.delete(key.path)
                else:
                    transaction.upsert(key.path, encode(entity))
            return transaction

        versions = (await self._datastore.transaction(attempt)).versions
        for key, entity in written.items():
            seen[key] = Stored(entity, versions[key.path]) if entity is not None else None
        return seen, set(written)


def _mutation(write: Write) -> Mutation:
    path = write.key.path
    if write.entity is None:
        return Delete(path, write.base)
    if write.base is None:
        return Insert(path, encode(write.entity))
    return Update(path, encode(write.entity), write.base)
