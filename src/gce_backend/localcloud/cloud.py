"""The frame of the embedded services: routes, tokens, counts, faults, durability."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog
from aiohttp import web

from gce_backend.base.clock import Clock
from gce_backend.base.connections import aiohttp_logger
from gce_backend.localcloud.faults import SPOILING, Fault, Faults, spoiled_list
from gce_backend.localcloud.statuses import ServiceError, reason_body
from gce_backend.localcloud.tables import StateFileError, Tables
from gce_backend.localcloud.trust import trusting

MAX_REQUEST_BYTES = 32 * 2**20
MAX_UNSERVED = 100
"""Most different unserved requests that are counted by name."""
MAX_UNSERVED_NAME = 200
SHORTEST_COMPRESSED = 1024
"""Bytes of the smallest answer that is compressed."""

_INNER_HEADER = "X-Localcloud-Inner"
INNER_HEADERS = {_INNER_HEADER: "1"}
"""What the cloud's own services send with calls to each other: these are not counted, and only
faults that are meant for them strike them."""


class CloudOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How the embedded cloud behaves.

    Attributes:
        project: the project that the metadata server names.
        config_dir: the directory whose files the LUCI Config services serve.
        config_set: the name of the only config set that they serve.
        token_seconds: life of an access token.
        operation_seconds: from a mutation's answer to its operation being DONE.
        boot_seconds: from a VM's creation to RUNNING.
        delete_seconds: from a VM's deletion to its absence.
        calls_per_minute: quota of each Compute method group, per project.
        dispatch_seconds: how long the Machine Provider waits between looks at its work.
        denied_permissions: permissions that no caller has, for testIamPermissions and for the
            methods of Compute Engine.
        authenticate: whether requests need a token. If not, requests without a token count as the
            cloud's own account's.
        vm_command: the command that runs for each VM as long as the VM does; () for none.
        vm_directory: the directory that holds a directory for each VM, in which its command runs.
    """

    project: str = "local-project"
    config_dir: Path | None = None
    config_set: str = "services/gce-backend"
    token_seconds: float = 3600.0
    operation_seconds: float = 1.0
    boot_seconds: float = 4.0
    delete_seconds: float = 2.0
    calls_per_minute: int = 1500
    dispatch_seconds: float = 0.5
    denied_permissions: tuple[str, ...] = ()
    authenticate: bool = True
    vm_command: tuple[str, ...] = ()
    vm_directory: Path = Path("var/vms")

    def instant(self) -> CloudOptions:
        """The same cloud with no latencies at all."""
        return msgspec.structs.replace(
            self,
            operation_seconds=0.0,
            boot_seconds=0.0,
            delete_seconds=0.0,
            dispatch_seconds=0.05,
        )


class Call(NamedTuple):
    """One authenticated request, as a handler sees it.

    Attributes:
        method: the route's name, `service.resource.method`.
        path: the path's variables, percent-decoded.
        query: the query's parameters (the last one of each name).
        body: the JSON body; {} when there is none.
        request: the aiohttp request, for everything else.
    """

    method: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]
    request: web.Request


Handler = Callable[[Call], Awaitable[Any]]
PageHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One method of a service.

    Attributes:
        method: its name, `service.resource.method`: calls are counted and faults injected by it.
        verb: the HTTP verb.
        path: an aiohttp resource pattern, absolute.
        handler: answers with a JSON value or an aiohttp response, or raises `ServiceError`.
        authenticated: whether a valid bearer token is needed.
    """

    method: str
    verb: str
    path: str
    handler: Handler
    authenticated: bool = True


class CloudControl(NamedTuple):
    """A request below `/_localcloud/`: it needs no token, is not counted, and has no faults."""

    verb: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.Response]]


class Service(ABC):
    """A service of the cloud.

    Attributes:
        name: the first part of the names of its methods.
        error_body: the JSON body that it gives an error.
    """

    name: str
    error_body: Callable[[ServiceError], Any] = staticmethod(reason_body)

    def routes(self) -> Iterable[Route]:
        """Its methods."""
        return ()

    @abstractmethod
    def state(self) -> Any:
        """What exists, for `GET /_localcloud/state`."""

    async def run(self) -> None:  # noqa: B027 (most have no work of their own)
        """Does the service's own work until it is cancelled."""


class Cloud:
    """The embedded cloud.

    Args:
        tables: where its state lives.
        options: how it behaves.

    Attributes:
        calls: how often each method was called from outside, whatever the outcome.
        faults: what has been injected.
        base_url: where it listens, without a trailing slash; set by `start`.
        home: the page at "/" for browsers; None where there is none.
    """

    def __init__(self, tables: Tables, clock: Clock, options: CloudOptions) -> None:
        self.tables = tables
        self.clock = clock
        self.options = options
        self.calls: Counter[str] = Counter()
        self.faults = Faults()
        self.base_url = ""
        self.home: PageHandler | None = None
        self._pages: list[web.RouteDef] = []
        self._services: list[Service] = []
        self._controls: list[CloudControl] = []
        self._is_valid_token: Callable[[str], bool] = lambda _: False
        self._account_of_token: Callable[[str], str] = lambda _: self.own_account
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._late: set[asyncio.Task[None]] = set()

    def add(self, *services: Service) -> None:
        """Puts services into the cloud; before `start`."""
        self._services.extend(services)

    def add_controls(self, *controls: CloudControl) -> None:
        """Adds requests that change how a service behaves, for people and tests; before `start`."""
        self._controls.extend(controls)

    def add_pages(self, routes: Iterable[web.RouteDef]) -> None:
        """Adds pages for people; before `start`.

        The page at "/" becomes `home`: that address is the metadata server's, too.
        """
        for route in routes:
            if route.path == "/":
                self.home = route.handler
            else:
                self._pages.append(route)

    @property
    def own_account(self) -> str:
        """The e-mail address of the account whose tokens the metadata server issues."""
        return f"gce-backend@{self.options.project}.iam.gserviceaccount.com"

    def authenticate_with(
        self,
        is_valid_token: Callable[[str], bool],
        account_of_token: Callable[[str], str] | None = None,
    ) -> None:
        """Sets the functions that check bearer tokens and name their accounts."""
        self._is_valid_token = is_valid_token
        if account_of_token is not None:
            self._account_of_token = account_of_token

    def account_of(self, request: web.Request) -> str:
        """The e-mail address of the account that calls.

        Raises:
            ServiceError: 401: the request has no valid token, and the cloud wants one.
        """
        if not self.options.authenticate and "Authorization" not in request.headers:
            return self.own_account
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not self._is_valid_token(token):
            raise ServiceError(401, "authError", "Request had invalid authentication credentials.")
        return self._account_of_token(token)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Starts listening and the services' own work, and returns the base URL.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[trusting])
        for service in self._services:
            for route in service.routes():
                app.router.add_route(route.verb, route.path, self._endpoint(service, route))
        app.router.add_get("/_localcloud/calls", self._get_calls)
        app.router.add_delete("/_localcloud/calls", self._reset_calls)
        app.router.add_get("/_localcloud/faults", self._get_faults)
        app.router.add_post("/_localcloud/faults", self._inject)
        app.router.add_delete("/_localcloud/faults", self._clear_faults)
        app.router.add_get("/_localcloud/state", self._get_state)
        for control in self._controls:
            app.router.add_route(*control)
        app.router.add_routes(self._pages)
        app.router.add_route("*", "/{path:.*}", self._unserved)
        logger = aiohttp_logger(structlog.get_logger(), lambda _: None)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=logger)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0]
        self.base_url = f"http://{bound[0]}:{bound[1]}"
        for service in self._services:
            task = asyncio.create_task(service.run(), name=f"localcloud.{service.name}")
            self._tasks.append(task)
        return self.base_url

    async def find(self, request: web.Request) -> web.UrlMappingMatchInfo:
        """The handler of a request that comes on no connection, and its path's variables."""
        assert self._runner is not None  # noqa: S101 -- who calls knows where it listens
        return await self._runner.app.router.resolve(request)

    async def close(self) -> None:
        """Stops listening, ends the services' tasks and writes the state file."""
        ending = [*self._late, *self._tasks]
        for task in ending:
            task.cancel()
        for task in ending:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._runner is not None:
            await self._runner.cleanup()
        self.tables.close()

    def state(self, services: Collection[str] = ()) -> dict[str, Any]:
        """What exists, by service, as `GET /_localcloud/state` answers it.

        Args:
            services: the names of the services to tell of; all, if there are none.
        """
        wanted = (s for s in self._services if not services or s.name in services)
        return {service.name: service.state() for service in wanted}

    async def wait(self) -> None:
        """Waits for the services' own tasks; returns only by raising what one of them raised."""
        await asyncio.gather(*self._tasks)

    def _endpoint(
        self, service: Service, route: Route
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            inner = request.headers.get(_INNER_HEADER) == "1"
            if not inner:
                self.calls[route.method] += 1
            zone = request.match_info.get("zone")
            slow = self.faults.strike(route.method, zone, "latency", inner=inner)
            await self._delay(slow, "before")
            for fault in self.faults.strike(route.method, zone, "late", inner=inner):
                return await self._postpone(service, route, request, fault)
            spoiling = ("status", "drop", "html", "answer", *SPOILING)
            struck = self.faults.strike(route.method, zone, *spoiling, inner=inner)
            early = next((f for f in struck if f.when == "before" and f.kind not in SPOILING), None)
            if early is not None:
                return self._spoil(service, early, request, None)
            response = await self._serve(service, route, request)
            await self._delay(slow, "after")
            for fault in struck:
                response = self._spoil(service, fault, request, response)
            return _compressed(request, response)

        return endpoint

    @staticmethod
    async def _delay(slow: Sequence[Fault], when: str) -> None:
        seconds = sum(fault.seconds for fault in slow if fault.when == when)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _postpone(
        self, service: Service, route: Route, request: web.Request, fault: Fault
    ) -> web.Response:
        """Cuts the connection, and lets the call take effect later."""
        with contextlib.suppress(web.RequestPayloadError, web.HTTPRequestEntityTooLarge):
            await request.read()  # while the connection exists
        execution = self._execute_later(service, route, request, fault)
        task = asyncio.create_task(execution, name=f"localcloud.late.{route.method}")
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        await asyncio.sleep(fault.held)
        return self._spoil(service, fault, request, None)

    async def _execute_later(
        self, service: Service, route: Route, request: web.Request, fault: Fault
    ) -> None:
        await asyncio.sleep(fault.seconds)
        await self._serve(service, route, request)
        fault.executed += 1

    async def _serve(self, service: Service, route: Route, request: web.Request) -> web.Response:
        try:
            if route.authenticated:
                self.account_of(request)
            body = await self._body(request)
            call = Call(route.method, request.match_info, request.query, body, request)
            answer = await route.handler(call)
            self.tables.commit()
        except ServiceError as error:
            self.tables.commit()
            return self._error(service, error)
        except StateFileError as error:
            return self._error(service, ServiceError(503, "backendError", str(error)))
        if isinstance(answer, web.Response):
            return answer
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    @staticmethod
    async def _body(request: web.Request) -> dict[str, Any]:
        too_large = ServiceError(
            413, "uploadTooLarge", f"The body has more than {MAX_REQUEST_BYTES} bytes."
        )
        if (request.content_length or 0) > MAX_REQUEST_BYTES:
            raise too_large
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise too_large from error
        except web.RequestPayloadError as error:
            raise ServiceError(400, "parseError", f"The body cannot be read: {error}") from error
        other = ("application/x-www-form-urlencoded", "multipart/")
        # curl -d and Python's urllib call a JSON body a form; a form begins with a name.
        if not raw or (request.content_type.startswith(other) and raw[:1] != b"{"):
            return {}  # a handler that takes a form or a batch reads it itself
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ServiceError(400, "parseError", f"The body is not JSON: {error}") from error
        if body == "":  # how Google's Node client sends a POST without a body
            return {}
        if not isinstance(body, dict):
            raise ServiceError(400, "parseError", "The body is not a JSON object.")
        return body

    @staticmethod
    def _error(service: Service, error: ServiceError) -> web.Response:
        body = msgspec.json.encode(service.error_body(error))
        return web.Response(status=error.status, body=body, content_type="application/json")

    def _spoil(
        self, service: Service, fault: Fault, request: web.Request, response: web.Response | None
    ) -> web.Response:
        if fault.kind in {"drop", "late"}:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if fault.kind == "html":
            return web.Response(text="<html><body>Sign in</body></html>", content_type="text/html")
        if fault.kind == "answer":
            body = msgspec.json.encode(fault.body)
            return web.Response(body=body, content_type="application/json")
        if fault.kind == "truncate" and response is not None:
            body = response.body if isinstance(response.body, bytes) else b""
            half = body[: len(body) // 2]
            return web.Response(status=response.status, body=half, content_type="application/json")
        if fault.kind in SPOILING and response is not None:
            if response.status != 200:
                return response
            body = response.body if isinstance(response.body, bytes) else b"{}"
            answer = spoiled_list(fault.kind, msgspec.json.decode(body))
            return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
        spoiled = self._error(service, ServiceError(fault.status, fault.reason, fault.message))
        if fault.retry_after is not None:
            spoiled.headers["Retry-After"] = str(fault.retry_after)
        return spoiled

    async def _unserved(self, request: web.Request) -> web.Response:
        """Answers a request that no service serves, and counts it by name if the names are few."""
        if request.path.startswith("/_localcloud/"):  # no service's
            raise web.HTTPNotFound
        name = f"{request.method} {request.path}"[:MAX_UNSERVED_NAME]
        self.calls["unserved"] += 1
        unserved = sum(method.startswith("unserved ") for method in self.calls)
        if f"unserved {name}" in self.calls or unserved < MAX_UNSERVED:
            self.calls[f"unserved {name}"] += 1
        message = f"The embedded cloud does not serve {name}: see docs/localcloud.md."
        detail = {"domain": "global", "reason": "notImplemented", "message": message}
        error = {"code": 501, "status": "UNIMPLEMENTED", "message": message, "errors": [detail]}
        return web.json_response({"error": error}, status=501)

    async def _get_calls(self, _: web.Request) -> web.Response:
        return web.json_response(dict(sorted(self.calls.items())))

    async def _reset_calls(self, _: web.Request) -> web.Response:
        self.calls.clear()
        return web.json_response({})

    async def _get_faults(self, _: web.Request) -> web.Response:
        body = msgspec.json.encode(self.faults.injected)
        return web.Response(body=body, content_type="application/json")

    async def _inject(self, request: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as error:
            return web.json_response({"error": f"not a fault: {error}"}, status=400)
        self.faults.add(fault)
        return web.json_response({})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({})

    async def _get_state(self, request: web.Request) -> web.Response:
        body = msgspec.json.encode(self.state(request.query.getall("service", ())))
        return web.Response(body=body, content_type="application/json")


def _compressed(request: web.Request, response: web.Response) -> web.Response:
    """The answer; compressed if both headers ask for gzip, as Google requires."""
    asked = all(
        "gzip" in request.headers.get(name, "") for name in ("Accept-Encoding", "User-Agent")
    )
    body = response.body
    if asked and isinstance(body, bytes) and len(body) >= SHORTEST_COMPRESSED:
        response.body = gzip.compress(body, compresslevel=1, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    return response
