"""The meaning of error answers: one parser of Google's error object, and one table per service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.exchange import MESSAGE_CHARACTERS, Answer, decode, delay_of

FIRM: Mapping[int, type[RemoteError]] = {
    401: UnauthenticatedError,
    408: TransientError,
    429: RateLimitedError,
    499: TransientError,
}
"""The meaning of these statuses for every service, whatever else the answer says."""

_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Said(NamedTuple):
    """What Google's error object in an answer says.

    Attributes:
        code: the HTTP status that it names; None when it names none.
        status: the error word of newer services, e.g. `NOT_FOUND`; "" when there is none.
        reason: the error word of older services, e.g. `notFound`; "" when there is none.
        message: for people; "" when there is none.
        details: the reasons of its details.
    """

    code: int | None = None
    status: str = ""
    reason: str = ""
    message: str = ""
    details: frozenset[str] = frozenset()

    @property
    def word(self) -> str:
        """The older word, else the newer one."""
        return self.reason or self.status


def said_in(body: bytes) -> Said | None:
    """What the error object in an answer says, in bounds; None when there is none."""
    try:
        found = decode("", body, _ANYTHING)
    except MalformedResponseError:
        return None
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    reasons = _reasons(error.get("errors"))
    return Said(
        code=code if isinstance(code, int) else None,
        status=_text(error.get("status")),
        reason=reasons[0] if reasons else "",
        message=_text(error.get("message")),
        details=frozenset(_reasons(error.get("details"))),
    )


def _reasons(details: object) -> list[str]:
    parts = details if isinstance(details, list) else []
    return [_text(part.get("reason")) if isinstance(part, dict) else "" for part in parts]


def _text(value: object) -> str:
    return value[:MESSAGE_CHARACTERS] if isinstance(value, str) else ""


class ErrorTable(NamedTuple):
    """One service's errors.

    Attributes:
        words: errors by the service's own word, if the error object has the answer's status;
            a not-found word counts only with 404.
        statuses: errors by HTTP status when no word decides; they override the common ones.
        newer: whether the words are the newer ones (`NOT_FOUND`).
    """

    words: Mapping[str, type[RemoteError]]
    statuses: Mapping[int, type[RemoteError]]
    newer: bool = False

    def error(self, method: str, answer: Answer, now: UnixSeconds | None = None) -> RemoteError:
        """The error for an unsuccessful answer.

        Args:
            method: the called method.
            answer: an answer with a status other than 2xx.
            now: None for the system's time.
        """
        status = answer.status
        said = said_in(answer.body)
        if status < 400:
            message = f"HTTP {status} is neither a success nor an error; redirects are not followed"
        elif said is None:
            message = f"HTTP {status}, without an error of the service's own"
        else:
            message = said.message or f"HTTP {status}, without a message"
        genuine = said is not None and said.code == status
        word = (said.status if self.newer else said.word) if said is not None and genuine else ""
        delay = delay_of(answer.headers.get("Retry-After"), time.time() if now is None else now)
        return self.kind(status, word)(
            method, message, status=status, reason=word, retry_after=delay
        )

    def kind(self, status: int, word: str) -> type[RemoteError]:
        """The type of error for an HTTP status and the service's own word; "" for none."""
        if status >= 500:
            return TransientError
        if firm := FIRM.get(status):
            return firm
        named = self.words.get(word)
        if named is not None and (named is not NotFoundError or status == 404):
            return named
        common = PermissionDeniedError if status == 403 else InvalidRequestError
        return self.statuses.get(status, common)
