"""Request bodies: converts unchecked JSON to typed values."""

from __future__ import annotations

import base64
import re
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from gce_backend.localcloud.statuses import invalid

T = TypeVar("T")

_UNDERSCORED = re.compile(r"_([a-z0-9])")
_URL_SAFE = str.maketrans("-_", "+/")


def from_base64(text: str) -> bytes:
    """The bytes that base64 encodes, of either alphabet, padded or not.

    Raises:
        ValueError: it is not base64.
    """
    plain = text.translate(_URL_SAFE).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def json_name(name: str) -> str:
    """JSON's name of a field, which may be given by its original one: `retryPolicy`."""
    return _UNDERSCORED.sub(lambda found: found[1].upper(), name)


class RequestMessage(
    msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """The JSON of a request; a member that is null is not set."""


def decode(body: Any, kind: type[T]) -> T:  # unchecked JSON
    """A request, or a part of one.

    Args:
        body: unchecked JSON; numbers may be strings, as in protobuf's JSON.
        kind: what it must be.

    Raises:
        ServiceError: 400, it is something else; the message names the member.
    """
    try:
        return msgspec.convert(body, kind, strict=False)
    except msgspec.ValidationError:
        pass  # again with the other names in protobuf's JSON, which few clients send
    try:
        return msgspec.convert(_renamed(body, kind), kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(
            f"Invalid JSON payload received: {error}. docs/localcloud.md lists what is served."
        ) from None


_NUMBERS = {
    "LESS_THAN": 1,
    "LESS_THAN_OR_EQUAL": 2,
    "GREATER_THAN": 3,
    "GREATER_THAN_OR_EQUAL": 4,
    "EQUAL": 5,
    "IN": 6,
    "NOT_EQUAL": 9,
    "HAS_ANCESTOR": 11,
    "NOT_IN": 13,
    "AND": 1,
    "OR": 2,
    "ASCENDING": 1,
    "DESCENDING": 2,
    "TRANSACTIONAL": 1,
    "NON_TRANSACTIONAL": 2,
    "STRONG": 1,
    "EVENTUAL": 2,
}
"""The numbers of the enums' words, from Datastore's protobuf files."""


def _renamed(body: Any, annotation: Any) -> Any:
    """A body with JSON's names for fields, and words for the numbers of enums."""
    members = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _renamed(body, members[0])
    if origin in {Union, UnionType}:
        for member in members:
            body = _renamed(body, member)
        return body
    if origin is Literal and type(body) is int:
        return next((word for word in members if _NUMBERS.get(word) == body), body)
    if origin is list and isinstance(body, list):
        return [_renamed(item, members[0]) for item in body]
    if not (isinstance(body, dict) and isinstance(annotation, type)):
        return body
    if not issubclass(annotation, msgspec.Struct):
        return body
    fields = msgspec.structs.fields(annotation)
    known = {name: field for field in fields for name in (field.name, field.encode_name)}
    return {
        known[name].encode_name if name in known else name: (
            _renamed(value, known[name].type) if name in known else value
        )
        for name, value in body.items()
    }
