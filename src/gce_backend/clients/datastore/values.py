"""Datastore's keys, values and mutations as frozen Python values, and their JSON.

Nothing here does I/O or knows what any entity means. Source of the format: the `Value`, `Key`,
`Query` and `Mutation` schemas of Google's datastore.v1 discovery document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from gce_backend.base.errors import CorruptEntityError

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


class Row(NamedTuple):
    """A stored entity.

    Attributes:
        path: its key.
        properties: its properties; empty when only keys were asked for.
        version: grows with every change of it; 0 when only keys were asked for.
    """

    path: Path
    properties: dict[str, Value]
    version: int


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
        return {**encode_value(value.value), "excludeFromIndexes": True}
    if isinstance(value, tuple):
        if any(isinstance(element, tuple) for element in value):
            raise TypeError("Datastore has no arrays of arrays")
        return {"arrayValue": {"values": [encode_value(element) for element in value]}}
    return _encode_scalar(value)


def _encode_scalar(value: Scalar) -> dict[str, Any]:
    match value:
        case None:
            return {"nullValue": None}
        case bool():
            return {"booleanValue": value}
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"{value} does not fit 64 bits")
            return {"integerValue": str(value)}
        case float():
            return {"doubleValue": _encode_double(value)}
        case str():
            return {"stringValue": value}
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


def decode_value(data: Mapping[str, Any]) -> Value:
    """The value of a JSON value; integers may be strings or numbers.

    Raises:
        CorruptEntityError: it is of a type that this project never stores.
    """
    if not isinstance(data, dict):
        raise TypeError("a value that is no object")
    if "arrayValue" in data:
        return tuple(_decode_scalar(element) for element in data["arrayValue"].get("values", ()))
    return _decode_scalar(data)


def _decode_scalar(data: Mapping[str, Any]) -> Scalar | Unindexed:
    value: Scalar
    if "stringValue" in data:
        value = str(data["stringValue"])
    elif "integerValue" in data:
        value = int(data["integerValue"])
        if not -(2**63) <= value < 2**63:
            raise ValueError("an integer that does not fit 64 bits")
    elif "booleanValue" in data:
        value = bool(data["booleanValue"])
    elif "timestampValue" in data:
        value = datetime.fromisoformat(data["timestampValue"]).astimezone(UTC)
    elif "doubleValue" in data:
        value = float(data["doubleValue"])
    elif "nullValue" in data:
        value = None
    else:
        raise CorruptEntityError(f"a value of an unknown type: {', '.join(sorted(data))}")
    return Unindexed(value) if data.get("excludeFromIndexes") else value


class Codec:
    """Turns what depends on the partition into JSON and back.

    Args:
        project: the project whose Datastore it is.
        namespace: "" for the default one.
    """

    def __init__(self, project: str, namespace: str) -> None:
        self._partition = {"projectId": project, "namespaceId": namespace}

    def key(self, path: Path) -> dict[str, Any]:
        """A key's JSON."""
        elements = [{"kind": kind, "name": name} for kind, name in path]
        return {"partitionId": self._partition, "path": elements}

    def path(self, key: Mapping[str, Any]) -> Path:
        """The path of a JSON key.

        Raises:
            CorruptEntityError: an element has a number instead of a name.
        """
        try:
            return tuple((element["kind"], element["name"]) for element in key["path"])
        except KeyError:
            raise CorruptEntityError(f"a key without a name: {key['path']}") from None

    def row(self, result: Mapping[str, Any]) -> Row:
        """The row of a JSON `EntityResult`.

        Raises:
            CorruptEntityError: it cannot be understood; the message names key and property.
        """
        entity = result["entity"]
        path = self.path(entity["key"])
        properties: dict[str, Value] = {}
        for name, value in entity.get("properties", {}).items():
            try:
                properties[name] = decode_value(value)
            except (
                CorruptEntityError,
                ValueError,
                TypeError,
                AttributeError,
                OverflowError,
            ) as error:
                problem = f"{path}: {name}: {error}"[:1000]
                raise CorruptEntityError(problem) from error
        return Row(path, properties, int(result.get("version", 0)))

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
