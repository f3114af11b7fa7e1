"""Checks requests against Google's description: refuses unknown members and wrong types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.description import Shape
from gce_backend.localcloud.compute.error_replies import invalid, required
from gce_backend.localcloud.wire import json_name

_EVERYWHERE = frozenset(
    {
        *("access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint"),
        *("quotaUser", "uploadType", "upload_protocol", "userIp", ".xgafv"),
    }
)
"""Parameters of every method, with and without a leading dollar."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "integer": int,
    "int64": int,
}
_LARGEST = {"integer": 2**32, "int64": 2**64}


def check_query(method: str, query: Mapping[str, str]) -> None:
    """Refuses parameters that the method does not have, and values that are not of their type.

    Args:
        method: the called method.
        query: its query parameters.

    Raises:
        ServiceError: 400 invalid.
    """
    known = description.method(method).parameters
    for name, value in query.items():
        kind = known.get(name)
        if kind is None and name.removeprefix("$") not in _EVERYWHERE:
            raise invalid(
                f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query '
                f"parameter. Field '{name}' could not be found in request message."
            )
        if kind == "boolean" and value.lower() not in {"true", "false"}:
            raise _wrong_type(value, name)
        if kind == "integer" and not (value == "" or _is_number(value, kind)):
            raise _wrong_type(value, name)


def checked_body(method: str, body: dict[str, Any]) -> dict[str, Any]:
    """A valid body without the members that are null, which count as absent.

    Args:
        method: the called method.
        body: its JSON body.

    Raises:
        ServiceError: 400 invalid; 400 required when there must be a body and there is none.
    """
    shape = description.method(method).request
    if shape is None:
        return {}
    if not body:
        raise required("resource")
    checked: dict[str, Any] = _checked(body, shape, "resource")
    return checked


def _checked(value: Any, shape: Shape, place: str) -> Any:
    shape = description.resolved(shape)
    if isinstance(shape, dict):
        return _checked_members(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _wrong_type(value, place)
        return [_checked(inner, shape[0], f"{place}[{index}]") for index, inner in enumerate(value)]
    if shape == "any":
        return value
    is_text = isinstance(value, str)
    if shape in _LARGEST:
        if not _is_number(str(value) if type(value) is int else value if is_text else "", shape):
            raise _wrong_type(value, place)
    elif not isinstance(value, _TYPES[shape]) or (shape != "boolean" and isinstance(value, bool)):
        raise _wrong_type(value, place)
    return value


def _checked_members(value: Any, shape: dict[str, Shape], place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong_type(value, place)
    checked = {}
    for given, inner in value.items():
        name = given if given in shape or "*" in shape else json_name(given)
        below = shape.get(name, shape.get("*"))
        if below is None:
            raise invalid(
                f"Invalid JSON payload received. Unknown name \"{given}\" at '{place}': "
                "Cannot find field."
            )
        if inner is not None:
            checked[name] = _checked(inner, below, f"{place}.{name}")
    return checked


def _is_number(text: str, kind: str) -> bool:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        return False
    return -_LARGEST[kind] <= int(text) < _LARGEST[kind]


def _wrong_type(value: Any, place: str) -> Exception:
    return invalid(f"Invalid value at '{place}': {value!r:.200}")
