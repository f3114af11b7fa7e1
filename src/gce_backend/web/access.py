"""Who may read and who may act: the token, and the browser's session that replaces it.

Reading is open where only this machine can come from: the daemon listens on loopback, the request
names loopback as its host (a page elsewhere could point a name of its own at this machine), and
nothing in it says that a proxy forwards it. In all other cases, everything about the fleet needs
the token.

A wrong token is logged and counted, and each one from the same peer is answered later. The right
token is never slowed down, so an operator who shares an address with a guesser can still act.

A session is a cookie with the time of its end and a signature made with the token. It needs no
memory here. A restart does not end it; a new token does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from urllib.parse import urlsplit

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.clock import Clock
from gce_backend.base.connections import Refused, is_forwarded
from gce_backend.base.guesses import Guesses
from gce_backend.settings.settings import HttpSettings, is_loopback

COOKIE = "gce_backend_session"
SESSION_SECONDS = 12 * 3600.0


class Gate:
    """Decides what a request may do.

    Args:
        http: the address that the daemon listens on, the token that lets readers in and operators
            act (no token lets nobody), and whether loopback is open.
        clock: ends sessions.
        log: for wrong tokens.
        refused: counts wrong tokens.
    """

    def __init__(
        self, http: HttpSettings, *, clock: Clock, log: FilteringBoundLogger, refused: Refused
    ) -> None:
        self._is_open = is_loopback(http.host) and http.open_on_loopback
        self._token = http.token
        self._clock = clock
        self._log = log
        self._refused = refused
        self._guesses = Guesses(clock)

    @property
    def has_token(self) -> bool:
        """Whether this daemon has a token."""
        return self._token is not None

    def may_read(self, request: web.Request) -> bool:
        """Whether this request may see the fleet."""
        return self._is_local(request) or self.is_operator(request)

    def is_operator(self, request: web.Request) -> bool:
        """Whether this request carries the token, or a session that replaces it."""
        return self.bears_token(request) or self._is_session(request.cookies.get(COOKIE, ""))

    def bears_token(self, request: web.Request) -> bool:
        """Whether this request carries the token itself."""
        given = _bearer(request)
        return given is not None and self.knows(given)

    def bears_wrong_token(self, request: web.Request) -> bool:
        """Whether this request carries a wrong token."""
        given = _bearer(request)
        return given is not None and not self.knows(given)

    async def slow_down(self, request: web.Request) -> None:
        """Records a wrong token, and waits before the answer."""
        if self._token is None:
            return
        peer = request.remote or ""
        tries, delay = self._guesses.note(peer)
        self._refused("token")
        self._log.warning("http.token_refused", path=request.path, remote=peer, tries=tries)
        await asyncio.sleep(delay)

    def knows(self, token: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and _same(token, self._token.reveal())

    def admit(self, response: web.StreamResponse, *, secure: bool) -> None:
        """Gives a browser a session.

        Args:
            response: the answer that carries it.
            secure: whether the browser uses https.
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
        if not _same(signature, self._signature(ends)) or self._clock.now() >= int(ends):
            return False
        return self._clock.remaining(float(ends), SESSION_SECONDS) > 0  # nor after a clock set back

    def _signature(self, ends: str) -> str:
        key = self._token.reveal() if self._token is not None else ""
        return hmac.new(key.encode(), f"session {ends}".encode(), hashlib.sha256).hexdigest()

    def _is_local(self, request: web.Request) -> bool:
        if not self._is_open or is_forwarded(request):
            return False
        try:
            return is_loopback(urlsplit(f"//{request.host}").hostname or "")
        except ValueError:
            return False


def is_of_this_site(request: web.Request) -> bool:
    """Whether the browser says that a page of this daemon sent the request."""
    origin = request.headers.get("Origin", "")
    return bool(request.host) and origin.partition("://")[2] == request.host


def _bearer(request: web.Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
