"""Client of a daemon's own JSON documents (`/api/...`), for the commands.

Nothing is repeated, and the token goes along only when the daemon asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from gce_backend.base.errors import (
    InvalidRequestError,
    NoDaemonError,
    RemoteError,
    UnknownNameError,
)
from gce_backend.clients.json_api import read_body
from gce_backend.settings.settings import HttpSettings, Secret, Settings

MAX_BYTES = 64 * 2**20
"""Largest document that is read: fleets of many thousand machines fit well."""


class DaemonApi:
    """A daemon at one address.

    Args:
        session: the HTTP session.
        url: where it listens, without a slash at the end.
        token: lets a reader in where the daemon wants one.
        timeout: seconds for one document.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, token: Secret | None, timeout: float = 30.0
    ) -> None:
        self.url = url
        self._session = session
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=min(timeout, 5.0))

    async def get(self, path: str, parameters: Mapping[str, str | int] | None = None) -> Any:
        """A document.

        Args:
            path: its path, e.g. `/api/status`.
            parameters: those of its query; the ones that are "" are left out.

        Raises:
            NoDaemonError: no daemon answers there, or it has not loaded its entities yet.
            UnknownNameError: it asks for something that is not there.
            RemoteError: the daemon does not give it; the message says why.
        """
        query = {name: str(value) for name, value in (parameters or {}).items() if value != ""}
        status, body = await self._get(path, query, None)
        if status == 401 and self._token is not None:
            status, body = await self._get(path, query, self._token)
        try:
            document = msgspec.json.decode(body)
            said = "" if status == 200 else str(document["error"])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise NoDaemonError(
                f"what answers at {self.url} is no gce-backend daemon of this version (HTTP "
                f"{status}, {path}). Say where the daemon is with --url or GCE_BACKEND_URL"
            ) from None
        if status == 200:
            return document
        raise self._refusal(path, status, said, document.get("similar") or [])

    async def _get(
        self, path: str, query: Mapping[str, str], token: Secret | None
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token.reveal()}"
        try:
            async with self._session.get(
                self.url + path,
                params=query,
                headers=headers,
                allow_redirects=False,
                timeout=self._timeout,
            ) as response:
                return response.status, await read_body(f"daemon{path}", response, MAX_BYTES)
        except TimeoutError:
            failure = "no answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = _words(error)
        # Outside of the `except` blocks: aiohttp's errors hold the request's headers.
        raise NoDaemonError(
            f"no daemon answers at {self.url} ({failure}). Start one with `gce-backend run`, or "
            "say where it is with --url or GCE_BACKEND_URL"
        )

    def _refusal(
        self, path: str, status: int, said: str, similar: list[str]
    ) -> NoDaemonError | UnknownNameError | RemoteError:
        if status == 404 and path == "/api/explain":
            likely = f". Did you mean: {', '.join(similar)}?" if similar else ""
            return UnknownNameError(f"{said}{likely}")
        if status == 401:
            known = "the token of these settings is not the daemon's" if self._token else said
            return InvalidRequestError(
                f"daemon{path}",
                f"{known}. Set GCE_BACKEND_HTTP__TOKEN to the daemon's http.token",
                status=status,
            )
        if status == 503:
            return NoDaemonError(f"the daemon at {self.url} cannot answer yet: {said}")
        return InvalidRequestError(f"daemon{path}", said, status=status)


def _words(error: Exception) -> str:
    """What went wrong on the way, in short."""
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else type(error).__name__


def address(settings: Settings) -> str:
    """Where the commands find the daemon that these settings are of.

    Raises:
        NoDaemonError: the settings do not say it.
    """
    if settings.url is not None:
        return settings.url
    http: HttpSettings = settings.http
    if http.port == 0:
        raise NoDaemonError(
            "http.port is 0 in the settings, so the daemon's port is not known: say where it is "
            "with --url or GCE_BACKEND_URL"
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)  # noqa: S104
    return f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"
