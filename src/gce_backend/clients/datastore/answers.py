"""Datastore's answers as types, and the entities in them: one that is odd spoils only itself.

The envelope must be as Google's datastore.v1 discovery document has it, or the whole answer is
malformed. Each property is decoded by itself: what cannot be understood of it is noted in its row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypedDict, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gce_backend.clients.datastore.values import (
    MAX_INTEGER,
    MIN_INTEGER,
    WHOLE,
    Row,
    Scalar,
    Unindexed,
    Value,
    id_name,
)

MAX_PROBLEM = 300
"""Characters of what is said of one property."""

T = TypeVar("T")


class _Element(msgspec.Struct, gc=False):
    kind: str
    name: str | None = None
    id: int | None = None


class _Key(msgspec.Struct):
    path: list[_Element]


class _Entity(msgspec.Struct):
    key: _Key
    properties: Raw = Raw(b"{}")


class EntityResult(msgspec.Struct):
    """An entity in an answer, its properties not looked into yet."""

    entity: _Entity
    version: Raw = Raw(b"0")


class LookupAnswer(TypedDict, total=False):
    """What `lookup` answers."""

    found: list[EntityResult]
    missing: list[Raw]
    deferred: list[dict[str, Any]]
    transaction: str  # that the call has begun


class QueryResults(msgspec.Struct, rename="camel"):
    """A batch of a query's results."""

    more_results: str
    end_cursor: str
    entity_results: list[EntityResult] = []
    read_time: str | None = None


class QueryAnswer(TypedDict):
    """What `runQuery` answers."""

    batch: QueryResults


class MutationResult(msgspec.Struct):
    """What became of one mutation."""

    version: int


class CommitAnswer(TypedDict, total=False):
    """What `commit` answers."""

    mutationResults: list[MutationResult]


class BeginAnswer(TypedDict):
    """What `beginTransaction` answers."""

    transaction: str


class _Array(msgspec.Struct, Generic[T]):
    values: list[T] = []


class _Scalar(msgspec.Struct, rename="camel", gc=False):
    """Exactly one of these is set; of a type that this project never stores, none is."""

    string_value: str | UnsetType = UNSET
    integer_value: int | UnsetType = UNSET
    boolean_value: bool | UnsetType = UNSET
    timestamp_value: str | UnsetType = UNSET
    double_value: float | UnsetType = UNSET
    null_value: Raw | UnsetType = UNSET
    exclude_from_indexes: bool = False


class _Wire(_Scalar, gc=True):
    array_value: _Array[_Scalar] | UnsetType = UNSET


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind, strict=False)  # not strict: int64 is text in JSON


DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "datastore.projects.lookup": _decoder(LookupAnswer),
    "datastore.projects.runQuery": _decoder(QueryAnswer),
    "datastore.projects.commit": _decoder(CommitAnswer),
    "datastore.projects.beginTransaction": _decoder(BeginAnswer),
}
"""How the answers of each method are decoded."""

_MEMBERS = _decoder(dict[str, Raw])
_VERSION = _decoder(int)
_WIRE = _decoder(_Wire)


def row_of(result: EntityResult) -> Row:
    """The row of an entity; what cannot be understood of it is among the row's problems."""
    path = tuple(
        (part.kind, part.name if part.name is not None else id_name(part.id or 0))
        for part in result.entity.key.path
    )
    problems: dict[str, str] = {}
    version = _read(problems, WHOLE, lambda: _VERSION.decode(result.version))
    raw = _read(problems, WHOLE, lambda: _MEMBERS.decode(result.entity.properties))
    properties: dict[str, Value] = {}
    for name, text in (raw or {}).items():
        try:
            properties[name] = decode_value(text)
        except (ValueError, RecursionError, ArithmeticError) as error:
            problems[name] = _short(error)
    return Row(path, properties, version or 0, problems)


def _read(problems: dict[str, str], name: str, decode: Callable[[], T]) -> T | None:
    try:
        return decode()
    except (ValueError, RecursionError, ArithmeticError) as error:
        problems[name] = _short(error)
        return None


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_PROBLEM]


def decode_value(text: bytes | Raw) -> Value:
    """The value of a JSON value.

    Raises:
        ValueError: it is not of a type that this project stores.
    """
    wire = _WIRE.decode(text)
    if wire.array_value is not UNSET:
        if _set(wire):
            raise ValueError("a value of two types")
        return tuple(_value(element) for element in wire.array_value.values)
    if not _set(wire):
        raise ValueError(f"a value of an unknown type: {', '.join(sorted(_MEMBERS.decode(text)))}")
    return _value(wire)


def _set(wire: _Scalar) -> list[Any]:
    every = (
        wire.string_value,
        wire.integer_value,
        wire.boolean_value,
        wire.timestamp_value,
        wire.double_value,
        wire.null_value,
    )
    return [value for value in every if value is not UNSET]


def _value(wire: _Scalar) -> Scalar | Unindexed:
    found = _set(wire)
    if len(found) != 1:
        raise ValueError("a value of two types" if found else "a value of an unknown type")
    value: Scalar = found[0]
    if wire.null_value is not UNSET:
        value = None
    elif wire.timestamp_value is not UNSET:
        value = datetime.fromisoformat(wire.timestamp_value).astimezone(UTC)
    elif wire.integer_value is not UNSET and not MIN_INTEGER <= wire.integer_value <= MAX_INTEGER:
        raise ValueError("an integer that does not fit 64 bits")
    return Unindexed(value) if wire.exclude_from_indexes else value
