"""What `machines`, `groups` and `templates` show of the daemon's documents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from gce_backend.base.dates import UnixSeconds
from gce_backend.cli.output import age, show, table

REVISION = 8
"""Characters of a revision that are shown."""

_Row = dict[str, Any]


def show_rows(what: str, rows: list[_Row], *, wide: bool) -> None:
    """Prints a table, or that there is nothing.

    Args:
        what: machines, groups or templates.
        wide: with more columns.
    """
    if not rows:
        click.echo(f"no {what} match", err=True)
        return
    now = time.time()
    lines = [_COLUMNS[what](row, now, wide) for row in rows]
    shown = table(*lines[0], numbers=_NUMBERS)
    for line in lines:
        shown.add(*line.values())
    show(shown)


_NUMBERS = ("age", "min", "max", "target", "machines", "cataloged", "leased", "revisions")


def _machine(row: _Row, now: UnixSeconds, wide: bool) -> _Row:
    ends = row["lease_expiration"]
    ending = f"ends in {age(ends - now)}" if ends is not None else "without end"
    line = {
        "name": row["name"],
        "template": row["template"],
        "zone": row["zone"],
        "state": row["state"],
        "age": None if row["since"] is None else age(now - row["since"]),
        "lease": ending if row["leased"] else None,
    }
    more = {"id": row["id"], "catalog": row["catalog"], "why": row["reason"]}
    return {**line, **more} if wide else line


def _group(row: _Row, _: UnixSeconds, wide: bool) -> _Row:
    line = {
        "name": row["name"],
        "template": row["template"],
        "zone": row["zone"],
        "state": row["state"],
        "min": row["minimum"],
        "max": row["maximum"],
        "target": row["target"],
        **_counted(row["machines"]),
    }
    more = {"revision": row["revision"][:REVISION], "why": row["reason"]}
    return {**line, **more} if wide else line


def _template(row: _Row, _: UnixSeconds, wide: bool) -> _Row:
    line = {
        "name": row["name"],
        "state": row["state"],
        "revision": (row["revision"] or "")[:REVISION],
        "revisions": row["revisions"],
        **_counted(row["machines"]),
    }
    more = {
        "type": row["machine_type"],
        "project": row["project"],
        "zones": ", ".join(row["zones"]),
        "why": row["reason"],
    }
    return {**line, **more} if wide else line


def _counted(machines: dict[str, int]) -> _Row:
    return {
        "machines": sum(machines.values()),
        "cataloged": machines.get("cataloged", 0),
        "leased": machines.get("leased", 0),
    }


_COLUMNS: dict[str, Callable[[_Row, UnixSeconds, bool], _Row]] = {
    "machines": _machine,
    "groups": _group,
    "templates": _template,
}
