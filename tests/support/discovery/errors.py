"""Whether an error looks like one of Google's.

https://google.aip.dev/193 describes `status` and `details`; Compute has the older `errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_WORDS = {
    400: {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"},
    401: {"UNAUTHENTICATED"},
    403: {"PERMISSION_DENIED"},
    404: {"NOT_FOUND"},
    409: {"ABORTED", "ALREADY_EXISTS"},
    429: {"RESOURCE_EXHAUSTED"},
    499: {"CANCELLED"},
    500: {"INTERNAL", "UNKNOWN", "DATA_LOSS"},
    501: {"UNIMPLEMENTED"},
    503: {"UNAVAILABLE"},
    504: {"DEADLINE_EXCEEDED"},
}
"""The status words for each HTTP status, from google/rpc/code.proto."""

_FIELDS = {"code", "message", "status", "errors", "details"}
_ENTRY_FIELDS = {"domain", "reason", "message", "location", "locationType"}


def error_problems(status: int, body: Any) -> Iterator[str]:
    """What is wrong with an error.

    Args:
        status: the HTTP status.
        body: the JSON body.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or body.keys() != {"error"}:
        yield ": an error is {'error': {...}}, and nothing else"
        return
    yield from (f".error.{name}: no such field" for name in error.keys() - _FIELDS)
    if error.get("code") != status:
        yield f".error.code: {error.get('code')!r} with HTTP status {status}"
    if not isinstance(error.get("message"), str):
        yield ".error.message: no string"
    if error.keys().isdisjoint({"status", "errors"}):
        yield ".error: neither status nor errors"
    if "status" in error and error["status"] not in _WORDS.get(status, ()):
        yield f".error.status: {error['status']!r} is no word for HTTP status {status}"
    entries = error.get("errors", [])
    for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        yield from _entry_problems(f".error.errors[{index}]", entry)


def _entry_problems(place: str, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{place}: no object"
        return
    yield from (f"{place}.{name}: no such field" for name in entry.keys() - _ENTRY_FIELDS)
    if not isinstance(entry.get("reason"), str):
        yield f"{place}.reason: no string"
