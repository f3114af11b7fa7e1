"""Requests' bodies: from unchecked JSON to typed values."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gce_backend.localcloud.statuses import invalid

T = TypeVar("T")


class RequestMessage(
    msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What a request's JSON must look like; a member that is null is one that is not set."""


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
    except msgspec.ValidationError as error:
        raise invalid(
            f"Invalid JSON payload received: {error}. docs/localcloud.md says what there is."
        ) from None
