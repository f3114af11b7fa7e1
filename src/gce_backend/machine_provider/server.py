"""The Machine Provider's HTTP server: the original's protocol, probes and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.clock import Clock
from gce_backend.base.connections import Refused, is_forwarded
from gce_backend.base.http_server import HttpServer
from gce_backend.machine_provider import api, lease_api, openapi
from gce_backend.machine_provider.metrics import CONTENT_TYPE
from gce_backend.machine_provider.provider import Answered

MAX_BYTES = 8 * 2**20
"""Bytes of the largest request that the server reads."""
RETRY_SECONDS = 2
"""Seconds after which a caller that got a 503 may try again."""
DRAIN_SECONDS = 5.0
"""How long the process waits for calls in progress when it stops."""
HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
REASONS = {401: "authError", 403: "forbidden", 404: "notFound", 503: "backendError"}
"""Google's error words by status; every other status is `badRequest`."""

Call = Callable[[str, str | None, str, Any], Awaitable[Answered]]
Health = Callable[[], Mapping[str, str]]
"""The checks that fail, by name, with a sentence each; empty when all pass."""


class ProviderServer(HttpServer):
    """Serves calls, probes and metrics over HTTP.

    Args:
        call: carries a method out: its name, the header Authorization, the peer, the body.
        alive: returns the problems that a restart would fix.
        ready: returns the problems that keep this process from answering.
        metrics: renders the metrics if the caller may see them, given the header Authorization and
            the peer (None for one on this machine).
        answered: called for every answer with method, status and seconds.
        log: for requests that are refused before a handler sees them.
        refused: counts these requests.
        pages: the routes of pages for people.
    """

    def __init__(
        self,
        *,
        call: Call,
        alive: Health,
        ready: Health,
        metrics: Callable[[str | None, str | None], Awaitable[bytes]],
        answered: Callable[[str, int, float], None],
        clock: Clock,
        log: FilteringBoundLogger,
        refused: Refused,
        pages: Iterable[web.RouteDef] = (),
    ) -> None:
        self._call = call
        self._metrics = metrics
        self._answered = answered
        self._clock = clock
        super().__init__(
            [
                *(web.post(path_of(name), self._handler(name)) for name in api.METHODS),
                *(
                    web.route(route.verb, route.path, self._handler(route.name))
                    for route in lease_api.ROUTES
                ),
                web.get("/metrics", self._get_metrics),
                web.get(openapi.PATH, _get_openapi),
                *pages,
            ],
            alive=lambda: _body(alive()),
            ready=lambda: _body(ready()),
            headers=HEADERS,
            log=log,
            refused=refused,
            drain_seconds=DRAIN_SECONDS,
            most_bytes=MAX_BYTES,
        )

    def _handler(self, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            begun = self._clock.monotonic()
            try:
                query = request.query if request.method == "GET" else {}
                body = {**await _request_body(request), **query, **request.match_info}
                authorization = request.headers.get("Authorization")
                found = await self._call(name, authorization, request.remote or "", body)
                response = web.Response(status=204) if found.value is None else _json(found.value)
                if found.age is not None:
                    response.headers["Age"] = str(int(found.age))
            except api.Refusal as refusal:
                response = _json(error_body(refusal), refusal.status)
            self._answered(name, response.status, self._clock.monotonic() - begun)
            return response

        return handler

    async def _get_metrics(self, request: web.Request) -> web.Response:
        peer = None if is_here(request) else request.remote or ""
        try:
            text = await self._metrics(request.headers.get("Authorization"), peer)
        except api.Refusal as refusal:
            return _json(error_body(refusal), refusal.status)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def _get_openapi(_: web.Request) -> web.Response:
    """The description of the API, which is nobody's secret."""
    return _json(openapi.document())


def path_of(name: str) -> str:
    """The path of a method, `POST /_ah/api/{api}/v1/{method}`."""
    service, _, verb = name.partition(".")
    return f"/_ah/api/{service}/v1/{verb}"


def error_body(refusal: api.Refusal) -> Any:
    """The error envelope of Google's APIs."""
    reason = REASONS.get(refusal.status, "badRequest")
    detail = {"domain": "global", "reason": reason, "message": refusal.message}
    return {
        "error": {"code": refusal.status, "message": refusal.message, "errors": [detail]},
    }


def is_here(request: web.Request) -> bool:
    """Whether a request comes from this machine and was not forwarded by a proxy."""
    return not is_forwarded(request) and request.remote in {"127.0.0.1", "::1"}


async def _request_body(request: web.Request) -> dict[str, Any]:
    """The JSON object that was sent; {} when nothing was."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise api.Refusal(413, f"The body has more than {MAX_BYTES} bytes.") from error
    except web.RequestPayloadError as error:
        raise api.Refusal(400, "The body cannot be read.") from error
    if not raw:
        return {}
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise api.Refusal(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise api.Refusal(400, "The body is not a JSON object.")
    return body


def _json(body: Any, status: int = 200) -> web.Response:
    encoded = msgspec.json.encode(body)
    response = web.Response(status=status, body=encoded, content_type="application/json")
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _body(problems: Mapping[str, str]) -> dict[str, Any]:
    return {"ok": not problems, "problems": dict(problems)}
