"""Google's access tokens. Only Google can read them, so it is asked, and its answer is cached.

An answer is valid for a minute, so that a revoked token is refused soon, and for ten minutes while
Google cannot be reached. The cache holds only digests of tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Collection
from typing import NamedTuple

from yarl import URL

from gce_backend.base.clock import Clock
from gce_backend.base.errors import InvalidTokenError, TransientError
from gce_backend.base.tasks import end
from gce_backend.clients.exchange import Deadlines, Exchange
from gce_backend.clients.tokeninfo import METHOD, tokeninfo, verified_email
from gce_backend.machine_provider.access.identity import Identity, email_of
from gce_backend.machine_provider.access.policy import GOOGLE

REMEMBERED_SECONDS = 60.0
"""Seconds for which an answer is valid."""
STALE_SECONDS = 600.0
"""Seconds for which it is valid while Google cannot be reached."""
REFUSED_SECONDS = 10.0
"""Seconds for which a refusal is valid."""
MAX_REMEMBERED = 10_000
TIMEOUT = Deadlines(total=10.0, sock_connect=5.0)
SERVICE_ACCOUNTS = ".gserviceaccount.com"


class _Remembered(NamedTuple):
    """Google's answer, and when it came. Without identity, `why` is the reason of the refusal."""

    identity: Identity | None
    client: str
    why: str
    at: float


class AccessTokens:
    """Asks Google for the owners of access tokens.

    Args:
        exchange: sends the requests, without a token of ours.
        url: the URL of tokeninfo.
    """

    def __init__(self, exchange: Exchange, url: str, clock: Clock) -> None:
        self._exchange = exchange
        self._url = URL(url)
        self._clock = clock
        self._known: dict[str, _Remembered] = {}
        self._asking: dict[str, asyncio.Task[_Remembered]] = {}

    async def identify(self, token: str, client_ids: Collection[str]) -> Identity:
        """The owner of a token.

        Args:
            token: an access token, unchecked.
            client_ids: OAuth clients whose tokens people may use.

        Raises:
            InvalidTokenError: Google refuses it, it has no owner, or it was issued to another
                application.
            TransientError: Google cannot be reached.
        """
        name = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        known = self._known.get(name)
        if known is None or not self._is_good(known):
            known = await self._ask_once(name, token, known)
        identity = known.identity
        if identity is None:
            raise InvalidTokenError(known.why)
        if identity.expires <= self._clock.now():
            raise InvalidTokenError("it has expired")
        if not identity.email.endswith(SERVICE_ACCOUNTS) and known.client not in client_ids:
            raise InvalidTokenError(
                f"it was issued to another application ({known.client[:100]!r}): if that may use "
                "it here, add its client id to client_ids in access.cfg"
            )
        return identity

    def _is_good(self, known: _Remembered) -> bool:
        seconds = REFUSED_SECONDS if known.identity is None else REMEMBERED_SECONDS
        return self._clock.monotonic() - known.at < seconds

    async def _ask_once(self, name: str, token: str, known: _Remembered | None) -> _Remembered:
        """Asks once for all waiting callers."""
        task = self._asking.get(name)
        if task is None:
            task = asyncio.create_task(self._ask(token), name="access.tokeninfo")
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        # asyncio.wait, unlike awaiting the task, leaves it running when this waiter is cancelled.
        await asyncio.wait({task})
        try:
            answer = task.result()
        except TransientError as error:
            is_young = known is not None and self._clock.monotonic() - known.at < STALE_SECONDS
            if known is None or known.identity is None or not is_young:
                raise TransientError(METHOD, error.message, status=error.status) from None
            return known
        self._known.pop(name, None)
        self._known[name] = answer
        if len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        return answer

    async def _ask(self, token: str) -> _Remembered:
        found = await tokeninfo(self._exchange, self._url, token, TIMEOUT)
        now = self._clock.monotonic()
        if found is None:
            return _Remembered(None, "", "Google does not know it, or it has expired", now)
        email = email_of(verified_email(found))
        if not email:
            remedy = "ask for the scope https://www.googleapis.com/auth/userinfo.email"
            return _Remembered(None, "", f"it names no verified e-mail address: {remedy}", now)
        try:
            expires = float(found["exp"])
        except (KeyError, TypeError, ValueError, OverflowError):
            expires = math.nan
        if not math.isfinite(expires):
            raise TransientError(METHOD, "the answer does not say when it expires")
        subject = str(found.get("sub") or found.get("azp") or email)
        identity = Identity(issuer=GOOGLE, subject=subject, email=email, expires=expires)
        return _Remembered(identity, str(found.get("azp") or found.get("aud") or ""), "", now)

    async def close(self) -> None:
        """Cancels calls in flight."""
        await end(*self._asking.values())
