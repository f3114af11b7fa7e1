"""An issuer of OpenID Connect tokens, with discovery, keys that rotate, and Google's tokeninfo.

Use it for a test of who calls the Machine Provider.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from gce_backend.base.clock import Clock
from gce_backend.clients.exchange import Exchange
from gce_backend.machine_provider.access.access_tokens import AccessTokens
from gce_backend.machine_provider.access.identity_tokens import IdentityTokens
from gce_backend.machine_provider.access.issuer_keys import IssuerKeys
from gce_backend.machine_provider.access.policy import GCLOUD_CLIENTS, AccessPolicy, Issuer
from gce_backend.machine_provider.access.verifier import TokenVerifier
from support.responses import ScriptedServer, scripted_server

AUDIENCE = "https://mp.example.com"
JWKS = "/keys"


class FakeIssuer:
    """The issuer.

    Attributes:
        url: where it is, and how its tokens name it.
        status: with which its keys and tokeninfo are answered.
        documents: changes of the discovery document.
        tokens: access tokens, and what tokeninfo says of each.
    """

    def __init__(self, clock: Clock) -> None:
        self.url = ""
        self.status = 200
        self.documents: dict[str, Any] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.server: ScriptedServer
        self._clock = clock
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.rotate("first")

    def rotate(self, name: str, *, keep: bool = False) -> None:
        """Signs with a key of this name from now on; the others are published on if `keep`."""
        kept = self._keys if keep else {}
        self._keys = {name: ec.generate_private_key(ec.SECP256R1()), **kept}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims of a sound token."""
        now = int(self._clock.now())
        sound = {"iss": self.url, "sub": "job-1", "aud": AUDIENCE, "iat": now, "exp": now + 600}
        return {name: value for name, value in {**sound, **changes}.items() if value is not None}

    def token(self, *, signer: str = "", kid: str | None = "", **changes: Any) -> str:
        """A token; `kid` "" names the key that signs, None names none."""
        name = signer or next(iter(self._keys))
        headers = {} if kid is None else {"kid": kid or name}
        return jwt.encode(self.claims(**changes), self._keys[name], "ES256", headers=headers)

    def asked(self, path: str) -> int:
        """How often something was read."""
        return sum(request.path == path for request in self.server.requests)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Discovery, keys and tokeninfo."""
        await asyncio.sleep(0.01)  # so that others can join the wait
        if self.status != 200:
            return web.Response(status=self.status)
        if request.path == "/tokeninfo":
            token = str((await request.post())["access_token"])
            if token not in self.tokens:
                return web.json_response({"error": "invalid_token"}, status=400)
            return web.json_response(self.tokens[token])
        if request.path == JWKS:
            return web.json_response({"keys": [self._public(name) for name in self._keys]})
        document = {"issuer": self.url, "jwks_uri": self.url + JWKS, **self.documents}
        return web.json_response(document)

    def _public(self, name: str) -> dict[str, Any]:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._keys[name].public_key(), as_dict=True)
        return {**public, "kid": name, "alg": "ES256", "use": "sig"}

    def access_token(self, name: str, address: str, **changes: Any) -> str:
        """An access token of somebody, known to tokeninfo."""
        self.tokens[name] = {
            "azp": GCLOUD_CLIENTS[0],
            "aud": GCLOUD_CLIENTS[0],
            "sub": "1234",
            "exp": str(int(self._clock.now()) + 3600),
            "email": address,
            "email_verified": "true",
            **changes,
        }
        return name


@contextlib.asynccontextmanager
async def issuer_running(clock: Clock) -> AsyncIterator[FakeIssuer]:
    """Serves an issuer while the block lasts."""
    issuer = FakeIssuer(clock)
    async with scripted_server(issuer.answer) as server:
        issuer.server, issuer.url = server, server.root.rstrip("/")
        yield issuer


@contextlib.asynccontextmanager
async def verifying(
    issuer: FakeIssuer, clock: Clock, *, email_domains: tuple[str, ...] = ("example.com",)
) -> AsyncIterator[TokenVerifier]:
    """A verifier that believes the issuer, also for e-mail addresses of these domains."""
    policy = AccessPolicy(issuers=(Issuer(issuer.url, (AUDIENCE,), email_domains),))
    async with aiohttp.ClientSession() as session:
        exchange = Exchange(session, None, None)
        keys = IssuerKeys(exchange, clock)
        verifier = TokenVerifier(
            lambda: policy,
            access_tokens=AccessTokens(exchange, issuer.url + "/tokeninfo", clock),
            keys=keys,
            identity_tokens=IdentityTokens(keys, clock),
        )
        yield verifier
        await verifier.close()
