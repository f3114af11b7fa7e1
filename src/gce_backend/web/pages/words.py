"""Formats values for pages: times, durations, numbers, names of facts. Pure."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from gce_backend.base.dates import UnixSeconds, date
from gce_backend.rules.states import State

_REVISION = re.compile(r"[0-9a-f]{40}").fullmatch
TONES = {
    State.CREATING: "rising",
    State.STARTING: "rising",
    State.RUNNING: "rising",
    State.CATALOGED: "available",
    State.LEASED: "leased",
    State.DRAINING: "going",
    State.CORDONED: "going",
    State.PENDING_DELETION: "going",
    State.DELETING: "going",
    State.MISSING: "bad",
    State.STOPPED: "bad",
    State.LOST: "bad",
    State.SET_ASIDE: "bad",
    State.DELETED: "gone",
}
"""The colour of a state; its word always stands beside it."""
_OTHER_TONES = {
    "active": "available",
    "creating": "rising",
    "growing": "rising",
    "changing": "rising",
    "unknown": "gone",
    "paused": "leased",
    "failing": "bad",
    "ok": "available",
    "degraded": "going",
    "surplus": "going",
    "error": "bad",
    "timeout": "bad",
    "cancelled": "gone",
    "critical": "bad",
    "warning": "going",
    "notice": "leased",
}


def tone(state: str) -> str:
    """The colour of a machine's state, a group's state, an outcome or a severity."""
    return TONES.get(state) or _OTHER_TONES.get(state, "gone")  # type: ignore[call-overload]


def duration(seconds: float) -> str:
    """A duration, rounded for people: `<1 ms`, `240 ms`, `42 s`, `18 min`, `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "<1 ms"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{rest} s"


def instant(moment: float) -> str:
    """A time in UTC, for people."""
    return date(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_time(moment: float) -> str:
    """A time in the form of `<time datetime>`."""
    return date(moment).isoformat(timespec="seconds")


def when(moment: float | None, now: UnixSeconds) -> Markup:
    """A time relative to now, with the exact time as a tooltip; a dash for None."""
    if moment is None:
        return Markup('<span class="none">–</span>')
    away = now - moment
    if abs(away) < 1:
        text = "now"
    elif away > 0:
        text = f"{duration(round(away))} ago"
    else:
        text = f"in {duration(round(-away))}"
    return _time(moment, text)


def since(moment: float, now: UnixSeconds) -> Markup:
    """How long something has lasted, with the time of its start as a tooltip."""
    lasted = round(now - moment)
    told = duration(lasted) if lasted > 0 else "a moment"
    return Markup("for {}").format(_time(moment, told))


def lasting(moment: float | None, now: UnixSeconds) -> Markup:
    """How long something has lasted, as `since` without its word; a dash for None."""
    if moment is None:
        return when(None, now)
    return _time(moment, duration(max(1.0, round(now - moment))))


def _time(moment: float, text: str) -> Markup:
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        machine_time(moment), instant(moment), text
    )


def prose(text: str) -> Markup:
    """A message for people, with the text between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # an unpaired backtick
        return escape(text)
    parts[1::2] = [Markup("<code>{}</code>").format(part) for part in parts[1::2]]
    return Markup("").join(parts)


def short(text: str) -> str:
    """A revision's first characters, which is what people compare; any other text as it is."""
    return text[:12] if _REVISION(text) else text


def number(value: float) -> str:
    """A number with narrow spaces between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def counted(value: int, noun: str) -> str:
    """A number with its noun: `1 machine`, `2 machines`."""
    return f"{number(value)} {noun if value == 1 else noun + 's'}"


def label(name: str) -> str:
    """A fact's name in words: `lease_ends_at` is `Lease ends`."""
    words = name.removesuffix("_at").replace("_", " ")
    known = {
        "id": "Numeric id",
        "url": "Resource",
        "vm status": "VM status",
        "disk gb": "Disk (GB)",
    }
    return known.get(words) or words[:1].upper() + words[1:]
