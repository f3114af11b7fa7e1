"""Connects the gcloud-aio clients to the one exchange and the project's errors.

The libraries' methods, paths and bodies are used; their own sessions and error handling are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partialmethod
from typing import Any

import msgspec
from yarl import URL

from gce_backend.base.errors import AbortedError, AlreadyExistsError, NotFoundError
from gce_backend.clients.error_table import ErrorTable
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, decode

MAX_ANSWER_BYTES = 64 * 2**20

_OBJECT = msgspec.json.Decoder(dict[str, Any])

ERRORS = ErrorTable(
    words={
        "NOT_FOUND": NotFoundError,
        "ABORTED": AbortedError,
        "ALREADY_EXISTS": AlreadyExistsError,
    },
    statuses={},
    newer=True,
)
"""Errors of Datastore and Pub/Sub: a 404 without their word means a wrong endpoint."""


class LibrarySession:
    """Stands in for the libraries' own session.

    Args:
        exchange: sends requests; if it has tokens, they replace the library's.
        method_of: returns `service.resource.method` for an HTTP verb and URL.
        timeout: deadlines of every call.
        limit: largest answer, in bytes.
        decoders: decoders of answers, for methods whose answers have a known type.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        method_of: Callable[[str, str], str],
        timeout: Deadlines,
        limit: int = MAX_ANSWER_BYTES,
        decoders: Mapping[str, msgspec.json.Decoder[Any]] = {},
    ) -> None:
        self._exchange = exchange
        self._method_of = method_of
        self._timeout = timeout
        self._limit = limit
        self._decoders = decoders

    async def _send(
        self,
        verb: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | str | None = None,
        params: Mapping[str, str] | None = None,
        timeout: float = 0.0,  # noqa: ASYNC109 -- the libraries' signature; ours is per client
    ) -> LibraryAnswer:
        method = self._method_of(verb, url)
        target = URL(url).update_query(params) if params else URL(url)
        answer = await self._exchange.call(
            HttpRequest(method, verb, target, self._timeout, self._limit, headers, data)
        )
        if answer.status != 200:
            raise ERRORS.error(method, answer)
        return LibraryAnswer(decode(method, answer.body, self._decoders.get(method, _OBJECT)))

    # What the libraries call.
    get = partialmethod(_send, "GET")
    put = partialmethod(_send, "PUT")
    patch = partialmethod(_send, "PATCH")
    delete = partialmethod(_send, "DELETE")
    post = partialmethod(_send, "POST")


class LibraryAnswer:
    """What the libraries take for a response."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    async def json(self) -> dict[str, Any]:
        """The decoded body."""
        return self._data
