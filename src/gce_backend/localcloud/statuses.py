"""Errors as answers, in the two styles of Google's services: with a reason, and with a status."""

from __future__ import annotations

from typing import Any

from gce_backend.base.errors import BackendError

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


class ServiceError(BackendError):
    """An answer that is an error, in the style of the service that raises it.

    Args:
        reason: the machine-readable word: `notFound` (Compute), `NOT_FOUND` (Datastore, Pub/Sub).
        details: further members of the error object.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, details: list[Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details


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
