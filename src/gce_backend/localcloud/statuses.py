"""The two styles in which Google's services answer errors: with a reason, and with a status."""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.cloud import ServiceError

_FRAME_WORDS = {
    "authError": "UNAUTHENTICATED",
    "parseError": "INVALID_ARGUMENT",
}
_BACKEND_WORDS = {500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_USAGE_REASONS = {"rateLimitExceeded", "quotaExceeded"}
_LOCATIONS = {
    "authError": ("header", "Authorization"),
    "invalidParameter": ("parameter", "fields"),
}
"""Where in a request the cause of these reasons stands: `locationType` and `location`."""


def reason_body(error: ServiceError) -> dict[str, Any]:
    """An error's JSON in the style of Compute Engine and of Cloud Endpoints: with its reason."""
    domain = "usageLimits" if error.reason in _USAGE_REASONS else "global"
    entry = {"message": error.message, "domain": domain, "reason": error.reason}
    if error.reason in _LOCATIONS:
        kind, entry["location"] = _LOCATIONS[error.reason]
        entry["locationType"] = kind
    body: dict[str, Any] = {"code": error.status, "message": error.message, "errors": [entry]}
    if error.details:
        body["details"] = error.details
    return {"error": body}


def status_body(error: ServiceError) -> dict[str, Any]:
    """An error's JSON in the style of Datastore and Pub/Sub: google.rpc.Status.

    The reasons that the frame uses become status words.
    """
    status = _FRAME_WORDS.get(error.reason, error.reason)
    if status == "backendError":
        status = _BACKEND_WORDS.get(error.status, "UNKNOWN")
    body: dict[str, Any] = {"code": error.status, "message": error.message, "status": status}
    if error.details:
        body["details"] = error.details
    return {"error": body}


def invalid(message: str) -> ServiceError:
    """400 INVALID_ARGUMENT."""
    return ServiceError(400, "INVALID_ARGUMENT", message)


def not_found(message: str) -> ServiceError:
    """404 NOT_FOUND."""
    return ServiceError(404, "NOT_FOUND", message)


def already_exists(message: str) -> ServiceError:
    """409 ALREADY_EXISTS."""
    return ServiceError(409, "ALREADY_EXISTS", message)


def aborted(message: str) -> ServiceError:
    """409 ABORTED."""
    return ServiceError(409, "ABORTED", message)
