"""The text of `gce-backend status`."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.plurals import plural
from gce_backend.cli.output import age, cell, one_line, table, when

REVISION = 12
"""Characters of a revision that are shown."""
_SEVERITIES = {"critical": "bold red", "warning": "yellow", "notice": "cyan"}
_STAGES = {
    "cataloged": ("cataloged",),
    "leased": ("leased",),
    "coming": ("creating", "starting", "running"),
    "leaving": ("draining", "pending-deletion", "deleting"),
    "cordoned": ("cordoned",),
    "astray": ("missing", "stopped", "lost", "set-aside"),
}
"""The columns of numbers of machines, each with the states that it counts."""
_ALWAYS = ("template", "zone", "state", "min", "target", "cataloged", "leased")
_NUMBERS = ("min", "max", "target", *_STAGES)


def view_of(document: Any) -> list[RenderableType]:
    """The state of the fleet, problems first."""
    now = document["now"]
    return [
        *_head(document, now),
        Text(),
        *_problems(document["problems"], now),
        Text(),
        *_fleet(document["fleet"]),
    ]


def _head(document: Any, now: UnixSeconds) -> list[Text]:
    configuration, machines = document["configuration"], document["machines"]
    revision, imported = configuration["revision"], configuration["imported_at"]
    since = f", in force since {when(imported, now)}" if imported else ""
    counted = ", ".join(f"{count} {state}" for state, count in machines.items() if count)
    standby = document.get("standby")
    lines = {
        **({"stands by": _standing_by(standby)} if standby else {}),
        "project": f"{document['project']}, owner {document['owner']}",
        "configuration": f"{revision[:REVISION]}{since}" if revision else "none yet",
        "machines": f"{sum(machines.values())}{f': {counted}' if counted else ''}",
        **({"cost": cost} if (cost := document.get("cost")) else {}),
    }
    return [Text(f"{f'{name}:':<15}{one_line(text)}") for name, text in lines.items()]


def _standing_by(standby: Any) -> str:
    leader, old = standby["leader"] or "no daemon", standby["age"]
    return f"{leader} leads; this picture is {old:.0f} s old" if old is not None else leader


def _problems(problems: list[Any], now: UnixSeconds) -> list[RenderableType]:
    if not problems:
        return [Text("no problems", "green")]
    rows = table("severity", "about", "reason", "since", "message")
    for one in problems:
        count = f" ({one['count']} times)" if one["count"] > 1 else ""
        wait = (one.get("retry_at") or now) - now
        again = f" (tried again in {age(wait)})" if wait >= 1 else ""
        rows.add(
            cell(one["severity"], _SEVERITIES.get(one["severity"], "")),
            f"{one['kind']} {one['subject']}",
            one["reason"],
            age(now - one["since"]) if one["since"] else None,
            one["message"] + count + again,
        )
    return [Text(plural(len(problems), "problem"), "bold"), rows]


def _fleet(fleet: list[Any]) -> list[RenderableType]:
    if not fleet:
        return [Text("no groups")]
    lines = [_row(one) for one in fleet]
    # A column without any number is left out.
    heads = [head for head in lines[0] if head in _ALWAYS or any(line[head] for line in lines)]
    rows = table(*heads, numbers=_NUMBERS)
    for line in lines:
        well = line["state"] == "active"
        styles = {"state": "" if well else "yellow"}
        rows.add_row(*(cell(line[head], styles.get(head, "")) for head in heads))
    return [rows]


def _row(one: Any) -> dict[str, Any]:
    counts = {
        stage: sum(one["machines"].get(state, 0) for state in states)
        for stage, states in _STAGES.items()
    }
    return {
        "template": one["template"],
        "zone": one["zone"],
        "state": one["state"],
        "min": one["minimum"],
        "max": one["maximum"],
        "target": one["target"],
        **counts,
        "why": "" if one["state"] == "active" else one["reason"],
    }
