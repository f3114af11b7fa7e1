"""The pages' addresses, and which documents each of them shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web
from msgspec import Meta

from gce_backend import __version__
from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.model.events import EventKind
from gce_backend.rules.states import State
from gce_backend.settings.tokens import Role
from gce_backend.web.access import Gate
from gce_backend.web.documents import (
    events_view,
    explain_view,
    machines_view,
    messages_view,
    status_view,
)
from gce_backend.web.documents.answers import RefusedError, answer
from gce_backend.web.documents.machines_view import MachineFilter
from gce_backend.web.documents.routes import parameters
from gce_backend.web.health import Check
from gce_backend.web.pages import fleet_table
from gce_backend.web.pages.charts import Chart, chart
from gce_backend.web.pages.event_lines import folded
from gce_backend.web.pages.rendering import renderer
from gce_backend.web.survey import states
from gce_backend.web.survey.levels import levels_of, total
from gce_backend.web.survey.names import similar
from gce_backend.web.survey.problems import FleetProblem
from gce_backend.web.survey.view import View

NAVIGATION = (
    ("/", "Overview"),
    ("/machines", "Machines"),
    ("/jobs", "Jobs"),
    ("/messages", "Messages"),
    ("/events", "Events"),
    ("/configuration", "Configuration"),
)
SPANS = {"1d": 86_400.0, "7d": 7 * 86_400.0}
"""Seconds that the overview's chart may span; six hours else."""
PROBLEMS = 4
"""Problems that the overview shows unfolded."""
HINTS = {
    "drain": "It leaves the catalog, after its lease, and is replaced.",
    "undrain": "It stays, unless its deletion has begun.",
    "cordon": "It leaves the catalog, after its lease, and its VM is kept.",
    "uncordon": "It is offered again, or goes where it was on its way to.",
    "rollout-pause": "No old machine leaves for a new one; all else goes on.",
    "rollout-resume": "The roll-out goes on, to the revision that templates.cfg describes.",
    "rollout-undo": "The revision before this one is active again, until templates.cfg changes.",
}
"""What orders about a machine or a template do."""
ROWS = 100
"""Rows of a table on a page."""
SHOWN_CHARACTERS = 50_000
"""Most characters of a configuration file that a page shows."""

PageNumber = Annotated[int, Meta(ge=1, le=100_000)]
Draw = Callable[[View, web.Request], Awaitable[dict[str, Any]]]


class _Overview(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    page: PageNumber = 1
    q: str = ""
    sort: fleet_table.Sort = ""
    zones: fleet_table.Zones = ""
    turned: str = ""
    span: Literal["", "1d", "7d"] = ""


class _Machines(MachineFilter, frozen=True, forbid_unknown_fields=True):
    page: PageNumber = 1
    sort: machines_view.Sort = ""


class _Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    kind: events_view.Kind | None = None
    template: str = ""
    zone: str = ""
    cause: str = ""
    who: str = ""
    before: events_view.Id | None = None
    metadata: Literal["", "all"] = ""


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class Site:
    """The pages.

    Args:
        view: returns what they show; None until the entities are loaded.
        readiness: what is shown until then.
        gate: who may act.
    """

    def __init__(
        self,
        *,
        view: Callable[[], View | None],
        readiness: Callable[[], Sequence[Check]],
        gate: Gate,
        clock: Clock,
    ) -> None:
        self._view = view
        self._readiness = readiness
        self._gate = gate
        self._clock = clock
        self.renderer = renderer()

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [
            web.get("/static/{name}", self.renderer.assets.get),
            web.get("/", self._at("overview.html", _overview)),
            web.get("/machines", self._at("machines.html", _machines)),
            web.get("/machines/{name}", self._at("explanation.html", _machine)),
            web.get("/explain", self._at("explanation.html", _explanation)),
            web.get("/jobs", self._at("jobs.html", _jobs)),
            web.get("/events", self._at("events.html", _events)),
            web.get("/messages", self._at("messages.html", _messages)),
            web.get("/configuration", self._at("configuration.html", _configuration)),
        ]

    def nowhere(self) -> web.RouteDef:
        """The answer to unknown addresses; this route must be the last one."""

        async def handle(request: web.Request) -> web.Response:
            if request.path.startswith("/api/"):
                return answer({"error": f"there is no document {request.path}"}, 404)
            told = {"status": 404, "message": f"There is no page {request.path}.", "similar": ()}
            return self._draw(request, "refused.html", told, 404)

        return web.get("/{path:.*}", handle)

    def frame(self, request: web.Request) -> dict[str, Any]:
        """The values that the frame of every page shows."""
        view, caller = self._view(), self._gate.caller(request)
        standby = view.standby() if view is not None else None
        role = caller.role if caller is not None and standby is None else None

        def link(**changes: Any) -> str:
            query = {**request.query, **changes}
            given = {name: value for name, value in query.items() if value not in {"", None}}
            return f"{request.path}?{urlencode(given)}" if given else request.path

        return {
            "version": __version__,
            "project": view.context.project if view is not None else "",
            "provider_url": (view.context.settings.provider.url or "").rstrip("/") if view else "",
            "now": self._clock.now(),
            "path": request.path,
            "here": request.path_qs,
            "navigation": NAVIGATION,
            "link": link,
            "caller": caller,
            "standby": standby,
            "may_act": role is not None and role.includes(Role.OPERATE),
            "may_administer": role is not None and role.includes(Role.ADMINISTER),
            "has_token": self._gate.has_token,
        }

    def _at(self, template: str, draw: Draw) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            view = self._view()
            if view is None:
                checks = {"checks": self._readiness()}
                return self._draw(request, "starting.html", checks, 503)
            try:
                values = await draw(view, request)
            except RefusedError as refused:
                told = {"status": refused.status, "message": str(refused), "similar": ()}
                return self._draw(request, "refused.html", told | refused.more, refused.status)
            return self._draw(request, template, values)

        return handle

    def _draw(
        self, request: web.Request, template: str, values: dict[str, Any], status: int = 200
    ) -> web.Response:
        return self.renderer.page(request, template, self.frame(request) | values, status)


def busiest(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The quotas in use: those that hold callers back first, then by their share."""
    there = [one for one in calls if one["used"] or one["waiting"] or one["paused_seconds"]]

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        held = bool(one["paused_seconds"] or one["waiting"])
        place = one["project"], one["region"], one["group"]
        return not held, -one["used"] / one["limit"], place

    return sorted(there, key=order)


async def _overview(view: View, request: web.Request) -> dict[str, Any]:
    asked = parameters(request, _Overview)
    status = await status_view.status(view)
    turned, text = frozenset(filter(None, asked.turned.split(","))), asked.q.strip().lower()
    lines = fleet_table.lines(
        status["fleet"], sort=asked.sort, zones=asked.zones, turned=turned, text=text
    )
    unfolded = {line.template for line in lines if line.shown}
    first = (asked.page - 1) * ROWS
    await view.samples.fill_from(view.history)
    times, levels = view.samples.times, view.samples.all()
    if asked.span:
        times, levels = view.samples.long(view.context.clock.now() - SPANS[asked.span])
    present = total(levels_of((await view.census.survey()).counts).values())
    drawn = chart([*times, view.context.clock.now()], [*levels, present], width=600, height=110)
    calls = busiest(status["calls"])
    return {
        "asked": asked,
        "most": PROBLEMS,
        "status": status,
        "calls": calls,
        "projects": len({usage["project"] for usage in calls}),
        "problems": _together(status["problems"]),
        "fleet": status["fleet"],
        "templates": len({line.template for line in lines}),
        "groups": sum(
            line.zones for line in lines if line.template not in unfolded or not line.zone
        ),
        "lines": [(line, _spark(view, line)) for line in lines[first : first + ROWS]],
        "unfolded": unfolded,
        "turned": lambda template: ",".join(sorted(turned ^ {template})),
        "chart": drawn,
        "points": msgspec.json.encode(drawn.points).decode(),
        "jobs": view.scheduler.status(),
        "pauses": view.context.fleet.control.pauses_in_force,
        "paging": paging(asked.page, len(lines)),
    }


_Alike: TypeAlias = list[tuple[FleetProblem, str | None]]


def _together(problems: Iterable[FleetProblem]) -> list[tuple[FleetProblem, str | None, _Alike]]:
    """Problems with the addresses of their pages, and with those that say the same of others."""
    found: dict[tuple[str, ...], _Alike] = {}
    for problem in problems:
        said = (problem.severity, problem.kind, problem.reason, problem.message)
        found.setdefault(said, []).append((problem, _address(problem)))
    return [(*first, alike) for first, *alike in found.values()]


def _spark(view: View, line: fleet_table.FleetLine) -> Chart:
    """The machines of a line in the last hours."""
    levels = (
        view.samples.of((line.template, line.zone))
        if line.zone
        else view.samples.all(line.template)
    )
    return chart(view.samples.times, levels, width=120, height=24)


async def _machines(view: View, request: web.Request) -> dict[str, Any]:
    asked = parameters(request, _Machines)
    survey = await view.census.survey()
    matching = machines_view.matching(view.context, survey, asked)
    found = machines_view.ordered(view.context, matching, asked.sort)
    first = (asked.page - 1) * ROWS
    return {
        "asked": asked,
        "machines": machines_view.rows(view.context, found[first : first + ROWS]),
        "paging": paging(asked.page, len(found)),
        "states": list(State),
        "templates": [key.base_name for key in states.existing_templates(view.context)],
        "zones": _zones(view),
    }


async def _machine(view: View, request: web.Request) -> dict[str, Any]:
    return await _explained(view, request.match_info["name"])


async def _explanation(view: View, request: web.Request) -> dict[str, Any]:
    return await _explained(view, parameters(request, _Named).name.strip())


async def _explained(view: View, name: str) -> dict[str, Any]:
    found = await explain_view.explain(view, name)
    if not found:
        raise RefusedError(
            404,
            f"There is no machine, group or template called {name!r}.",
            similar=[(other, address(other)) for other in similar(view.context, name)],
        )
    told = [{**it, "events": folded(it["events"]), "orders": _orders(it)} for it in found]
    return {"name": name, "found": told, "hints": HINTS}


def _orders(it: dict[str, Any]) -> tuple[tuple[str, str, bool], ...]:
    """What an operator may order about it: the order, its label, whether it has a reason."""
    facts = it["facts"]
    if it["kind"] == EventKind.TEMPLATE:
        return _rollout_orders(facts)
    if it["kind"] != EventKind.MACHINE or not facts or "deletion_decided_at" in facts:
        return ()
    drained, cordoned = "drained_at" in facts, "cordoned_at" in facts
    return (
        ("undrain", "Undrain", False) if drained else ("drain", "Drain", True),
        ("uncordon", "Uncordon", False) if cordoned else ("cordon", "Cordon", True),
    )


def _rollout_orders(facts: dict[str, Any]) -> tuple[tuple[str, str, bool], ...]:
    """The same, of a template's roll-out; nothing for a template that is on its way out."""
    if "revision" not in facts:
        return ()
    paused, undone = "rollout_paused_at" in facts, "rollout_undone_at" in facts
    offered = (
        (not paused, ("rollout-pause", "Pause the roll-out", True)),
        (paused or undone, ("rollout-resume", "Resume the roll-out", False)),
        ("previous_revision" in facts and not undone, ("rollout-undo", "Undo the roll-out", True)),
    )
    return tuple(order for is_offered, order in offered if is_offered)


async def _jobs(view: View, _: web.Request) -> dict[str, Any]:
    return {"jobs": view.scheduler.status()}


def _zones(view: View) -> list[str]:
    """The zones of groups that exist."""
    return sorted({key.zone for key in states.existing_groups(view.context)})


async def _messages(view: View, _: web.Request) -> dict[str, Any]:
    return {"messages": messages_view.messages(view.context, view.queue())}


async def _events(view: View, request: web.Request) -> dict[str, Any]:
    asked = parameters(request, _Events)
    wanted = msgspec.structs.asdict(asked)
    metadata = wanted.pop("metadata")
    query = events_view.EventsQuery(**wanted, limit=ROWS)
    try:
        found = await events_view.events(view.history, query)
    except BackendError as error:
        raise RefusedError(503, f"The history could not be read: {error}") from None
    return {
        "asked": asked,
        "kinds": list(EventKind),
        "templates": [key.base_name for key in states.existing_templates(view.context)],
        "zones": _zones(view),
        "next": found["next"],
        "events": (
            [{**event, "names": ()} for event in found["events"]]
            if metadata
            else folded(found["events"])
        ),
    }


async def _configuration(view: View, _: web.Request) -> dict[str, Any]:
    fleet = view.context.fleet
    configuration = fleet.configuration
    texts = {
        "templates.cfg": configuration.template_config,
        "managers.cfg": configuration.manager_config,
        **configuration.files,
    }
    return {
        "configuration": configuration,
        "service": fleet.config_settings.service_hostname,
        "source": view.context.settings.config.source,
        "held_revision": fleet.configuration.held_revision,
        "conditions": view.context.conditions.of("configuration"),
        "texts": {name: shown(text) for name, text in texts.items() if text},
    }


def shown(text: str) -> str:
    """The part of a configuration file that a page shows."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}\n... and {len(text) - SHOWN_CHARACTERS} more characters"


def paging(page: int, total: int) -> dict[str, int]:
    """Which rows a page of a table shows."""
    first = (page - 1) * ROWS
    return {
        "page": page,
        "pages": -(-total // ROWS) or 1,
        "first": min(first + 1, total),
        "last": min(first + ROWS, total),
        "total": total,
    }


def address(name: str) -> str:
    """The address of the page about a machine, a group or a template."""
    return f"/explain?{urlencode({'name': name})}"


def _address(problem: FleetProblem) -> str | None:
    """The address of the page about a problem; None when there is none."""
    if problem.subject.endswith(" others"):
        return "/machines" if problem.kind == "machine" else None
    if problem.kind == "machine" and problem.count > 1:
        template, _, zone = problem.subject.partition("/")
        return f"/machines?{urlencode({'template': template, 'zone': zone})}"
    if problem.kind == "machine":
        return f"/machines/{quote(problem.subject, safe='')}"
    if problem.kind in {"group", "template"}:
        return address(problem.subject)
    pages = {"job": "/jobs", "messages": "/messages", "configuration": "/configuration"}
    return pages.get(problem.kind)
