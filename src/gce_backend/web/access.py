"""Who may read and who may act: the tokens, and the browser's session that replaces one.

Reading is open where only this machine can come from: the daemon listens on loopback, the request
names loopback as its host (a page elsewhere could point a name of its own at this machine), and
nothing in it says that a proxy forwards it. In all other cases, everything about the fleet needs
a token. What a token lets its holder do, its role says.

A wrong token is logged and counted, and each one from the same peer is answered later. A right
token is never slowed down, so an operator who shares an address with a guesser can still act.

A session is a cookie with the time of its end and a signature made with the token. It needs no
memory here. A restart does not end it; the end of its token does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.clock import Clock
from gce_backend.base.connections import Refused, is_forwarded
from gce_backend.base.guesses import Guesses
from gce_backend.settings.settings import HttpSettings, is_loopback, names_loopback
from gce_backend.settings.tokens import NamedToken
from gce_backend.web.cookies import set_cookie

COOKIE = "gce_backend_session"
SESSION_SECONDS = 12 * 3600.0


class Gate:
    """Decides what a request may do.

    Args:
        http: the address that the daemon listens on, and whether loopback is open.
        tokens: returns the tokens that let readers in and operators act now; without any, nobody
            is let in.
        clock: ends sessions.
        log: for wrong tokens.
        refused: counts wrong tokens.
    """

    def __init__(
        self,
        http: HttpSettings,
        tokens: Callable[[], Sequence[NamedToken]],
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        refused: Refused,
    ) -> None:
        self._is_open = is_loopback(http.host) and http.open_on_loopback
        self._tokens = tokens
        self._clock = clock
        self._log = log
        self._refused = refused
        self._guesses = Guesses(clock)

    @property
    def has_token(self) -> bool:
        """Whether this daemon has any token."""
        return bool(self._tokens())

    def may_read(self, request: web.Request) -> bool:
        """Whether this request may see the fleet."""
        return self._is_local(request) or self.caller(request) is not None

    def caller(self, request: web.Request) -> NamedToken | None:
        """The token that this request carries, or whose session; None for neither."""
        return self.bearer(request) or self._of_session(request.cookies.get(COOKIE, ""))

    def bearer(self, request: web.Request) -> NamedToken | None:
        """The token that this request itself carries; None when it carries none, or a wrong one."""
        given = _bearer(request)
        return None if given is None else self.known(given)

    def bears_wrong_token(self, request: web.Request) -> bool:
        """Whether this request carries a wrong token."""
        return _bearer(request) is not None and self.bearer(request) is None

    async def slow_down(self, request: web.Request) -> None:
        """Records a wrong token, and waits before the answer."""
        if not self._tokens():
            return
        peer = request.remote or ""
        tries, delay = self._guesses.note(peer)
        self._refused("token")
        self._log.warning("http.token_refused", path=request.path, remote=peer, tries=tries)
        await asyncio.sleep(delay)

    def known(self, text: str) -> NamedToken | None:
        """The token with this text; None when there is none. Takes the same time for all texts."""
        given = _digest(text)
        same = [one for one in self._tokens() if _same(given, _digest(one.token.reveal()))]
        return same[0] if same else None

    def admit(self, token: NamedToken, response: web.StreamResponse, request: web.Request) -> None:
        """Gives a browser a session.

        Args:
            token: the token that the session replaces.
            response: the answer that carries it.
            request: the browser's.
        """
        ends = str(int(self._clock.now() + SESSION_SECONDS))
        cookie = f"{ends}.{_signature(token, ends)}"
        set_cookie(response, request, COOKIE, cookie, SESSION_SECONDS)

    def _of_session(self, cookie: str) -> NamedToken | None:
        ends, _, signature = cookie.partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 16):
            return None
        same = [one for one in self._tokens() if _same(signature, _signature(one, ends))]
        over = self._clock.now() >= int(ends)
        if not same or over:
            return None
        left = self._clock.remaining(float(ends), SESSION_SECONDS)  # nor after a clock set back
        return same[0] if left > 0 else None

    def _is_local(self, request: web.Request) -> bool:
        return self._is_open and not is_forwarded(request) and names_loopback(request.host)


def _bearer(request: web.Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _signature(token: NamedToken, ends: str) -> str:
    key = token.token.reveal().encode()
    return hmac.new(key, f"session {ends}".encode(), hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
