"""Signing in to a Machine Provider's pages: a browser sends a token once, and gets a session.

The session's cookie is a random id; the token stays in this process, because a browser sends a
cookie to every port of a host. A restart ends the session, and so does the end of its token: each
request that uses it is judged like one that carries the token.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import msgspec
from aiohttp import web

from gce_backend.base.clock import Clock
from gce_backend.machine_provider.provider import Provider

COOKIE = "machine_provider_session"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000
"""Sessions that are kept; a new one ends the oldest."""

OwnToken = Callable[[], str]
"""Returns a token with which anybody who may see the pages is signed in."""


class _Session(msgspec.Struct, frozen=True):
    """What a cookie stands for.

    Attributes:
        authorization: the header Authorization that the browser does not send itself.
        until: on the monotonic clock, in seconds.
    """

    authorization: str
    until: float


class ProviderSessions:
    """The sessions of one process.

    Args:
        clock: ends them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def authorization(self, request: web.Request) -> str | None:
        """The header Authorization of a request, or of its session; None for neither."""
        given = request.headers.get("Authorization")
        if given is not None:
            return given
        session = self._sessions.get(_digest(request.cookies.get(COOKIE, "")))
        if session is None or self._clock.monotonic() >= session.until:
            return None
        return session.authorization

    async def begin(self, provider: Provider, token: str, request: web.Request) -> str:
        """Checks a token, and begins a session.

        Returns:
            The value of the session's cookie.

        Raises:
            Refusal: the token is refused, or its owner may do nothing here.
            TransientError: its issuer cannot be reached.
        """
        authorization = f"Bearer {token}"
        await provider.gatekeeper.admit(authorization, "service.session", request.remote or "")
        now = self._clock.monotonic()
        kept = {name: one for name, one in self._sessions.items() if one.until > now}
        self._sessions = dict(list(kept.items())[-MAX_SESSIONS + 1 :])
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = _Session(authorization, now + SESSION_SECONDS)
        return cookie

    def end(self, request: web.Request) -> None:
        """Ends the session of a request."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)


def _digest(cookie: str) -> str:
    """Under what a session is kept, so that no lookup tells how much of a guess is right."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()
