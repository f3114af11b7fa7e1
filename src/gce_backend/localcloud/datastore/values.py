"""Property values: Google's rules for them, and their order."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from gce_backend.localcloud.datastore.keys import parse_key
from gce_backend.localcloud.statuses import invalid

MAX_INDEXED_BYTES = 1500
MAX_ENTITY_BYTES = 1_048_572
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
    if properties is None:
        return {}
    if not isinstance(properties, dict):
        raise invalid("properties must be an object")
    for name, value in properties.items():
        if not name or _RESERVED.fullmatch(name):
            raise invalid(f"the property name {name!r} is reserved or empty")
        _check(name, value, project)
    if len(msgspec.json.encode(properties)) > MAX_ENTITY_BYTES:
        raise invalid(f"the entity is larger than {MAX_ENTITY_BYTES} bytes")
    return properties


def _check(name: str, value: Any, project: str) -> None:  # as above
    kind = _type_of(value)
    if kind == "arrayValue":
        if value.get("excludeFromIndexes"):
            raise invalid(f"{name}: an array cannot be excluded from indexes, its elements can")
        for element in elements(value):
            if isinstance(element, dict) and "arrayValue" in element:
                raise invalid(f"{name}: an array cannot hold arrays")
            _check(name, element, project)
    elif kind == "entityValue":
        check_properties((value[kind] or {}).get("properties"), project)
    else:
        rank, _ = sort_key(value, project)
        text = value[kind] if rank == _STRING_RANK and not value.get("excludeFromIndexes") else ""
        # A character takes at most 4 bytes, so most texts need not be encoded to be measured.
        if len(text) * 4 > MAX_INDEXED_BYTES and len(text.encode()) > MAX_INDEXED_BYTES:
            raise invalid(
                f'The value of property "{name}" is longer than {MAX_INDEXED_BYTES} bytes.'
            )
        if kind == "integerValue":
            value[kind] = str(value[kind])


def elements(value: dict[str, Any]) -> list[Any]:
    """The elements of an array value.

    Raises:
        ServiceError: they are not a list.
    """
    found = (value["arrayValue"] or {}).get("values", [])
    if not isinstance(found, list):
        raise invalid("arrayValue.values must be a list")
    return found


def indexed(value: dict[str, Any] | None, project: str) -> list[SortKey]:
    """What the indexes hold for a stored value: one entry for each element of an array."""
    if value is None:
        return []
    if "arrayValue" in value:
        return [key for element in elements(value) for key in indexed(element, project)]
    if value.get("excludeFromIndexes") or "entityValue" in value:
        return []
    return [sort_key(value, project)]


def sort_key(value: Any, project: str) -> SortKey:  # unchecked JSON
    """Where a value stands among all values; equal values have equal keys.

    Raises:
        ServiceError: it is not a value, or not one that has an order.
    """
    kind = _type_of(value)
    if kind in _NOT_SCALAR:
        raise invalid(f"{kind} is not allowed here")
    if kind == "keyValue":
        return _KEY_RANK, parse_key(value[kind], project).path
    rank, convert = _SCALARS[kind]
    try:
        return rank, convert(value[kind])
    except (TypeError, ValueError, OverflowError, KeyError, binascii.Error) as error:
        raise invalid(f"{kind}: {error}") from None


def _type_of(value: Any) -> str:  # as above
    if isinstance(value, dict):
        kinds = [member for member in value if member in _TYPES]
        if len(kinds) == 1:
            return str(kinds[0])
    raise invalid("a value has exactly one of " + ", ".join(sorted(_TYPES)))


def _integer(data: Any) -> int:  # as above
    if isinstance(data, (bool, float)):
        raise TypeError("not an integer")
    number = int(data)
    if not -(2**63) <= number < 2**63:
        raise ValueError("it does not fit 64 bits")
    return number


def _instant(data: Any) -> int:  # as above
    moment = datetime.fromisoformat(data)
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
    return base64.b64decode(data, validate=True).hex()


def _double(data: Any) -> int:  # as above
    """A 64-bit integer in the order of the numbers, NaN first: JSON has no infinities."""
    number = float(data) + 0.0  # minus zero becomes zero
    if math.isnan(number):
        return -(2**63)
    (bits,) = struct.unpack(">q", struct.pack(">d", number))
    return int(bits) if bits >= 0 else -(int(bits) & (2**63 - 1))


_KEY_RANK = 8
_STRING_RANK = 5
_SCALARS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "nullValue": (0, lambda _: 0),
    "integerValue": (1, _integer),
    "timestampValue": (2, _instant),
    "booleanValue": (3, _boolean),
    "blobValue": (4, _blob),
    "stringValue": (_STRING_RANK, _text),
    "doubleValue": (6, _double),
    "geoPointValue": (7, lambda data: (_double(data["latitude"]), _double(data["longitude"]))),
}
_TYPES = {*_SCALARS, *_NOT_SCALAR, "keyValue"}


def key_value(path: Any) -> SortKey:  # a KeyPath
    """The sort key of a key, for the pseudo-property `__key__`."""
    return _KEY_RANK, path
