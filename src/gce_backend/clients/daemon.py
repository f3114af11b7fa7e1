"""Client of a daemon's own JSON documents (`/api/...`), for the commands.

Nothing is repeated, and the token is sent only when the daemon asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from gce_backend.base.errors import (
    MalformedResponseError,
    NoDaemonError,
    OrderError,
    SettingsError,
    TransientError,
    UnknownNameError,
)
from gce_backend.clients.exchange import (
    MESSAGE_CHARACTERS,
    Answer,
    Deadlines,
    Exchange,
    HttpRequest,
    decode,
)
from gce_backend.clients.plain_http import PlainSession
from gce_backend.settings.settings import HttpSettings, Secret, Settings

if TYPE_CHECKING:  # heavy, and only needed for a daemon behind TLS
    import aiohttp

_DOCUMENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

MAX_BYTES = 64 * 2**20
"""Bytes of the largest document that is read: enough for many thousand machines."""


class DaemonApi:
    """A daemon at one address.

    Args:
        url: where it listens, without a slash at the end.
        token: the token for a daemon that requires one.
        timeout: seconds for one document.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | PlainSession,
        url: str,
        token: Secret | None,
        timeout: float = 30.0,
    ) -> None:
        self.url = url
        self._exchange = Exchange(session, None, None)
        self._token = token
        self._timeout = Deadlines(total=timeout, connect=min(timeout, 5.0))

    async def get(self, path: str, parameters: Mapping[str, str | int] | None = None) -> Any:
        """A document.

        Args:
            path: its path, e.g. `/api/status`.
            parameters: its query parameters; empty ones are left out.

        Raises:
            NoDaemonError: no daemon answers there, or it has not loaded its entities yet.
            UnknownNameError: it asks for something that does not exist.
            SettingsError: it needs a token, or another one.
            OrderError: the daemon refuses it; the message says why.
        """
        query = {name: str(value) for name, value in (parameters or {}).items() if value != ""}
        answer = await self._get(path, query, None)
        if answer.status == 401 and self._token is not None:
            answer = await self._get(path, query, self._token)
        status = answer.status
        try:
            document = decode(f"daemon{path}", answer.body, _DOCUMENT)
            said = "" if status == 200 else str(document["error"])[:MESSAGE_CHARACTERS]
        except (MalformedResponseError, KeyError, TypeError):
            raise NoDaemonError(
                f"the server at {self.url} is not a gce-backend daemon of this version (HTTP "
                f"{status}, {path}). Say where the daemon is with --url or GCE_BACKEND_URL"
            ) from None
        if status == 200:
            return document
        similar = document.get("similar")
        names = [str(name)[:100] for name in similar[:10]] if isinstance(similar, list) else []
        raise self._refusal(path, status, said, names)

    async def _get(self, path: str, query: Mapping[str, str], token: Secret | None) -> Answer:
        headers = {"Accept": "application/json"}
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        request = HttpRequest(f"daemon{path}", "GET", url, self._timeout, MAX_BYTES, headers)
        try:
            return await self._exchange.send(request, token.reveal() if token else None)
        except TransientError as error:
            failure = error.message
        raise NoDaemonError(
            f"no daemon answers at {self.url} ({failure}). Start one with `gce-backend run`, or "
            "say where it is with --url or GCE_BACKEND_URL"
        )

    def _refusal(
        self, path: str, status: int, said: str, similar: list[str]
    ) -> NoDaemonError | OrderError | SettingsError:
        if status == 404 and path == "/api/explain":
            listed = "; `gce-backend machines`, `groups` and `templates` list them"
            likely = f". Did you mean: {', '.join(similar)}?" if similar else listed
            return UnknownNameError(f"{said}{likely}")
        if status == 401:
            known = "the token of these settings is not the daemon's" if self._token else said
            return SettingsError(f"{known}. Set GCE_BACKEND_HTTP__TOKEN to the daemon's http.token")
        if status == 503:
            return NoDaemonError(f"the daemon at {self.url} cannot answer yet: {said}")
        return OrderError(said)


def address(settings: Settings) -> str:
    """The address at which commands find the daemon of these settings.

    Raises:
        NoDaemonError: the settings do not name it.
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
