"""The daemon's HTTP endpoint, on loopback unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from gce_backend.errors import SettingsError
from gce_backend.web.health import Check


class Server:
    """Serves what it is given; knows nothing of where it comes from.

    Args:
        liveness: `/healthz`.
        readiness: `/readyz`.
        metrics: `/metrics`, Prometheus text.
        documents: JSON documents by path, e.g. `/api/fleet`; None while there is none yet.
        routes: what else is served: the orders.
    """

    def __init__(
        self,
        *,
        liveness: Callable[[], Sequence[Check]],
        readiness: Callable[[], Sequence[Check]],
        metrics: Callable[[], bytes],
        documents: dict[str, Callable[[], Any]],
        routes: Iterable[web.RouteDef] = (),
    ) -> None:
        self._metrics = metrics
        app = web.Application()
        app.router.add_get("/healthz", _checks(liveness))
        app.router.add_get("/readyz", _checks(readiness))
        app.router.add_get("/metrics", self._get_metrics)
        for path, document in documents.items():
            app.router.add_get(path, _document(document))
        app.router.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listens; `url` says where.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror or error}. Another process "
                "probably has that port: stop it, or choose another one with "
                "GCE_BACKEND_HTTP__PORT (0: any free one)"
            ) from error
        bound = self._runner.addresses[0]
        self.url = f"http://{bound[0]}:{bound[1]}"

    async def close(self) -> None:
        """Stops listening."""
        await self._runner.cleanup()

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _checks(
    judge: Callable[[], Sequence[Check]],
) -> Callable[[web.Request], Any]:
    async def handler(_: web.Request) -> web.Response:
        checks = judge()
        ok = all(check.ok for check in checks)
        body = {"ok": ok, "checks": [msgspec.structs.asdict(check) for check in checks]}
        return _json(body, 200 if ok else 503)

    return handler


def _document(document: Callable[[], Any]) -> Callable[[web.Request], Any]:
    async def handler(_: web.Request) -> web.Response:
        body = document()
        if body is None:
            return _json({"error": "the daemon has not loaded its entities yet"}, 503)
        return _json(body, 200)

    return handler


def _json(body: Any, status: int) -> web.Response:
    encoded = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return web.Response(status=status, body=encoded, content_type="application/json")
