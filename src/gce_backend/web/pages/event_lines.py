"""Events as lines of a page: runs of changes of metadata are one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from gce_backend.base.plurals import plural
from gce_backend.rules.narration import is_about_metadata

Event = Mapping[str, Any]
"""An event, as `/api/events` tells it."""


def folded(events: Iterable[Event]) -> list[Event]:
    """The lines for events, newest first.

    Each has the fields of its newest event. `names` are the subjects of a line that stands for
    several events; its reason says how many these are.

    Args:
        events: newest first.
    """
    lines: list[Event] = []
    for is_noise, run in groupby(events, _is_noise):
        found = list(run)
        if is_noise and len(found) > 1:
            lines.append(_together(found))
        else:
            lines += [{**event, "names": ()} for event in found]
    return lines


def _is_noise(event: Event) -> bool:
    return event["before"] == event["after"] and is_about_metadata(event["reason"])


def _together(events: list[Event]) -> Event:
    newest = events[0]
    names = tuple(dict.fromkeys(event["name"] for event in events))
    number = plural(len(events), "event")
    if len(names) == 1:
        return {**newest, "names": names, "reason": f"{newest['reason']} ({number})"}
    reason = f"The metadata of {plural(len(names), 'machine')} was changed ({number})."
    return {**newest, "names": names, "reason": reason}
