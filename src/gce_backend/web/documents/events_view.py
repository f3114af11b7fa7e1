"""`GET /api/events`: what happened, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gce_backend.fleet.history import ID_PATTERN, EventFilter, History
from gce_backend.model.events import Event

Kind = Literal["machine", "group", "template", "configuration", "control"]
Id = Annotated[str, Meta(pattern=ID_PATTERN)]


class EventsQuery(EventFilter, frozen=True, forbid_unknown_fields=True):
    """The parameters of `/api/events`."""

    kind: Kind | None = None
    after: Id | None = None
    before: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


async def events(history: History, query: EventsQuery) -> dict[str, Any]:
    """What happened, as JSON.

    Raises:
        RemoteError: the store could not be read.
    """
    found = await history.events(query)
    return {
        "events": [{"id": entry.id, **told(entry.event)} for entry in found.events],
        "next": found.next,
    }


def told(event: Event) -> dict[str, Any]:
    """An event with all its fields, as JSON."""
    return msgspec.structs.asdict(event)
