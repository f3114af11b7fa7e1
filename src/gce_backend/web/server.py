"""The daemon's HTTP endpoint: the address, who is let in, and what every answer carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.connections import (
    LINGERING_SECONDS,
    REQUEST_SECONDS,
    Listener,
    Refused,
    aiohttp_logger,
)
from gce_backend.base.errors import SettingsError
from gce_backend.engine.metrics import CONTENT_TYPE
from gce_backend.web.access import Gate
from gce_backend.web.documents.answers import answer
from gce_backend.web.health import Check

OPEN = ("/healthz", "/readyz", "/session", "/static/")
"""What anybody may ask for: the probes, and what it takes to sign in."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOCKED = (
    "reading needs a token, because the request does not come from this machine by a loopback "
    "name, and this daemon has none: set http.token in its settings (GCE_BACKEND_HTTP__TOKEN)"
)
NOT_LET_IN = "reading needs the daemon's token: send it as `Authorization: Bearer TOKEN`"


class Server:
    """Serves what it is given; knows nothing of where it comes from.

    Args:
        gate: who may read.
        liveness: `/healthz`.
        readiness: `/readyz`.
        metrics: `/metrics`, Prometheus text.
        routes: what else is served: documents, pages, orders.
        log: for what is refused before a handler sees it.
        refused: counts it.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        liveness: Callable[[], Sequence[Check]],
        readiness: Callable[[], Sequence[Check]],
        metrics: Callable[[], Awaitable[bytes]],
        routes: Iterable[web.RouteDef],
        log: FilteringBoundLogger,
        refused: Refused,
    ) -> None:
        self._gate = gate
        self._log = log
        self._refused = refused
        self._listener: Listener | None = None
        self._metrics = metrics
        app = web.Application(middlewares=[self._admit])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/healthz", _checks(liveness))
        app.router.add_get("/readyz", _checks(readiness))
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=REQUEST_SECONDS,
            lingering_time=LINGERING_SECONDS,
            logger=aiohttp_logger(log, refused),
        )
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listens; `url` says where.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        await self._runner.setup()
        server = cast("web.Server", self._runner.server)  # there is one after setup()
        self._listener = Listener(server, log=self._log, refused=self._refused)
        try:
            address, bound = await self._listener.start(host, port)
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror or error}. Another process "
                "probably has that port: stop it, or choose another one with "
                "GCE_BACKEND_HTTP__PORT (0: any free one)"
            ) from error
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{bound}"

    async def close(self) -> None:
        """Stops listening, and ends what is open."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    @web.middleware
    async def _admit(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if request.path.startswith(OPEN):
            return await handler(request)
        reads = request.method in {"GET", "HEAD"}  # orders ask for the token themselves
        if reads and self._gate.may_read(request):
            return await handler(request)
        if self._gate.bears_wrong_token(request):
            await self._gate.slow_down(request)
        if not reads:
            return await handler(request)
        if not self._gate.has_token:
            return answer({"error": LOCKED}, 403)
        if "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPSeeOther("/session?" + urlencode({"to": request.path_qs}))
        refusal = answer({"error": NOT_LET_IN}, 401)
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE})


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _checks(
    judge: Callable[[], Sequence[Check]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        checks = judge()
        ok = all(check.ok for check in checks)
        body = {"ok": ok, "checks": [msgspec.structs.asdict(check) for check in checks]}
        return answer(body, 200 if ok else 503)

    return handler
