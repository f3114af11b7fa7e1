"""Who leases, and from which Machine Provider: what all commands for people and jobs share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp

from gce_backend.base.errors import SettingsError
from gce_backend.clients.exchange import Tokens
from gce_backend.machine_provider.client import LeaseClient
from gce_backend.machine_provider.credentials import own_tokens
from gce_backend.settings.settings import Settings


class Lessee(NamedTuple):
    """The caller, and the Machine Provider that the settings name.

    Attributes:
        session: an HTTP session, which ends with the block.
        url: the Machine Provider's.
        tokens: the caller's.
    """

    session: aiohttp.ClientSession
    url: str
    tokens: Tokens

    def client(self) -> LeaseClient:
        """A client of its API for people and jobs.

        Raises:
            SettingsError: the URL is no address that a token may be sent to.
        """
        return LeaseClient(self.session, self.url, self.tokens)


@contextlib.asynccontextmanager
async def lessee_of(settings: Settings) -> AsyncIterator[Lessee]:
    """The caller, for the length of a block.

    Raises:
        SettingsError: the settings name no Machine Provider.
    """
    url = settings.provider.url
    if url is None:
        raise SettingsError(
            "provider.url is not set: name the Machine Provider, GCE_BACKEND_PROVIDER__URL=https://..."
        )
    # The settings' file may name token and audience, too.
    provider, named = settings.provider, dict(os.environ)
    if provider.token is not None:
        named["GCE_BACKEND_PROVIDER__TOKEN"] = provider.token.reveal()
    if provider.audience:
        named["GCE_BACKEND_PROVIDER__AUDIENCE"] = provider.audience
    async with (
        aiohttp.ClientSession() as session,
        own_tokens(session, url, metadata=settings.endpoints.metadata, environ=named) as tokens,
    ):
        yield Lessee(session, url, tokens)
