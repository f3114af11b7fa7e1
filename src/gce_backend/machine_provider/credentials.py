"""Tokens of whoever leases machines: given, a CI job's, or of Google's credentials."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import UnauthenticatedError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, Tokens, decode

METADATA = "http://metadata.google.internal"
SCOPES = ("https://www.googleapis.com/auth/userinfo.email",)
TIMEOUT = Deadlines(total=10.0)

_MAX_TOKEN_BYTES = 2**16


class FixedToken:
    """A token obtained elsewhere, e.g. by GitLab CI or `gcloud auth print-identity-token`."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get(self) -> str:
        """The token."""
        return self._token

    def invalidate(self, token: str) -> None:
        """Does nothing: there is no other token."""


class GitHubTokens:
    """Identity tokens of a GitHub Actions job, which needs the permission `id-token: write`.

    Args:
        url: ACTIONS_ID_TOKEN_REQUEST_URL.
        token: ACTIONS_ID_TOKEN_REQUEST_TOKEN.
        audience: one of the audiences that access.cfg names.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, url: str, token: str, audience: str
    ) -> None:
        self._exchange = Exchange(session, None, None)
        separator = "&" if "?" in url else "?"
        self._url = URL(f"{url}{separator}{urlencode({'audience': audience})}", encoded=True)
        self._request_token = token
        self._found = ""

    async def get(self) -> str:
        """A token, the same one until it is refused.

        Raises:
            UnauthenticatedError: GitHub does not issue one.
        """
        if not self._found:
            method = "github.id_token"
            request = HttpRequest(method, "GET", self._url, TIMEOUT, _MAX_TOKEN_BYTES)
            answer = await self._exchange.send(request, self._request_token)
            decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
            found = decode(method, answer.body, decoder) if answer.status == 200 else {}
            if not isinstance(found.get("value"), str):
                remedy = "give the job the permission `id-token: write`"
                raise UnauthenticatedError(method, remedy, status=answer.status)
            self._found = str(found["value"])
        return self._found

    def invalidate(self, token: str) -> None:
        """Drops the token, so that the next call asks for another."""
        if token == self._found:
            self._found = ""


@contextlib.asynccontextmanager
async def own_tokens(
    session: aiohttp.ClientSession,
    url: str,
    *,
    metadata: str = METADATA,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Tokens]:
    """The caller's own tokens, the first that there are.

    1. The token in GCE_BACKEND_PROVIDER__TOKEN.
    2. A GitHub Actions job's, for the audience in GCE_BACKEND_PROVIDER__AUDIENCE, or else the URL.
    3. Access tokens of Google's credentials.

    Args:
        url: the Machine Provider's URL.
        metadata: the metadata server's origin; no other credentials are used with one that is not
            Google's.
        environ: the variables.
    """
    token, github = (
        environ.get(name)
        for name in ("GCE_BACKEND_PROVIDER__TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL")
    )
    if token:
        yield FixedToken(token)
    elif github:
        request_token = environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
        audience = environ.get("GCE_BACKEND_PROVIDER__AUDIENCE") or url
        yield GitHubTokens(session, url=github, token=request_token, audience=audience)
    else:
        source = TokenSource(
            session,
            metadata_root=metadata,
            scopes=SCOPES,
            metadata_only=metadata != METADATA,
        )
        try:
            yield source
        finally:
            await source.close()
