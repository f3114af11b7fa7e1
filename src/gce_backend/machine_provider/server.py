"""The Machine Provider's HTTP server: the original's protocol, probes and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.clock import Clock
from gce_backend.base.connections import (
    LINGERING_SECONDS,
    REQUEST_SECONDS,
    Listener,
    Refused,
    aiohttp_logger,
    is_forwarded,
)
from gce_backend.base.errors import SettingsError
from gce_backend.machine_provider import api, lease_api
from gce_backend.machine_provider.metrics import CONTENT_TYPE

MAX_BYTES = 8 * 2**20
"""Bytes of the largest request that the server reads."""
RETRY_SECONDS = 2
"""Seconds after which a caller that got a 503 may try again."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
REASONS = {401: "authError", 403: "forbidden", 404: "notFound", 503: "backendError"}
"""Google's error words by status; every other status is `badRequest`."""

Call = Callable[[str, str | None, str, Any], Awaitable[Any]]
Health = Callable[[], Mapping[str, str]]
"""The checks that fail, by name, with a sentence each; empty when all pass."""


class ProviderServer:
    """Serves calls, probes and metrics over HTTP.

    Args:
        call: carries a method out: its name, the header Authorization, the peer, the body.
        alive: returns the problems that a restart would fix.
        ready: returns the problems that keep this process from answering.
        metrics: renders the metrics if the caller may see them, given the header Authorization and
            the peer (None for one on this machine).
        answered: called for every answer with method, status and seconds.
        clock: the time.
        log: for requests that are refused before a handler sees them.
        refused: counts these requests.

    Attributes:
        url: where it listens, once started.
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
    ) -> None:
        self._call = call
        self._metrics = metrics
        self._answered = answered
        self._clock = clock
        self._log = log
        self._refused = refused
        self._listener: Listener | None = None
        app = web.Application(client_max_size=MAX_BYTES)
        app.on_response_prepare.append(_add_headers)
        for name in api.METHODS:
            app.router.add_post(path_of(name), self._handler(name))
        for route in lease_api.ROUTES:
            app.router.add_route(route.verb, route.path, self._handler(route.name))
        app.router.add_get("/healthz", _checked(alive))
        app.router.add_get("/readyz", _checked(ready))
        app.router.add_get("/metrics", self._get_metrics)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=5.0,
            keepalive_timeout=REQUEST_SECONDS,
            lingering_time=LINGERING_SECONDS,
            logger=aiohttp_logger(log, refused),
        )
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Starts listening.

        Raises:
            SettingsError: it cannot listen on the address.
        """
        await self._runner.setup()
        server = cast("web.Server", self._runner.server)  # set by setup()
        self._listener = Listener(server, log=self._log, refused=self._refused)
        try:
            address, bound = await self._listener.start(host, port)
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another port "
                "with GCE_BACKEND_PROVIDER__PORT (0: any free one)"
            ) from error
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{bound}"

    async def close(self) -> None:
        """Stops listening, and closes open connections."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    def _handler(self, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            begun = self._clock.monotonic()
            try:
                query = request.query if request.method == "GET" else {}
                body = {**await _body(request), **query, **request.match_info}
                authorization = request.headers.get("Authorization")
                found = await self._call(name, authorization, request.remote or "", body)
                response = web.Response(status=204) if found is None else _json(found)
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


async def _body(request: web.Request) -> dict[str, Any]:
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


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _checked(judge: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        problems = judge()
        return _json({"ok": not problems, "problems": dict(problems)}, 503 if problems else 200)

    return handler
