"""Datastore's keys, values and mutations as frozen Python values, and their JSON.

Nothing here does I/O or knows what any entity means. Source of the format: the `Value`, `Key`,
`Query` and `Mutation` schemas of Google's datastore.v1 discovery document.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

Path: TypeAlias = tuple[tuple[str, str], ...]
"""An entity's key: (kind, name) pairs from the root down."""

Scalar: TypeAlias = bool | int | float | str | datetime | None


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A value that no query can filter or order by; text above 1,500 bytes must be one.

    Attributes:
        value: what is stored.
    """

    value: Scalar


Value: TypeAlias = Scalar | Unindexed | tuple[Scalar | Unindexed, ...]
"""What a property holds. Integers are 64 bits wide; datetimes are aware, and UTC when read."""

Properties: TypeAlias = Mapping[str, Value]

Operator: TypeAlias = Literal[
    "EQUAL",
    "NOT_EQUAL",
    "LESS_THAN",
    "LESS_THAN_OR_EQUAL",
    "GREATER_THAN",
    "GREATER_THAN_OR_EQUAL",
    "IN",
    "NOT_IN",
]

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1

WHOLE = ""
"""Stands for the entity itself where a property is named: no property has this name."""

_ID_NAME = re.compile(r"__id(-?\d{1,19})__")


def id_name(number: int) -> str:
    """The name that represents a number in a key: Google reserves `__id5__` and calls it so."""
    return f"__id{number}__"


def has_number(path: Path) -> bool:
    """Whether a key has a number where a name could be: this project writes names alone."""
    return any(_ID_NAME.fullmatch(name) for _, name in path)


class Row(NamedTuple):
    """A stored entity.

    Attributes:
        path: its key.
        properties: its properties; empty when only keys were asked for.
        version: grows with every change of it; 0 when only keys were asked for.
        problems: by property, what is wrong with it, of those that cannot be understood; by
            WHOLE, what is wrong with the entity itself.
    """

    path: Path
    properties: dict[str, Value]
    version: int
    problems: Mapping[str, str] = {}


class Filter(NamedTuple):
    """A condition on one property.

    Attributes:
        property: its name, or `__key__`.
        op: how they are compared.
        value: a value; a tuple of them for IN and NOT_IN; paths instead of values for `__key__`.
    """

    property: str
    op: Operator
    value: Value | Path | tuple[Path, ...]


class Insert(NamedTuple):
    """Makes an entity; `AlreadyExistsError` when there is one."""

    path: Path
    properties: Properties


class Update(NamedTuple):
    """Replaces an entity; `NotFoundError` when there is none.

    Attributes:
        base_version: the version that it was computed from: `AbortedError` when that is not the
            current one. None for no such condition.
    """

    path: Path
    properties: Properties
    base_version: int | None


class Upsert(NamedTuple):
    """Makes or replaces an entity."""

    path: Path
    properties: Properties


class Delete(NamedTuple):
    """Removes an entity; nothing happens when there is none.

    Attributes:
        base_version: as for `Update`.
    """

    path: Path
    base_version: int | None


Mutation: TypeAlias = Insert | Update | Upsert | Delete


def encode_value(value: Value) -> dict[str, Any]:
    """A value's JSON.

    Raises:
        ValueError: an integer does not fit 64 bits, or a datetime has no time zone.
        TypeError: it is of a type that Datastore does not have.
    """
    if isinstance(value, Unindexed):
        encoded = encode_value(value.value)
        encoded["excludeFromIndexes"] = True
        return encoded
    if isinstance(value, str):  # most are
        return {"stringValue": value}
    if isinstance(value, tuple):
        if any(isinstance(element, tuple) for element in value):
            raise TypeError("Datastore has no arrays of arrays")
        return {"arrayValue": {"values": [encode_value(element) for element in value]}}
    return _encode_scalar(value)


def _encode_scalar(value: float | datetime | None) -> dict[str, Any]:
    match value:
        case None:
            return {"nullValue": None}
        case bool():
            return {"booleanValue": value}
        case int():
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise ValueError(f"{value} does not fit 64 bits")
            return {"integerValue": str(value)}
        case float():
            return {"doubleValue": _encode_double(value)}
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"{value} has no time zone")
            utc = value.astimezone(UTC).replace(tzinfo=None)
            return {"timestampValue": utc.isoformat(timespec="microseconds") + "Z"}
    raise TypeError(f"Datastore cannot hold a {type(value).__name__}")


def _encode_double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    # JSON has no words for these; protobuf's JSON mapping has.
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _element(kind: str, name: str) -> dict[str, Any]:
    number = _ID_NAME.fullmatch(name) if name.startswith("__") else None
    return {"kind": kind, "id": number[1]} if number else {"kind": kind, "name": name}


class Codec:
    """Turns what depends on the partition into JSON.

    Args:
        project: the project whose Datastore it is.
        namespace: "" for the default one.
    """

    def __init__(self, project: str, namespace: str) -> None:
        self._partition = {"projectId": project, "namespaceId": namespace}

    def key(self, path: Path) -> dict[str, Any]:
        """A key's JSON."""
        return {"partitionId": self._partition, "path": [_element(*pair) for pair in path]}

    def mutation(self, mutation: Mutation) -> dict[str, Any]:
        """A mutation's JSON; one with a base version fails its whole commit on a conflict."""
        verb = type(mutation).__name__.lower()
        if isinstance(mutation, Delete):
            encoded: dict[str, Any] = {verb: self.key(mutation.path)}
        else:
            properties = {name: encode_value(v) for name, v in mutation.properties.items()}
            encoded = {verb: {"key": self.key(mutation.path), "properties": properties}}
        if isinstance(mutation, (Update, Delete)) and mutation.base_version is not None:
            encoded["baseVersion"] = str(mutation.base_version)
            encoded["conflictResolutionStrategy"] = "FAIL"
        return encoded

    def query(
        self,
        kind: str,
        *,
        filters: Sequence[Filter],
        keys_only: bool,
    ) -> dict[str, Any]:
        """A query's JSON, without its cursor."""
        conditions = [self._condition(f) for f in filters]
        query: dict[str, Any] = {"kind": [{"name": kind}]}
        if conditions:
            query["filter"] = {"compositeFilter": {"op": "AND", "filters": conditions}}
        if keys_only:
            query["projection"] = [{"property": {"name": "__key__"}}]
        return query

    def _condition(self, condition: Filter) -> dict[str, Any]:
        name, op, value = condition
        if name != "__key__":
            return _condition(name, op, encode_value(value))  # type: ignore[arg-type]  # no Path here
        if op in {"IN", "NOT_IN"}:
            keys = [{"keyValue": self.key(path)} for path in value]  # type: ignore[union-attr, arg-type]  # paths
            return _condition(name, op, {"arrayValue": {"values": keys}})
        return _condition(name, op, {"keyValue": self.key(value)})  # type: ignore[arg-type]  # a Path


def _condition(name: str, op: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"propertyFilter": {"property": {"name": name}, "op": op, "value": value}}
