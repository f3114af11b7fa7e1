"""The pages of a Machine Provider: what waits and why, machines, leases, and who was refused.

They look like the daemon's and only show: leases are made and changed by commands and by the API.
Reading is open on this machine by a loopback name; elsewhere a request needs a token of a viewer or
an administrator, which a proxy may add.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from aiohttp import web

from gce_backend import __version__
from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.machine_provider.api import Refusal
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.entities import MachineState, StoredMachine
from gce_backend.machine_provider.lease_api import every_lease, machine_document
from gce_backend.machine_provider.lease_documents import LeaseDocument
from gce_backend.machine_provider.queue import kind_of
from gce_backend.machine_provider.server import is_here
from gce_backend.machine_provider.service import ProviderService
from gce_backend.machine_provider.wire import Dimensions
from gce_backend.settings.settings import is_loopback
from gce_backend.web.pages.assets import Assets
from gce_backend.web.pages.rendering import Renderer
from gce_backend.web.pages.site import ROWS, paging
from gce_backend.web.server import HEADERS

NAVIGATION = (
    ("/", "Overview"),
    ("/leases", "Leases"),
    ("/machines", "Machines"),
    ("/refused", "Refused"),
)
CHUNK = 2000
"""Machines that are counted before other work gets its turn."""
GOOD_SECONDS = 5.0
"""How long the count of machines by kind is shown again."""
LOCKED = (
    "These pages need a token of a viewer or an administrator in the header Authorization. Without "
    "one they open on the Machine Provider's own machine alone, e.g. through an SSH tunnel."
)

Draw = Callable[[MachineProvider, web.Request], Awaitable[dict[str, Any]]]


class KindRow(msgspec.Struct):
    """The machines of one kind.

    Attributes:
        kind: its dimensions as text.
        free: those that can be leased.
        leased: those that somebody holds.
        starting: those that are being set up.
        leaving: those whose lease has ended.
        mute: those that are not leased because their agents do not report.
    """

    kind: str
    free: int = 0
    leased: int = 0
    starting: int = 0
    leaving: int = 0
    mute: int = 0


class ProviderSite:
    """The pages.

    Args:
        service: the process that they show.
        clock: the time.
    """

    def __init__(self, service: ProviderService, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._assets = Assets()
        self._renderer = Renderer(self._assets)
        self._kinds: tuple[float, list[KindRow]] = (float("-inf"), [])

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [
            web.get("/static/{name}", self._assets.get),
            web.get("/", self._at("provider_overview.html", self._overview)),
            web.get("/leases", self._at("provider_leases.html", self._leases)),
            web.get("/machines", self._at("provider_machines.html", self._machines)),
            web.get("/refused", self._at("provider_refused.html", self._refused)),
        ]

    def _at(self, template: str, draw: Draw) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            provider = self._service.provider
            try:
                await self._admit(request)
            except Refusal as refusal:
                return self._draw(
                    request, "provider_stands_by.html", {"why": LOCKED}, refusal.status
                )
            broker = provider.working if provider is not None else None
            if broker is None or not broker.ready.is_set():
                why = "; ".join(self._service.unready().values()) or "it is starting"
                return self._draw(request, "provider_stands_by.html", {"why": why}, 503)
            try:
                values = await draw(broker, request)
            except BackendError as error:
                return self._draw(request, "provider_stands_by.html", {"why": str(error)}, 503)
            return self._draw(request, template, values)

        return handle

    async def _admit(self, request: web.Request) -> None:
        """Lets a reader in.

        Raises:
            Refusal: the caller may not read the pages.
        """
        if is_here(request) and is_loopback(_host_of(request)):
            return
        provider = self._service.provider
        if provider is None:
            raise Refusal(503, "The Machine Provider is starting.")
        try:
            await provider.gatekeeper.admit(
                request.headers.get("Authorization"), "service.pages", request.remote or ""
            )
        except Refusal:
            raise
        except BackendError as error:
            raise Refusal(503, str(error)) from error

    def _draw(
        self, request: web.Request, template: str, values: dict[str, Any], status: int = 200
    ) -> web.Response:
        def link(**changes: Any) -> str:
            return f"{request.path}?{urlencode({**request.query, **changes})}"

        frame = {
            "version": __version__,
            "now": self._clock.now(),
            "path": request.path,
            "navigation": NAVIGATION,
            "link": link,
        }
        response = self._renderer.page(request, template, frame | values, status)
        response.headers.update(HEADERS)
        return response

    async def _overview(self, broker: MachineProvider, _: web.Request) -> dict[str, Any]:
        records = broker.records
        since, kinds = self._kinds
        if self._clock.monotonic() >= since + GOOD_SECONDS:
            kinds = await count_kinds(broker)
            self._kinds = self._clock.monotonic(), kinds
        pending = [lease for lease in await every_lease(broker) if lease.state == "pending"]
        pending.sort(key=lambda lease: lease.waiting.place if lease.waiting is not None else 0)
        holders = [
            (group, user, count, broker.leases.limits_of(group))
            for (group, user), count in sorted(
                records.held.machines.items(), key=lambda one: (-one[1], one[0])
            )
            if count
        ]
        return {
            "kinds": kinds,
            "machines": {str(state): len(found) for state, found in records.machines.items()},
            "free": sum(len(names) for names in records.free.values()),
            "silent": len(records.agents.silent),
            "queue": [(lease, kind_text(lease.dimensions)) for lease in pending[:ROWS]],
            "waiting": len(pending),
            "holders": holders[:ROWS],
        }

    async def _leases(self, broker: MachineProvider, request: web.Request) -> dict[str, Any]:
        leases: list[LeaseDocument] = [
            lease for lease in await every_lease(broker) if lease.state != "pending"
        ]
        page = _page(request)
        first = (page - 1) * ROWS
        return {
            "leases": [(one, kind_text(one.dimensions)) for one in leases[first : first + ROWS]],
            "paging": paging(page, len(leases)),
        }

    async def _machines(self, broker: MachineProvider, request: web.Request) -> dict[str, Any]:
        records = broker.records
        asked, state = request.query.get("q", ""), request.query.get("state", "")
        found = {
            path: machine
            for one in MachineState
            if one is not MachineState.DELETED and state in {"", one}
            for path, machine in records.machines[one].items()
            if asked in machine.hostname
        }
        page = _page(request)
        first = (page - 1) * ROWS
        shown = [found[path] for path in sorted(found)[first : first + ROWS]]
        documents = [machine_document(records, machine, names_user=True) for machine in shown]
        return {
            "asked": asked,
            "state": state,
            "states": [one for one in MachineState if one is not MachineState.DELETED],
            "machines": [(one, kind_text(one.dimensions)) for one in documents],
            "paging": paging(page, len(found)),
        }

    async def _refused(self, _: MachineProvider, __: web.Request) -> dict[str, Any]:
        provider = self._service.provider
        return {"calls": list(provider.gatekeeper.refusals) if provider is not None else []}


async def count_kinds(broker: MachineProvider) -> list[KindRow]:
    """The machines by kind, the kind with the most machines first."""
    records = broker.records
    machines = [one for found in records.machines.values() for one in found.values()]
    counts: Counter[tuple[Dimensions, str]] = Counter()
    for start in range(0, len(machines), CHUNK):
        counts.update(
            (kind_of(machine.dimensions), column)
            for machine in machines[start : start + CHUNK]
            if (column := _column(broker, machine))
        )
        await asyncio.sleep(0)
    rows: dict[Dimensions, KindRow] = {}
    for (kind, column), count in counts.items():
        row = rows.setdefault(kind, KindRow(kind_text(kind)))
        setattr(row, column, count)
    return sorted(rows.values(), key=lambda row: (-row.free - row.leased, row.kind))


def _column(broker: MachineProvider, machine: StoredMachine) -> str:
    """The column of a kind's row that counts a machine; "" for none."""
    if machine.state is MachineState.AVAILABLE:
        if machine.preempted_ts is not None:
            return "leaving"
        return "free" if broker.records.agents.allows(machine) else "mute"
    return {
        MachineState.NEW: "starting",
        MachineState.LEASED: "leased",
        MachineState.RECLAIMED: "leaving",
    }.get(machine.state, "")


def kind_text(dimensions: Dimensions) -> str:
    """Dimensions for people: `os_family:LINUX num_cpus:8`; "any" when there is none."""
    named = msgspec.to_builtins(dimensions)
    texts = [f"{key}:{value}" for key, value in named.items() if key not in {"hostname", "backend"}]
    return " ".join(texts) or "any"


def _page(request: web.Request) -> int:
    """The page of a table that is asked for; 1 for what is none."""
    text = request.query.get("page", "1")
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 7 else 1


def _host_of(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""
