"""The text of `gce-backend explain` for one subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from gce_backend.base.dates import UnixSeconds
from gce_backend.cli.output import caused, cell, one_line, table, when

_WIDTH = 24
"""Characters before the values."""


def view_of(found: Mapping[str, Any], now: UnixSeconds) -> list[RenderableType]:
    """Facts first, then groups, conditions and history.

    Args:
        found: one subject of the daemon's document.
    """
    head = {
        "name": found["name"],
        "kind": found["kind"],
        "state": found["state"],
        "since": when(found["since"], now) if found["since"] else None,
        "why": found["reason"],
        "waits for": found["waits_for"],
        "key": found["subject"],
    }
    parts: list[RenderableType] = [_line(name, value) for name, value in head.items() if value]
    parts += [_line(*_fact(name, value, now)) for name, value in found["facts"].items()]
    if counts := found.get("machines"):
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        parts.append(_line("machines", told))
    if groups := found.get("groups"):
        parts += [_title("groups"), _groups(groups)]
    if conditions := found["conditions"]:
        parts += [_title("conditions"), _conditions(conditions, now)]
    parts.append(_title("events"))
    if found["history_problem"]:
        parts.append(_indented(Text(one_line(found["history_problem"]), "red")))
    elif found["events"]:
        parts.append(_events(found["events"], now))
    else:
        parts.append(_indented(Text("none stored")))
    return parts


def _line(name: str, value: Any) -> Text:
    label = f"{name.replace('_', ' ')}:"
    return Text.assemble((f"{label:<{_WIDTH}}", "bold"), one_line(str(value)))


def _title(name: str) -> Text:
    return Text(f"{name}:", "bold")


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2), expand=False)


def _fact(name: str, value: Any, now: UnixSeconds) -> tuple[str, Any]:
    """A fact's name and value; a name that ends in `_at` has a time."""
    if name.endswith("_at") and isinstance(value, int | float):
        return name.removesuffix("_at"), when(value, now)
    return name, value


def _groups(groups: list[Any]) -> Padding:
    rows = table("group", "zone", "revision", "state", "machines", "why")
    for one in groups:
        counts = ", ".join(f"{count} {state}" for state, count in one["machines"].items())
        revision = (one["revision"] or "")[:8]
        rows.add(one["name"], one["zone"], revision, one["state"], counts, one["reason"])
    return _indented(rows)


def _conditions(conditions: list[Any], now: UnixSeconds) -> Padding:
    rows = table("reason", "since", "failures", "job", "message")
    for one in conditions:
        rows.add(
            cell(one["reason"], "yellow"),
            when(one["since"], now),
            one["failures"],
            one["job"],
            one["message"],
        )
    return _indented(rows)


def _events(events: list[Any], now: UnixSeconds) -> Padding:
    """A table of events, newest first."""
    rows = table("when", "from", "to", "cause", "reason")
    for one in events:
        rows.add(when(one["at"], now), one["before"], one["after"], caused(one), one["reason"])
    return _indented(rows)
