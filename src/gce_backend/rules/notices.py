"""What webhooks send: which events and problems, and in which words and format. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds, date
from gce_backend.model.events import Event

PROBLEM = "problem"
ORDER = "order"
LOOKS = 2
"""Looks in a row at which a problem has to be there, or gone, before that is sent."""
SLOW_LOOKS = 144
"""Further looks after a restart: 12 minutes, in which each job has tried again whatever failed."""
MAX_TEXT = 1000
"""Characters of a notice's text."""
MAX_KEY = 255
"""Characters of a problem's key, which PagerDuty bounds."""
SEVERITIES = ("notice", "warning", "critical")
"""Severities of problems, the least first."""
_PAGERDUTY = {"notice": "info", "warning": "warning", "critical": "critical"}


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a webhook tells: an event, or that a problem began or ended.

    Attributes:
        id: its own; the same when it is sent again.
        at: when it happened, Unix seconds.
        type: `problem`, or the kind of the event.
        text: what happened, in a line for people.
        project: the daemon's project.
        owner: the label of the daemon's resources.
        event: the event, as `/api/events` has it; None for a problem.
        problem: the problem, as `/api/status` has it, with `key`, which is the same at its
            beginning and its end, and `state`, which is `began` or `ended`; None for an event.
    """

    id: str
    at: UnixSeconds
    type: str
    text: str
    project: str
    owner: str
    event: Event | None = None
    problem: Mapping[str, Any] | None = None


class Sender(NamedTuple):
    """Whose notices they are: the daemon's project, and the label of its resources."""

    project: str
    owner: str


def of_event(sender: Sender, event_id: str, event: Event) -> Notice:
    """The notice of an event."""
    change = " -> ".join(filter(None, (event.before, event.after)))
    moved = f" {change}" if event.before != event.after and change else ""
    by = f" (by {event.who})" if event.who else ""
    text = f"{event.kind} {event.name}{moved}: {event.reason}{by}"
    return Notice(
        id=event_id,
        at=event.at,
        type=event.kind,
        text=text[:MAX_TEXT],
        project=sender.project,
        owner=sender.owner,
        event=event,
    )


def of_problem(
    sender: Sender, problem: Mapping[str, Any], now: UnixSeconds, *, ended: bool
) -> Notice:
    """The notice that a problem began or ended.

    Args:
        problem: as `/api/status` has it.
    """
    subject = "" if problem["kind"] == problem["subject"] else f" {problem['subject']}"
    about = f"{problem['reason']} ({problem['kind']}{subject})"
    said = f"ended: {about}" if ended else f"{problem['severity']}: {about}: {problem['message']}"
    key = "/".join((sender.project, sender.owner, *_key(problem)))[:MAX_KEY]
    return Notice(
        id=f"{int(now * 1e6):016d}/{key}",
        at=now,
        type=PROBLEM,
        text=said[:MAX_TEXT],
        project=sender.project,
        owner=sender.owner,
        problem={**problem, "key": key, "state": "ended" if ended else "began"},
    )


def _key(problem: Mapping[str, Any]) -> tuple[str, str, str]:
    """What makes it the same problem in two looks."""
    return problem["kind"], problem["subject"], problem["reason"]


def name_of(problem: Mapping[str, Any]) -> str:
    """A name by which a problem is the same in two looks."""
    return "/".join(_key(problem))


def is_wanted(notice: Notice, chosen: Collection[str], severity: str) -> bool:
    """Whether a webhook is to send this.

    Args:
        chosen: its `events`: `problem`, `order`, and kinds of events.
        severity: the least severity of problems that it sends.
    """
    if notice.problem is not None:
        rank = SEVERITIES.index
        return PROBLEM in chosen and rank(notice.problem["severity"]) >= rank(severity)
    ordered = notice.event is not None and notice.event.cause.startswith("operator")
    return notice.type in chosen or (ordered and ORDER in chosen)


class Memory(msgspec.Struct, frozen=True):
    """What is known of a problem.

    Attributes:
        problem: as it was last seen.
        told: whether its beginning was sent, and its end was not.
        looks: in how many looks it has been otherwise.
    """

    problem: Mapping[str, Any]
    told: bool = False
    looks: int = 0


Known = Mapping[tuple[str, str, str], Memory]


def resumed(told: Iterable[Mapping[str, Any]]) -> Known:
    """What is known after a restart, from the problems whose beginning was sent before.

    A daemon that has just started has not tried everything yet. What it does not find for a while
    is taken for ended then, not at once.
    """
    return {_key(problem): Memory(problem, told=True, looks=-SLOW_LOOKS) for problem in told}


class Judged(NamedTuple):
    """What a look at the problems says.

    Attributes:
        known: what is known now.
        began: problems whose beginning is to be sent.
        ended: problems whose end is to be sent.
    """

    known: Known
    began: tuple[Mapping[str, Any], ...]
    ended: tuple[Mapping[str, Any], ...]


def judge(known: Known, present: Iterable[Mapping[str, Any]]) -> Judged:
    """Compares the problems with those of earlier looks; what comes and goes is not sent."""
    seen = {_key(problem): problem for problem in present}
    news: dict[tuple[str, str, str], Memory] = {}
    began: list[Mapping[str, Any]] = []
    ended: list[Mapping[str, Any]] = []
    for key in dict.fromkeys((*known, *seen)):
        before = known.get(key) or Memory(seen[key])
        problem, told = seen.get(key, before.problem), before.told
        looks = before.looks + 1 if (key in seen) is not told else 0
        if looks >= LOOKS:
            told, looks = not told, 0
            (began if told else ended).append(problem)
        if told or looks:
            news[key] = Memory(problem, told, looks)
    return Judged(news, tuple(began), tuple(ended))


# Formats


def body(style: str, notice: Notice, routing_key: str) -> bytes | None:
    """The body of a notice's request; None when the format has no words for it.

    Args:
        style: `json`, `slack` or `pagerduty`.
        routing_key: PagerDuty's key of the service that is called.
    """
    if style == "slack":
        return msgspec.json.encode({"text": _slack(notice)})
    if style == "pagerduty":
        return _pagerduty(notice, routing_key)
    return msgspec.json.encode(notice)


def _slack(notice: Notice) -> str:
    plain = notice.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"*{notice.owner} in {notice.project}* {plain}"


def _pagerduty(notice: Notice, routing_key: str) -> bytes | None:
    problem = notice.problem
    if problem is None:
        return None
    call: dict[str, Any] = {"routing_key": routing_key, "dedup_key": problem["key"]}
    if problem["state"] == "ended":
        return msgspec.json.encode({**call, "event_action": "resolve"})
    payload = {
        "summary": notice.text,
        "source": f"{notice.owner} in {notice.project}",
        "severity": _PAGERDUTY[problem["severity"]],
        "timestamp": date(notice.at).isoformat(),
        "component": problem["subject"],
        "class": problem["reason"],
        "custom_details": problem,
    }
    return msgspec.json.encode({**call, "event_action": "trigger", "payload": payload})
