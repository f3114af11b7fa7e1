"""Which notices webhooks get, and in which words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gce_backend.model.events import Event
from gce_backend.rules.notices import (
    Known,
    Notice,
    Sender,
    body,
    is_wanted,
    judge,
    of_event,
    of_problem,
)

SENDER = Sender("p1", "gce-backend")
NOW = 1_700_000_000.0
DRAIN = Event(
    at=NOW,
    kind="machine",
    name="vm-1",
    subject="linux/c0ffee/us-east1-b/vm-1",
    before="cataloged",
    after="draining",
    reason="Drained by alice: <slow> & old",
    cause="operator drain",
    who="alice",
)


def problem(reason: str = "NoMachines", severity: str = "critical") -> dict[str, Any]:
    """A problem, as /api/status has it."""
    return {
        "severity": severity,
        "kind": "group",
        "subject": "linux/us-east1-b",
        "reason": reason,
        "message": "It has no machine.",
    }


def began(severity: str = "critical") -> Notice:
    """The notice that a problem began."""
    return of_problem(SENDER, problem(severity=severity), NOW, ended=False)


@pytest.mark.parametrize(
    ("notice", "chosen", "severity", "wanted"),
    [
        (of_event(SENDER, "1", DRAIN), ("order",), "warning", True),
        (of_event(SENDER, "1", DRAIN), ("machine",), "warning", True),
        (of_event(SENDER, "1", DRAIN), ("problem", "control"), "notice", False),
        (
            of_event(SENDER, "1", msgspec.structs.replace(DRAIN, cause="job x")),
            ("order",),
            "notice",
            False,
        ),
        (began(), ("problem",), "critical", True),
        (began("warning"), ("problem",), "critical", False),
        (began("notice"), ("problem",), "notice", True),
        (began(), ("order", "machine"), "notice", False),
    ],
)
def test_a_webhook_gets_what_it_has_chosen(
    notice: Notice, chosen: tuple[str, ...], severity: str, *, wanted: bool
) -> None:
    """By kind, by order whatever it is about, and by severity."""
    assert is_wanted(notice, chosen, severity) is wanted


def test_json_has_all_and_a_line_for_people() -> None:
    """With the id by which a receiver knows a repetition."""
    sent = msgspec.json.decode(body("json", of_event(SENDER, "17-001", DRAIN), "") or b"")
    assert sent["event"]["who"] == "alice"
    assert (sent["id"], sent["type"], sent["project"]) == ("17-001", "machine", "p1")
    assert sent["text"] == (
        "machine vm-1 cataloged -> draining: Drained by alice: <slow> & old (by alice)"
    )
    assert "problem" not in sent


def test_slack_shows_a_line_and_no_markup_of_others() -> None:
    """`<` would begin a link, or call the whole channel."""
    sent = msgspec.json.decode(body("slack", of_event(SENDER, "1", DRAIN), "") or b"")
    assert sent == {
        "text": "*gce-backend in p1* machine vm-1 cataloged -&gt; draining: "
        "Drained by alice: &lt;slow&gt; &amp; old (by alice)"
    }


def test_pagerduty_triggers_and_resolves_the_same_incident() -> None:
    """Its events API, version 2; it has no words for events."""
    trigger = msgspec.json.decode(body("pagerduty", began(), "routing") or b"")
    ended = of_problem(SENDER, problem(), NOW + 60, ended=True)
    resolve = msgspec.json.decode(body("pagerduty", ended, "routing") or b"")
    key = "p1/gce-backend/group/linux/us-east1-b/NoMachines"
    assert resolve == {"routing_key": "routing", "dedup_key": key, "event_action": "resolve"}
    assert (trigger["dedup_key"], trigger["event_action"]) == (key, "trigger")
    payload = trigger["payload"]
    assert payload["severity"] == "critical"
    assert payload["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert payload["summary"] == "critical: NoMachines (group linux/us-east1-b): It has no machine."
    assert body("pagerduty", of_event(SENDER, "1", DRAIN), "routing") is None


def test_what_comes_and_goes_is_not_told() -> None:
    """A beginning and an end count when they are seen twice in a row, and are told once."""
    known: Known = {}
    told = []
    there, gone = [problem()], list[dict[str, Any]]()
    for present in (there, gone, there, there, there, gone, there, gone, gone, gone):
        known, starts, ends = judge(known, present)
        told.append((len(starts), len(ends)))
    assert told == [*[(0, 0)] * 3, (1, 0), *[(0, 0)] * 4, (0, 1), (0, 0)]
    assert known == {}


def test_long_texts_are_cut() -> None:
    """A reason of any length fits into a chat's line, and a key into PagerDuty's."""
    long = {**problem(), "message": "x" * 5000, "subject": "y" * 500}
    notice = of_problem(SENDER, long, NOW, ended=False)
    assert len(notice.text) == 1000
    assert notice.problem is not None
    assert len(notice.problem["key"]) == 255
