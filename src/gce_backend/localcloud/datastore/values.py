"""Property values: Google's rules for them, and their order."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from gce_backend.localcloud.datastore.keys import KeyPath, parse_key, path_bytes
from gce_backend.localcloud.statuses import invalid
from gce_backend.localcloud.wire import from_base64

MAX_INDEXED_BYTES = 1500
MAX_UNINDEXED_BYTES = 1_048_487
MAX_ENTITY_BYTES = 1_048_572
MAX_NAME_BYTES = 1500
MAX_DEPTH = 20
MAX_OVERHEAD = 8192
"""Bytes: more than an entity's key adds to its size."""

_RESERVED = re.compile(r"__.*__", re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_SCALAR = {"arrayValue", "entityValue"}

SortKey: TypeAlias = tuple[int, Any]
"""(rank of the type, something comparable within the type); both survive JSON."""


def check_properties(properties: Any, project: str) -> dict[str, Any]:  # unchecked JSON
    """The properties of a JSON entity, integers as strings.

    Raises:
        ServiceError: a name, a value or the whole breaks a rule.
    """
    checked = _check_properties(properties, project, MAX_DEPTH + 1, indexed=True)
    # The JSON of a value is longer than the value, so most entities need no measuring.
    written = len(msgspec.json.encode(checked)) if checked else 0
    if (
        written + MAX_OVERHEAD > MAX_ENTITY_BYTES
        and entity_bytes(checked, project) > MAX_ENTITY_BYTES
    ):
        raise invalid(f"the entity is larger than {MAX_ENTITY_BYTES} bytes")
    return checked


def _check_properties(
    properties: Any,  # as above
    project: str,
    depth: int,
    *,
    indexed: bool,
) -> dict[str, Any]:
    if properties is None:
        return {}
    if not isinstance(properties, dict):
        raise invalid("properties must be an object")
    if not depth:
        raise invalid(f"entity values are nested deeper than {MAX_DEPTH}")
    for name, value in properties.items():
        # Most names are short: a character takes at most 4 bytes.
        if not name or name[0] == "_" or len(name) * 4 > MAX_NAME_BYTES:
            _check_property_name(name)
        _check(name, value, project, depth, indexed=indexed)
    return properties


def _check_property_name(name: str) -> None:
    if not name or _RESERVED.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(
            f"the property name {name[:80]!r} is reserved, empty or longer than "
            f"{MAX_NAME_BYTES} bytes"
        )


def _check(
    name: str,
    value: Any,  # as above
    project: str,
    depth: int,
    *,
    indexed: bool,
) -> None:
    kind = _type_of(value)
    indexed = indexed and not value.get("excludeFromIndexes")
    if kind == "stringValue" and _is_plain(value, indexed=indexed):
        return
    if len(value) > 1:
        _check_members(name, kind, value)
    if kind == "arrayValue":
        for element in elements(value):
            if isinstance(element, dict) and "arrayValue" in element:
                raise invalid(f"{name}: an array cannot hold arrays")
            _check(name, element, project, depth, indexed=indexed)
    elif kind == "entityValue":
        if not isinstance(value[kind], dict):
            raise invalid(f"{name}: an entityValue must be an object")
        _check_properties(value[kind].get("properties"), project, depth - 1, indexed=indexed)
    else:
        rank, _ = sort_key(value, project)
        if rank in {_STRING_RANK, _BLOB_RANK}:
            _check_length(name, value[kind], rank, indexed=indexed)
        if kind == "integerValue":
            value[kind] = str(value[kind])


def _is_plain(value: dict[str, Any], *, indexed: bool) -> bool:
    """Whether a string value is so short and simple that no rule can refuse it."""
    text = value["stringValue"]
    most = MAX_INDEXED_BYTES if indexed else MAX_UNINDEXED_BYTES
    if not isinstance(text, str) or len(text) * 4 > most:
        return False
    return len(value) == 1 or (
        len(value) == 2 and isinstance(value.get("excludeFromIndexes"), bool)
    )


def _check_members(name: str, kind: str, value: dict[str, Any]) -> None:
    unknown = value.keys() - {kind, "excludeFromIndexes", "meaning"}
    if unknown:
        raise invalid(f"{name}: a value has no member {', '.join(sorted(unknown))}")
    if not isinstance(value.get("excludeFromIndexes"), bool | None):
        raise invalid(f"{name}: excludeFromIndexes must be true or false")
    if kind == "arrayValue" and value.get("excludeFromIndexes"):
        raise invalid(f"{name}: an array cannot be excluded from indexes, its elements can")


def _check_length(name: str, text: str, rank: int, *, indexed: bool) -> None:
    most = MAX_INDEXED_BYTES if indexed else MAX_UNINDEXED_BYTES
    # A character takes at most 4 bytes, so most texts need no encoding to be measured.
    if len(text) * 4 <= most:
        return
    size = len(from_base64(text)) if rank == _BLOB_RANK else len(text.encode())
    if size > most:
        raise invalid(f'The value of property "{name}" is longer than {most} bytes.')


def entity_bytes(properties: dict[str, Any], project: str) -> int:
    """The size of an entity's properties, as Google's page on storage size counts it."""
    return sum(len(name.encode()) + 1 + _size(value, project) for name, value in properties.items())


def _size(value: dict[str, Any], project: str) -> int:
    kind = _type_of(value)
    if kind == "arrayValue":
        return sum(_size(element, project) for element in elements(value))
    if kind == "entityValue":
        return entity_bytes(value[kind].get("properties") or {}, project)
    if kind == "keyValue":
        return path_bytes(sort_key(value, project)[1])
    if kind == "stringValue":
        return len(value[kind].encode()) + 1
    return len(from_base64(value[kind])) if kind == "blobValue" else _SIZES.get(kind, 8)


def elements(value: Any) -> list[Any]:  # unchecked JSON
    """The elements of an array value.

    Raises:
        ServiceError: it is not a list of values.
    """
    array = value.get("arrayValue") if isinstance(value, dict) else None
    found = array.get("values") if isinstance(array, dict) else ()
    if not isinstance(found, list | None):
        raise invalid("an arrayValue with a list of values is needed here")
    return found or []


def indexed(value: dict[str, Any] | None, project: str) -> list[SortKey]:
    """The index entries of a stored value: one for each element of an array."""
    if value is None:
        return []
    if "arrayValue" in value:
        return [key for element in elements(value) for key in indexed(element, project)]
    if value.get("excludeFromIndexes") or "entityValue" in value:
        return []
    return [sort_key(value, project)]


def sort_key(value: Any, project: str) -> SortKey:  # unchecked JSON
    """The sort key of a value among all values; equal values have equal keys.

    Raises:
        ServiceError: it is not a value, or a value without an order.
    """
    kind = _type_of(value)
    if kind in _NOT_SCALAR:
        raise invalid(f"{kind} is not allowed here")
    if kind == "keyValue":
        return _KEY_RANK, parse_key(value[kind], project).path
    rank, convert = _SCALARS[kind]
    try:
        return rank, convert(value[kind])
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise invalid(f"{kind}: {error}") from None


def _type_of(value: Any) -> str:  # as above
    if isinstance(value, dict):
        kinds = [member for member in value if member in _TYPES]
        if len(kinds) == 1:
            return str(kinds[0])
    raise invalid("a value has exactly one of " + ", ".join(sorted(_TYPES)))


def _integer(data: Any) -> int:  # as above
    if not isinstance(data, int | str) or isinstance(data, bool):
        raise TypeError("not an integer")
    number = int(data)
    if not -(2**63) <= number < 2**63:
        raise ValueError("it does not fit 64 bits")
    return number


def parse_instant(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time.

    Raises:
        ServiceError: it is not one.
    """
    return int(sort_key({"timestampValue": text}, "")[1])


def _instant(data: Any) -> int:  # as above
    moment = datetime.fromisoformat(_text(data))
    if moment.tzinfo is None:
        raise ValueError("it has no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _boolean(data: Any) -> int:  # as above
    if not isinstance(data, bool):
        raise TypeError("not a boolean")
    return int(data)


def _text(data: Any) -> str:  # as above
    if not isinstance(data, str):
        raise TypeError("not a string")
    return data


def _blob(data: Any) -> str:  # as above
    """Hexadecimal digits, which sort like the bytes."""
    return from_base64(_text(data)).hex()


def _null(data: Any) -> int:  # as above
    if data not in {None, "NULL_VALUE"}:
        raise ValueError("it must be null")
    return 0


def _point(data: Any) -> tuple[int, int]:  # as above
    latitude, longitude = float(data.get("latitude", 0)), float(data.get("longitude", 0))
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise ValueError("it is not on Earth")
    return _double(latitude), _double(longitude)


def _double(data: Any) -> int:  # as above
    """A 64-bit integer in the order of the numbers, NaN first: JSON has no infinities."""
    if isinstance(data, bool):
        raise TypeError("not a number")
    number = float(data) + 0.0  # minus zero becomes zero
    if math.isnan(number):
        return -(2**63)
    (bits,) = struct.unpack(">q", struct.pack(">d", number))
    return int(bits) if bits >= 0 else -(int(bits) & (2**63 - 1))


_KEY_RANK = 8
_BLOB_RANK = 4
_STRING_RANK = 5
_SIZES = {"nullValue": 1, "booleanValue": 1, "geoPointValue": 16}
_SCALARS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "nullValue": (0, _null),
    "integerValue": (1, _integer),
    "timestampValue": (2, _instant),
    "booleanValue": (3, _boolean),
    "blobValue": (_BLOB_RANK, _blob),
    "stringValue": (_STRING_RANK, _text),
    "doubleValue": (6, _double),
    "geoPointValue": (7, _point),
}
_COMPARABLE: dict[int, Any] = {
    **dict.fromkeys((0, 1, 2, 3, 6), int),
    **dict.fromkeys((_BLOB_RANK, _STRING_RANK), str),
    7: tuple[int, int],
    _KEY_RANK: KeyPath,
}
_TYPES = {*_SCALARS, *_NOT_SCALAR, "keyValue"}


def key_value(path: Any) -> SortKey:  # a KeyPath
    """The sort key of a key, for the pseudo-property `__key__`."""
    return _KEY_RANK, path


def comparable_type(rank: int) -> Any:  # a type
    """The type of the second part of a sort key of this rank.

    Raises:
        KeyError: there is no such rank.
    """
    return _COMPARABLE[rank]


def value_of_entry(value: dict[str, Any], entry: SortKey, project: str) -> dict[str, Any]:
    """The part of a stored value that an index entry is about: the value or an array's element."""
    if "arrayValue" not in value:
        return value
    found: dict[str, Any] = next(e for e in elements(value) if entry in indexed(e, project))
    return found
