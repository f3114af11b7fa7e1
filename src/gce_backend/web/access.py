"""Who may read and who may act: the token, and the browser's session that stands for it.

Reading is open where nobody from elsewhere can come: the daemon listens on loopback, and the
request names loopback as its host (a page elsewhere could point a name of its own at this
machine). In all other cases whatever says something about the fleet needs the token.

A session is a cookie with the time of its end and a signature made with the token: it needs no
memory here, a restart does not end it, another token does.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from aiohttp import web

from gce_backend.base.clock import Clock
from gce_backend.settings.settings import Secret, is_loopback

COOKIE = "gce_backend_session"
SESSION_SECONDS = 12 * 3600.0


class Gate:
    """Judges requests.

    Args:
        host: the address that the daemon listens on.
        token: what lets a reader in and an operator act; None lets nobody.
        clock: ends sessions.
    """

    def __init__(self, *, host: str, token: Secret | None, clock: Clock) -> None:
        self._on_loopback = is_loopback(host)
        self._token = token
        self._clock = clock

    @property
    def has_token(self) -> bool:
        """Whether anybody can be let in by a token."""
        return self._token is not None

    def may_read(self, request: web.Request) -> bool:
        """Whether this request may see the fleet."""
        return self._is_local(request) or self.is_operator(request)

    def is_operator(self, request: web.Request) -> bool:
        """Whether this request carries the token, or a session that stands for it."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(given.strip()):
            return True
        return self._is_session(request.cookies.get(COOKIE, ""))

    def knows(self, token: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and _same(token, self._token.reveal())

    def admit(self, response: web.StreamResponse, *, secure: bool) -> None:
        """Gives a browser a session.

        Args:
            response: the answer that carries it.
            secure: whether the browser came over https, all the way to it.
        """
        ends = str(int(self._clock.now() + SESSION_SECONDS))
        response.set_cookie(
            COOKIE,
            f"{ends}.{self._signature(ends)}",
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="Strict",
            secure=secure,
        )

    @staticmethod
    def dismiss(response: web.StreamResponse) -> None:
        """Ends a browser's session."""
        response.del_cookie(COOKIE, httponly=True, samesite="Strict")

    def _is_session(self, cookie: str) -> bool:
        ends, _, signature = cookie.partition(".")
        if self._token is None or not (ends.isascii() and ends.isdigit() and len(ends) < 16):
            return False
        return _same(signature, self._signature(ends)) and self._clock.now() < int(ends)

    def _signature(self, ends: str) -> str:
        key = self._token.reveal() if self._token is not None else ""
        return hmac.new(key.encode(), f"session {ends}".encode(), hashlib.sha256).hexdigest()

    def _is_local(self, request: web.Request) -> bool:
        if not self._on_loopback:
            return False
        try:
            return is_loopback(urlsplit(f"//{request.host}").hostname or "")
        except ValueError:
            return False


def is_of_this_site(request: web.Request) -> bool:
    """Whether a browser says that a page of this very address sent the request."""
    origin = request.headers.get("Origin", "")
    return bool(request.host) and origin.partition("://")[2] == request.host


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
