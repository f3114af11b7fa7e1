"""Packs events into pages of history, names the pages, and reads them. Pure except for the names.

A page holds the events of one commit and is written in that commit. Its name begins with its time,
so names sort by time, and newer pages have greater names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.configuration.naming import base_instance_name
from gce_backend.model.entities import Entity
from gce_backend.model.events import Event, EventKind, Happening
from gce_backend.model.keys import Key
from gce_backend.rules.narration import Get, named_states, tell

PAGE_EVENTS = 500
"""Most events in a page: with reasons and causes cut, a page always fits into an entity."""
MAX_REASON = 300
MAX_CAUSE = 200
"""Bytes of a reason or a cause that are stored."""
MAX_WHO = 100

_NAME = re.compile(r"(\d{16})-(\d{3})-[0-9a-f]{8}")


class Transition(NamedTuple):
    """A change of one entity, with its cause.

    Attributes:
        key: the entity's.
        before: the entity before; None when there was none.
        after: the new entity; None when it was removed.
        cause: as in `Event`.
        who: as in `Event`.
    """

    key: Key
    before: Entity | None
    after: Entity | None
    cause: str
    who: str = ""


class PageName(NamedTuple):
    """The facts in a page's name.

    Attributes:
        at: when it was written, microseconds since the Unix epoch.
        events: how many it holds.
    """

    at: int
    events: int

    @staticmethod
    def of(name: str) -> PageName | None:
        """The facts in a name; None when it is not a page's name."""
        match = _NAME.fullmatch(name)
        return PageName(int(match[1]), int(match[2])) if match else None

    @staticmethod
    def first(at: float) -> str:
        """The text that sorts before the names of all pages since that time, in Unix seconds."""
        return f"{max(0, int(at * 1e6)):016d}"

    @staticmethod
    def before(name: str) -> str:
        """The text that sorts before this page's name, and after all pages of earlier times."""
        return name.partition("-")[0]


def _happenings(steps: Iterable[Transition], was: Get, now: Get) -> Iterator[Happening]:
    """The changes as happenings, in order; equal changes of neighbors are one happening."""
    named = named_states(was, now)
    told = (
        ((told, step.key.parent, step.cause, step.who), step.key.name)
        for step in steps
        if (told := tell(step.key, step.before, step.after, named)) is not None
    )
    for (words, parent, cause, who), same in groupby(told, key=lambda item: item[0]):
        kind, before, after, reason = words
        yield Happening(
            kind=kind.value,
            parent=str(parent) if parent is not None else "",
            names=tuple(name for _, name in same),
            before=before,
            after=after,
            reason=_cut(reason, MAX_REASON),
            cause=_cut(cause, MAX_CAUSE),
            who=_cut(who, MAX_WHO),
        )


def _cut(text: str, most: int) -> str:
    """A text cut to this many bytes, without characters that JSON must escape."""
    plain = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return plain.encode()[:most].decode(errors="ignore")


def _packed(happenings: Iterable[Happening]) -> Iterator[tuple[Happening, ...]]:
    """Splits happenings into pages that are not too large."""
    page: list[Happening] = []
    room = PAGE_EVENTS
    for whole in happenings:
        names = whole.names
        while names:
            if not room:
                yield tuple(page)
                page, room = [], PAGE_EVENTS
            part, names = names[:room], names[room:]
            page.append(whole if part == whole.names else replace(whole, names=part))
            room -= len(part)
    if page:
        yield tuple(page)


def event_of(happening: Happening, name: str, at: UnixSeconds) -> Event:
    """The event of a happening for one of its subjects.

    Args:
        happening: what happened.
        name: one of its names.
    """
    subject = f"{happening.parent}/{name}" if happening.parent else name
    return Event(
        at=at,
        kind=happening.kind,
        name=_called(happening.kind, subject, name),
        subject=subject,
        before=happening.before,
        after=happening.after,
        reason=happening.reason,
        cause=happening.cause,
        who=happening.who,
    )


def _called(kind: str, subject: str, name: str) -> str:
    parts = subject.split("/")
    if kind == EventKind.MACHINE:
        return name
    if kind == EventKind.TEMPLATE:
        return parts[0]
    if kind == EventKind.GROUP and len(parts) == 3:
        return base_instance_name(*parts)  # the same in all generations
    return kind
