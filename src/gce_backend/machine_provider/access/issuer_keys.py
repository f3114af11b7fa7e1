"""The keys with which issuers sign identity tokens: fetched, cached, rotated.

An issuer publishes its keys under its discovery document. They are read when a token needs them,
and again when they are old or a token names an unknown key. Invented key names cause at most one
read per `RETRY_SECONDS`. While an issuer cannot be reached, its known keys stay valid for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from yarl import URL

from gce_backend.base.clock import Clock
from gce_backend.base.errors import InvalidTokenError, RemoteError, TransientError
from gce_backend.base.tasks import end
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, decode
from gce_backend.settings.settings import is_loopback

FRESH_SECONDS = 3600.0
"""Seconds after which keys are read again."""
USABLE_SECONDS = 24 * 3600.0
"""Seconds for which keys stay valid while they cannot be read again."""
RETRY_SECONDS = 10.0
"""Seconds at least between two reads of one issuer's keys."""
MAX_BYTES = 2**18
MAX_KEYS = 100
MIN_RSA_BITS = 2048
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Accepted algorithms: signatures by a private key only, no shared secrets, no `none`."""
TIMEOUT = Deadlines(total=10.0, sock_connect=5.0)
DISCOVERY = "/.well-known/openid-configuration"

Keys = Mapping[str, jwt.PyJWK]

_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class _Known:
    """The known keys of one issuer."""

    def __init__(self) -> None:
        self.keys: Keys = {}
        self.read_at = float("-inf")
        self.tried_at = float("-inf")
        self.reading: asyncio.Task[None] | None = None
        self.error: RemoteError | None = None


class IssuerKeys:
    """All issuers' keys.

    Args:
        exchange: sends the requests, without a token.
    """

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def key(self, issuer: str, key_id: str | None) -> jwt.PyJWK:
        """The key of that name.

        Args:
            issuer: URL of a trusted issuer, never one that only a token names.
            key_id: the token's `kid`; None when it has none, which works if the issuer has
                exactly one key.

        Raises:
            InvalidTokenError: the issuer has no such key.
            TransientError: its keys cannot be read.
        """
        known = self._known.setdefault(issuer, _Known())
        now = self._clock.monotonic()
        if now - known.read_at > FRESH_SECONDS or _choose(known.keys, key_id) is None:
            await self._read_soon(issuer, known)
        now = self._clock.monotonic()
        if now - known.read_at > USABLE_SECONDS:
            reason = known.error.message if known.error else "they were not read yet"
            raise TransientError("oidc.keys", f"the keys of {issuer} are unknown: {reason}")
        found = _choose(known.keys, key_id)
        if found is None:
            raise InvalidTokenError(f"it is signed with a key that {issuer} does not have")
        return found

    async def _read_soon(self, issuer: str, known: _Known) -> None:
        """Reads the keys again, once for all waiting callers, unless a read was just tried."""
        if known.reading is None:
            if self._clock.monotonic() - known.tried_at < RETRY_SECONDS:
                return
            known.tried_at = self._clock.monotonic()
            work = self._read(issuer, known)
            known.reading = asyncio.create_task(work, name="oidc.keys")
        # asyncio.wait, unlike awaiting the task, leaves it running when this waiter is cancelled.
        await asyncio.wait({known.reading})

    async def _read(self, issuer: str, known: _Known) -> None:
        try:
            document = await self._get(issuer.rstrip("/") + DISCOVERY)
            address = document.get("jwks_uri")
            if document.get("issuer") != issuer:
                raise TransientError("oidc.keys", f"the discovery document is not of {issuer}")
            if not isinstance(address, str) or not _is_safe(address):
                raise TransientError("oidc.keys", "the address of the keys is not https")
            known.keys = _usable((await self._get(address)).get("keys"))
            known.read_at = self._clock.monotonic()
            known.error = None
        except RemoteError as error:
            known.error = error
        finally:
            known.reading = None

    async def _get(self, address: str) -> Mapping[str, Any]:
        headers = {"Accept": "application/json"}
        try:
            url = URL(address)
        except ValueError:
            raise TransientError("oidc.keys", "the address of the keys is malformed") from None
        request = HttpRequest("oidc.keys", "GET", url, TIMEOUT, MAX_BYTES, headers)
        answer = await self._exchange.send(request, None)
        if answer.status != 200:
            raise TransientError("oidc.keys", f"HTTP {answer.status}", status=answer.status)
        found = decode("oidc.keys", answer.body, _ANYTHING)
        if not isinstance(found, dict):
            raise TransientError("oidc.keys", "the answer is not an object")
        return found

    async def close(self) -> None:
        """Cancels reads in flight."""
        await end(*(known.reading for known in self._known.values() if known.reading is not None))


def _choose(keys: Keys, key_id: str | None) -> jwt.PyJWK | None:
    if key_id is not None:
        return keys.get(key_id)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _is_safe(address: str) -> bool:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _usable(listed: object) -> Keys:
    """The keys that verify signatures; entries of other kinds are left out.

    Raises:
        TransientError: there are no such keys.
    """
    keys = {}
    for index, data in enumerate(listed[:MAX_KEYS] if isinstance(listed, list) else ()):
        if not isinstance(data, dict) or data.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(data)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        bits = getattr(key.key, "key_size", MIN_RSA_BITS)
        if key.algorithm_name in ALGORITHMS and not (
            data.get("kty") == "RSA" and bits < MIN_RSA_BITS
        ):
            keys[str(data.get("kid", f"#{index}"))] = key
    if not keys:
        raise TransientError("oidc.keys", "there is no key for signatures among the keys")
    return keys
