"""The pages of a Machine Provider: what waits and why, machines, leases, and who was refused.

They look like the daemon's. Reading is open on this machine by a loopback name; elsewhere a request
needs a token of a viewer or an administrator, which a proxy may add. Who signs in with a token may
make and change leases there, as far as the API lets the owner of that token.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from aiohttp import web

from gce_backend import __version__
from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.machine_provider.access.policy import Role
from gce_backend.machine_provider.api import Caller, Refusal
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.gatekeeper import RefusedCall
from gce_backend.machine_provider.holdings import holdings_of
from gce_backend.machine_provider.lease_api import (
    every_lease,
    machine_document,
    waiting_leases,
)
from gce_backend.machine_provider.lease_documents import LeaseDocument, UserHoldings
from gce_backend.machine_provider.provider import Provider
from gce_backend.machine_provider.server import is_here
from gce_backend.machine_provider.trends import Trend
from gce_backend.machine_provider.wire import dimension_text
from gce_backend.settings.settings import is_loopback
from gce_backend.web.cookies import drop_cookie, set_cookie
from gce_backend.web.documents.answers import RefusedError
from gce_backend.web.documents.bodies import read_form
from gce_backend.web.pages.forms import check_origin, redirect
from gce_backend.web.pages.provider_figures import charts_of, count_kinds, spark
from gce_backend.web.pages.provider_orders import call_of
from gce_backend.web.pages.provider_session import (
    COOKIE,
    SESSION_SECONDS,
    OwnToken,
    ProviderSessions,
)
from gce_backend.web.pages.rendering import renderer
from gce_backend.web.pages.site import ROWS, paging
from gce_backend.web.server import HEADERS

NAVIGATION = (
    ("/", "Overview"),
    ("/leases", "Leases"),
    ("/machines", "Machines"),
    ("/users", "Users"),
    ("/refused", "Refused"),
)
LOCKED = (
    "These pages need a token of a viewer or an administrator. Without one they open on the "
    "Machine Provider's own machine alone, e.g. through an SSH tunnel."
)
SIGN_IN = "Sign in first: leasing needs a token that says who you are."
STARTING = "The Machine Provider is starting."

Draw = Callable[[MachineProvider, web.Request], Awaitable[dict[str, Any]]]


class ProviderSite:
    """The pages.

    Args:
        provider: returns the Machine Provider that they show; None while it starts.
        unready: returns the problems that keep it from answering.
        clock: the time.
        access_problem: returns why the present access.cfg is not in force; "" when it is.
        own_token: signs anybody in who may see the pages; None where callers bring their tokens.
    """

    def __init__(
        self,
        provider: Callable[[], Provider | None],
        unready: Callable[[], Mapping[str, str]],
        clock: Clock,
        *,
        access_problem: Callable[[], str] = str,
        own_token: OwnToken | None = None,
    ) -> None:
        self._provider = provider
        self._unready = unready
        self._clock = clock
        self._access_problem = access_problem
        self._own_token = own_token
        self._sessions = ProviderSessions(clock)
        self._renderer = renderer()

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [
            web.get("/static/{name}", self._renderer.assets.get),
            web.get("/", self._at("provider_overview.html", self._overview)),
            web.get("/leases", self._at("provider_leases.html", self._leases)),
            web.get("/machines", self._at("provider_machines.html", self._machines)),
            web.get("/users", self._at("provider_users.html", self._users)),
            web.get("/refused", self._at("provider_refused.html", self._refused)),
            web.get("/session", self._form),
            web.post("/session", self._sign_in),
            web.post("/session/end", self._sign_out),
            web.post("/orders/{name}", self._order),
        ]

    def _at(self, template: str, draw: Draw) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            provider = self._provider()
            try:
                caller = await self._reader(request)
            except Refusal as refusal:
                return self._say(request, "Not shown", LOCKED, refusal.status)
            broker = provider.working if provider is not None else None
            if broker is None or not broker.ready.is_set():
                why = "; ".join(self._unready().values()) or STARTING
                return self._say(request, "This process shows nothing now", why, 503)
            try:
                values = await draw(broker, request)
            except BackendError as error:
                return self._say(request, "This process shows nothing now", str(error), 503)
            return self._draw(request, template, values | _rights(caller))

        return handle

    async def _reader(self, request: web.Request) -> Caller | None:
        """Lets a reader in.

        Returns:
            Who it is; None for one on this machine who is not signed in.

        Raises:
            Refusal: the caller may not read the pages.
        """
        authorization = self._sessions.authorization(request)
        if is_local(request):
            if authorization is None:
                return None
            try:
                return await self._admit(authorization, "users.whoami", request)
            except Refusal:
                return None
        return await self._admit(authorization, "service.pages", request)

    async def _admit(self, authorization: str | None, method: str, request: web.Request) -> Caller:
        try:
            provider = self._started()
            return await provider.gatekeeper.admit(authorization, method, request.remote or "")
        except Refusal as refusal:
            if refusal.status == 401:  # the end of a token ends its session, and is noted once
                self._sessions.end(request)
            raise
        except BackendError as error:
            raise Refusal(503, str(error)) from error

    def _started(self) -> Provider:
        provider = self._provider()
        if provider is None:
            raise Refusal(503, STARTING)
        return provider

    async def _form(self, request: web.Request) -> web.Response:
        return self._draw_form(request, request.query.get("to", "/"), "", 200)

    def _draw_form(self, request: web.Request, to: str, wrong: str, status: int) -> web.Response:
        offers = self._own_token is not None and is_local(request)
        values = {"to": to, "wrong": wrong, "offers": offers}
        return self._draw(request, "provider_session.html", values, status)

    async def _sign_in(self, request: web.Request) -> web.Response:
        try:
            check_origin(request)
            given = await read_form(request)
        except RefusedError as refused:
            return self._draw_form(request, "/", f"Nothing was done: {refused}.", refused.status)
        to, token = given.get("to", "/"), given.get("token", "").strip()
        if not token and self._own_token is not None and is_local(request):
            token = self._own_token()
        try:
            cookie = await self._sessions.begin(self._started(), token, request)
        except Refusal as refusal:
            return self._draw_form(request, to, refusal.message, refusal.status)
        except BackendError as error:
            return self._draw_form(request, to, str(error), 503)
        response = redirect(to)
        set_cookie(response, request, COOKIE, cookie, SESSION_SECONDS)
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        try:
            check_origin(request)
        except RefusedError as refused:
            return self._draw_form(request, "/", f"Nothing was done: {refused}.", refused.status)
        self._sessions.end(request)
        response = redirect("/")
        drop_cookie(response, COOKIE)
        return response

    async def _order(self, request: web.Request) -> web.Response:
        """Carries out what a form asks for, as the API would for the owner of the token."""
        try:
            check_origin(request)
            authorization = self._sessions.authorization(request)
            if authorization is None:
                raise Refusal(401, SIGN_IN)  # noqa: TRY301 -- drawn like the others
            fields = await read_form(request)
            method, body, shown_at = call_of(request.match_info["name"], fields)
            remote = request.remote or ""
            await self._started().call(method, authorization, remote, body)
        except Refusal as refusal:
            return self._say(request, "Nothing was done", refusal.message, refusal.status)
        except RefusedError as refused:
            return self._say(request, "Nothing was done", f"{refused}.", refused.status)
        return redirect(fields.get("to", shown_at))

    def _say(self, request: web.Request, heading: str, why: str, status: int) -> web.Response:
        values = {"heading": heading, "why": why}
        return self._draw(request, "provider_message.html", values, status)

    def _draw(
        self, request: web.Request, template: str, values: dict[str, Any], status: int = 200
    ) -> web.Response:
        def link(**changes: Any) -> str:
            return f"{request.path}?{urlencode({**request.query, **changes})}"

        frame = {
            "version": __version__,
            "now": self._clock.now(),
            "path": request.path,
            "here": request.path_qs,
            "navigation": NAVIGATION,
            "link": link,
            "is_embedded": self._own_token is not None,
            **_rights(None),
        }
        response = self._renderer.page(request, template, frame | values, status)
        response.headers.update(HEADERS)
        return response

    async def _overview(self, broker: MachineProvider, _: web.Request) -> dict[str, Any]:
        records = broker.records
        pending = waiting_leases(broker)
        pending.sort(key=lambda lease: lease.waiting.place if lease.waiting is not None else 0)
        drawn, waits = charts_of(broker)
        return {
            "chart": drawn,
            "points": msgspec.json.encode(drawn.points).decode(),
            "waits": waits,
            "kinds": [(row, spark(broker, Trend(kind))) for kind, row in count_kinds(broker)],
            "machines": {str(state): len(found) for state, found in records.machines.items()},
            "free": sum(len(names) for names in records.free.values()),
            "silent": len(records.agents.silent),
            "queue": [(lease, dimension_text(lease.dimensions)) for lease in pending[:ROWS]],
            "waiting": len(pending),
            "access_problem": self._access_problem(),
            "request_id": f"page-{secrets.token_hex(8)}",
        }

    async def _leases(self, broker: MachineProvider, request: web.Request) -> dict[str, Any]:
        leases: list[LeaseDocument] = [
            lease for lease in await every_lease(broker) if lease.state != "pending"
        ]
        page = _page(request)
        first = (page - 1) * ROWS
        return {
            "leases": [
                (one, dimension_text(one.dimensions)) for one in leases[first : first + ROWS]
            ],
            "limits_of": broker.leases.limits_of,
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
            "machines": [(one, dimension_text(one.dimensions)) for one in documents],
            "paging": paging(page, len(found)),
        }

    async def _users(self, broker: MachineProvider, request: web.Request) -> dict[str, Any]:
        held, page = holdings_of(broker.records, broker.policy()), _page(request)
        provider = self._provider()
        refused: dict[str, list[RefusedCall]] = {}
        for call in provider.gatekeeper.refusals if provider is not None else ():
            if call.user:
                refused.setdefault(call.user, []).append(call)
        users: list[tuple[str, UserHoldings | None]] = [(one.user, one) for one in held.users]
        users += [(name, None) for name in refused if name not in dict(users)]
        first = (page - 1) * ROWS
        return {
            "groups": [
                (one, broker.leases.limits_of(one.name), spark(broker, Trend(group=one.name)))
                for one in held.groups[:ROWS]
            ],
            "more": max(len(held.groups) - ROWS, 0),
            "users": [(*user, refused.get(user[0], ())) for user in users[first : first + ROWS]],
            "paging": paging(page, len(users)),
        }

    async def _refused(self, _: MachineProvider, __: web.Request) -> dict[str, Any]:
        provider = self._provider()
        return {"calls": list(provider.gatekeeper.refusals) if provider is not None else []}


def embedded_pages(clock: Clock) -> Callable[..., list[web.RouteDef]]:
    """Makes the pages of an embedded cloud's Machine Provider: see `localcloud.assembly`."""

    def pages(
        provider: Callable[[], Provider | None],
        unready: Callable[[], Mapping[str, str]],
        own_token: OwnToken,
    ) -> list[web.RouteDef]:
        return ProviderSite(provider, unready, clock, own_token=own_token).routes()

    return pages


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine, by a loopback name."""
    return is_here(request) and is_loopback(_host_of(request))


def _rights(caller: Caller | None) -> dict[str, Any]:
    """What a page shows of who looks at it, and what that person may do."""
    roles = caller.roles if caller is not None else frozenset()

    def may_change(lease: LeaseDocument) -> bool:
        return caller is not None and (
            Role.ADMINISTRATOR in roles or (Role.USER in roles and lease.user == caller.user)
        )

    return {
        "caller": caller,
        "may_lease": Role.USER in roles,
        "may_administer": Role.ADMINISTRATOR in roles,
        "may_act": bool(roles & {Role.USER, Role.ADMINISTRATOR}),
        "may_change": may_change,
    }


def _page(request: web.Request) -> int:
    """The page of a table that is asked for; 1 for what is none."""
    text = request.query.get("page", "1")
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 7 else 1


def _host_of(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""
