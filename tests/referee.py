"""Google's own descriptions as referee: every exchange of a test is checked against them.

What the daemon and the Machine Provider send, and what the embedded cloud answers, must have only
parameters and fields that the discovery documents know, of the right type, format and enum. Of a
long list the first elements are looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gce_backend.localcloud.cloud import Cloud, Route, Service
from localcloud.discovery import check_request, check_response

APIS = {"compute": "compute.v1", "datastore": "datastore.v1", "pubsub": "pubsub.v1"}
LOOKED_AT = 5


class Referee:
    """What was seen.

    Attributes:
        exchanges: how many were checked.
        problems: what was wrong, each once.
    """

    def __init__(self) -> None:
        self.exchanges = 0
        self.problems: set[str] = set()

    async def look(self, route: Route, request: web.Request, response: web.Response) -> None:
        """Checks one exchange: what was sent, and the answer if it is a success."""
        api = APIS[route.method.partition(".")[0]]
        sent = await request.read()
        body = _trimmed(msgspec.json.decode(sent)) if sent else None
        found = check_request(api, route.method, body, dict(request.query))
        if response.status == 200 and isinstance(response.body, bytes):
            answer = _trimmed(msgspec.json.decode(response.body))
            found += check_response(api, route.method, answer)
        self.exchanges += 1
        self.problems |= {f"{route.method}: {problem}" for problem in found}


@contextlib.contextmanager
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Referee]:
    """Watches every embedded cloud; what was wrong fails the test that caused it."""
    referee = Referee()
    serve = Cloud._serve

    async def watched(
        self: Cloud, service: Service, route: Route, request: web.Request
    ) -> web.Response:
        response = await serve(self, service, route, request)
        if service.name in APIS:
            await referee.look(route, request, response)
        return response

    with monkeypatch.context() as patched:
        patched.setattr(Cloud, "_serve", watched)
        yield referee
    assert not referee.problems, "\n".join(sorted(referee.problems))


def _trimmed(value: Any) -> Any:
    if isinstance(value, list):
        return [_trimmed(element) for element in value[:LOOKED_AT]]
    if isinstance(value, dict):
        return {key: _trimmed(inner) for key, inner in value.items()}
    return value
