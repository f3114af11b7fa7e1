"""The daemon's HTTP server: its address, who is let in, and the headers of every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from gce_backend.base.connections import Refused
from gce_backend.base.http_server import HttpServer
from gce_backend.engine.metrics import CONTENT_TYPE
from gce_backend.web.access import Gate
from gce_backend.web.documents.answers import answer
from gce_backend.web.health import Check
from gce_backend.web.packing import packed

OPEN = ("/healthz", "/readyz", "/session", "/static/")
"""What anybody may read: the probes, and what signing in needs."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOCKED = (
    "reading needs a token, because the request does not come from this machine by a loopback "
    "name, and this daemon has none: set http.token (GCE_BACKEND_HTTP__TOKEN) or http.tokens_file "
    "in its settings"
)
NOT_LET_IN = "reading needs a token of the daemon: send it as `Authorization: Bearer TOKEN`"


DRAIN_SECONDS = 1.0
"""How long the daemon waits for requests in progress when it stops."""


class Server(HttpServer):
    """The daemon's HTTP server.

    Args:
        gate: who may read.
        liveness: the checks of `/healthz`.
        readiness: the checks of `/readyz`.
        metrics: `/metrics`, Prometheus text.
        routes: what else is served: documents, pages, orders.
        log: for requests that are refused before a handler sees them.
        refused: counts these requests.
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
        self._metrics = metrics
        super().__init__(
            [web.get("/metrics", self._get_metrics), *routes],
            alive=lambda: _body(liveness()),
            ready=lambda: _body(readiness()),
            headers=HEADERS,
            log=log,
            refused=refused,
            drain_seconds=DRAIN_SECONDS,
            middlewares=[self._admit],
        )

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

    async def _get_metrics(self, request: web.Request) -> web.Response:
        body, headers = await self._metrics(), {"Content-Type": CONTENT_TYPE}
        return await packed(request, web.Response(body=body, headers=headers))


def _body(checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "ok": all(check.ok for check in checks),
        "checks": [msgspec.structs.asdict(check) for check in checks],
    }
