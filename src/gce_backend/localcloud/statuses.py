"""The style in which Datastore and Pub/Sub answer errors: google.rpc.Status as JSON."""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.cloud import ServiceError

_FRAME_WORDS = {
    "authError": "UNAUTHENTICATED",
    "parseError": "INVALID_ARGUMENT",
}
_BACKEND_WORDS = {500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


def status_body(error: ServiceError) -> dict[str, Any]:
    """An error's JSON; the reasons that the frame uses become status words."""
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
