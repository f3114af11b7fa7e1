"""An HTTP server of this process: routes, probes, headers of every answer, and the address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from structlog.typing import FilteringBoundLogger

from gce_backend.base.connections import (
    LINGERING_SECONDS,
    REQUEST_SECONDS,
    Listener,
    Refused,
    aiohttp_logger,
)
from gce_backend.base.errors import SettingsError

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers that every answer has."""

Probe = Callable[[], Mapping[str, Any]]
"""Returns the JSON body of a probe's answer; its member `ok` decides between 200 and 503."""


class HttpServer:
    """Serves routes and probes.

    Args:
        routes: what is served besides the probes.
        alive: `GET /healthz`: what a restart would fix.
        ready: `GET /readyz`: what keeps this process from working.
        headers: headers of every answer, besides `HEADERS`.
        log: for requests that are refused before a handler sees them.
        refused: counts these requests.
        drain_seconds: how long `close` waits for calls in progress.
        most_bytes: bytes of the largest body that a handler reads.
        middlewares: what each request passes first.

    Attributes:
        url: where it listens; empty until `start` returns.
    """

    def __init__(
        self,
        routes: Iterable[web.RouteDef],
        *,
        alive: Probe,
        ready: Probe,
        headers: Mapping[str, str],
        log: FilteringBoundLogger,
        refused: Refused,
        drain_seconds: float,
        most_bytes: int = 2**20,
        middlewares: Iterable[Middleware] = (),
    ) -> None:
        self._headers = HEADERS | dict(headers)
        self._log = log
        self._refused = refused
        self._listener: Listener | None = None
        app = web.Application(middlewares=tuple(middlewares), client_max_size=most_bytes)
        app.on_response_prepare.append(self._add_headers)
        app.router.add_get("/healthz", _answering(alive))
        app.router.add_get("/readyz", _answering(ready))
        app.router.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=drain_seconds,
            keepalive_timeout=REQUEST_SECONDS,
            lingering_time=LINGERING_SECONDS,
            logger=aiohttp_logger(log, refused),
        )
        self.url = ""

    async def start(self, host: str, port: int, *, port_setting: str) -> None:
        """Starts listening.

        Args:
            port: 0 takes any free port.
            port_setting: the environment variable that sets the port, for the error's message.

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
            raise cannot_listen(host, port, error, port_setting) from error
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{bound}"

    async def close(self) -> None:
        """Stops listening, waits for calls in progress, and closes all connections."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    async def _add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        for name, value in self._headers.items():
            response.headers.setdefault(name, value)


def cannot_listen(host: str, port: int, error: OSError, port_setting: str) -> SettingsError:
    """The error that says why an address cannot be listened on, and what helps.

    Args:
        port_setting: the option or the environment variable that sets the port.
    """
    return SettingsError(
        f"cannot listen on {host}:{port}: {error.strerror or error}. Another process probably "
        f"has that port: stop it, or choose another port with {port_setting} (0: any free one)"
    )


def _answering(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        body = probe()
        return web.Response(
            status=200 if body["ok"] else 503,
            body=msgspec.json.format(msgspec.json.encode(body), indent=2),
            content_type="application/json",
        )

    return handler
