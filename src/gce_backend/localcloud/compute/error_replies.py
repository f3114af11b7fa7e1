"""Compute's errors, and small values that recur in its resources."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import msgspec

from gce_backend.localcloud.statuses import ServiceError


def invalid(message: str) -> ServiceError:
    """400 invalid: the request itself is wrong."""
    return ServiceError(400, "invalid", message)


def invalid_field(field: str, value: object, why: str) -> ServiceError:
    """400 invalid for one field's value."""
    return invalid(f"Invalid value for field '{field}': '{value}'. {why}")


def required(field: str) -> ServiceError:
    """400 required: a field or parameter that must be there is not."""
    return ServiceError(400, "required", f"Required field '{field}' not specified")


def invalid_selection(name: str) -> ServiceError:
    """400 invalidParameter: the parameter `fields` names something that the answer cannot have."""
    return ServiceError(400, "invalidParameter", f"Invalid field selection {name}")


def forbidden(permission: str, project: str) -> ServiceError:
    """403 forbidden: the caller lacks a permission."""
    return ServiceError(403, "forbidden", f"Required '{permission}' permission for '{project}'")


def not_found(path: str) -> ServiceError:
    """404 notFound of the resource with this partial link."""
    return ServiceError(404, "notFound", f"The resource '{path}' was not found")


def already_exists(path: str) -> ServiceError:
    """409 alreadyExists of the resource with this partial link."""
    return ServiceError(409, "alreadyExists", f"The resource '{path}' already exists")


def not_ready(path: str) -> ServiceError:
    """400 resourceNotReady: the resource is being created or deleted."""
    return ServiceError(400, "resourceNotReady", f"The resource '{path}' is not ready")


def in_use(path: str, user: str) -> ServiceError:
    """400 resourceInUseByAnotherResource."""
    message = f"The resource '{path}' is already being used by '{user}'"
    return ServiceError(400, "resourceInUseByAnotherResource", message)


def stale_fingerprint() -> ServiceError:
    """412 conditionNotMet."""
    return ServiceError(412, "conditionNotMet", "Supplied fingerprint does not match current one.")


def rfc3339(moment: float) -> str:
    """A time in Unix seconds as Compute writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def fingerprint(content: Any) -> str:
    """Base64 of 8 bytes that change with the content."""
    digest = hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=8).digest()
    return b64encode(digest).decode()


def constant_id(path: str) -> str:
    """The numeric id of a project, or of a resource that always existed, such as an image."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return str(int.from_bytes(digest, "big") >> 1 | 1)
