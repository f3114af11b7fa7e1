"""The JSON documents under `/api/`: their addresses, parameters and refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from gce_backend.base.errors import BackendError
from gce_backend.web.documents import (
    events_view,
    explain_view,
    fleet_view,
    groups_view,
    machines_view,
    messages_view,
    orders,
    status_view,
)
from gce_backend.web.documents.answers import RefusedError, answer
from gce_backend.web.packing import packed
from gce_backend.web.survey.names import similar
from gce_backend.web.survey.view import View

T = TypeVar("T", bound=msgspec.Struct)


class NameParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameter of `/api/explain`."""

    name: str


def routes(view: Callable[[], View | None], absence: Callable[[], str]) -> list[web.RouteDef]:
    """Returns the documents' routes.

    Args:
        view: what they show; None while the entities are not loaded.
        absence: returns why there is no view.
    """

    def at(path: str, document: Callable[[View, web.Request], Awaitable[Any]]) -> web.RouteDef:
        async def handle(request: web.Request) -> web.Response:
            try:
                if (seen := view()) is None:
                    raise RefusedError(503, absence())  # noqa: TRY301 -- answered like the others
                return await packed(request, answer(await document(seen, request), 200))
            except RefusedError as refused:
                return answer({"error": str(refused), **refused.more}, refused.status)

        return web.get(path, handle)

    return [at(path, document) for path, document in _DOCUMENTS.items()]


def parameters(request: web.Request, kind: type[T]) -> T:
    """The query parameters of a request; an empty one counts as absent.

    Raises:
        RefusedError: a parameter is unknown, missing or not of its type; the message names it.
    """
    given = {name: value for name, value in request.query.items() if value}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(sorted(kind.__struct_fields__))
        problem = str(error).replace(" - at `$.", " in the parameter `")
        raise RefusedError(400, f"{problem}. The parameters are: {known}.") from None


async def _fleet(view: View, request: web.Request) -> Any:
    return fleet_view.fleet(view.context, parameters(request, fleet_view.FleetQuery))


async def _control(view: View, _: web.Request) -> Any:
    return orders.state(view.context)


async def _jobs(view: View, _: web.Request) -> Any:
    return {"jobs": view.scheduler.status()}


async def _messages(view: View, _: web.Request) -> Any:
    return messages_view.messages(view.context, view.queue())


async def _status(view: View, _: web.Request) -> Any:
    return await status_view.status(view)


async def _machines(view: View, request: web.Request) -> Any:
    query = parameters(request, machines_view.MachinesQuery)
    return machines_view.machines(view.context, await view.census.survey(), query)


async def _groups(view: View, request: web.Request) -> Any:
    query = parameters(request, groups_view.GroupsQuery)
    return groups_view.groups(view.context, await view.census.survey(), query)


async def _templates(view: View, request: web.Request) -> Any:
    query = parameters(request, groups_view.GroupsQuery)
    return groups_view.templates(view.context, await view.census.survey(), query)


async def _events(view: View, request: web.Request) -> Any:
    query = parameters(request, events_view.EventsQuery)
    try:
        return await events_view.events(view.history, query)
    except BackendError as error:
        raise RefusedError(503, f"the history could not be read: {error}") from None


async def _explain(view: View, request: web.Request) -> Any:
    name = parameters(request, NameParameter).name
    found = await explain_view.explain(view, name)
    if not found:
        raise RefusedError(
            404,
            f"there is no machine, group or template called {name!r}",
            name=name,
            similar=similar(view.context, name),
        )
    return {"name": name, "found": found}


_DOCUMENTS: dict[str, Callable[[View, web.Request], Awaitable[Any]]] = {
    "/api/status": _status,
    "/api/fleet": _fleet,
    "/api/machines": _machines,
    "/api/groups": _groups,
    "/api/templates": _templates,
    "/api/explain": _explain,
    "/api/events": _events,
    "/api/jobs": _jobs,
    "/api/messages": _messages,
    "/api/control": _control,
}
