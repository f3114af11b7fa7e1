"""docs/logs.md says what is logged: events, severities, fields and types; its queries find it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gce_backend.base import logs
from gce_backend.settings.settings import DeletionSettings, Settings
from support import metrics_story
from support.broker_messages import publish, wire
from support.fleet_harness import ZONE, manager, template, world
from support.logged_events import logged_events
from support.simulation import VirtualTimeLoop

DOC = (Path(__file__).parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")
ENVELOPE = {"severity", "message", "time", "logging.googleapis.com/labels"}
TYPES: dict[str, type] = {
    "string": str,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_OURS = re.compile(r"[a-z_]+\.[a-z_]+")


SELDOM = {
    "sign_in_with",
    "by",
    "lease",
    "to",
    "closed",
    "counts",
    "epoch",
    "groups",
    "jobs",
    "key",
    "machine_provider",
    "limit",
    "process",
    "settings",
    "stack_trace",
    "timeout",
    "tokens",
    "topic",
    "webhook",
    "what",
}
"""What takes a burst, a defect, a corrupt entity, an endless job, a crowd of peers, a lessee that
listens nowhere, a webhook that fails, an access.cfg or a file of tokens that changes, several
processes of a Machine Provider, a lease that is transferred, or `run --local`."""


def rows(*head: str) -> list[list[str]]:
    """The cells of the table that is headed so."""
    for table in re.findall(r"(?:^\|.*\n)+", DOC, re.MULTILINE):
        lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
        if tuple(lines[0]) == head:
            return lines[2:]
    raise AssertionError(f"there is no table {head}")


EVENTS = {
    row[0].strip("`"): row for row in rows("event", "severity", "fields", "meaning", "what to do")
}
FIELDS = {row[0].strip("`"): row[1].split(", ") for row in rows("field", "type", "meaning")}
QUERIES = re.findall(r"^\*\*(.+?)\*\*.*?^```text\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


def _kind(value: object) -> type:
    """A JSON value's type; all numbers are alike."""
    return float if type(value) is int else type(value)


def fields_of(event: str) -> set[str]:
    """The fields that the document gives an event."""
    return set() if EVENTS[event][2] == "-" else set(EVENTS[event][2].split(", "))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What a daemon writes while a fleet lives through its story, and through a rough day."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    logs.configure("json", "debug", stream)
    try:
        metrics_story.tell(tmp_path_factory.mktemp("story"))
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(_rough_day(tmp_path_factory.mktemp("rough")))
        yield [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


async def _rough_day(tmp_path: Path) -> None:
    """Orders, refusals, calls that fail, a configuration that is no use, and caps that hold."""
    cap = DeletionSettings(permitted_count=1, permitted_share=0.0)
    async with world(tmp_path, settings=Settings(deletion=cap)) as w:
        await w.until_states(cataloged=3)
        name = (await w.machines())[0]["name"]
        for path, order in (
            ("pause", {"zone": ZONE, "reason": "a look"}),
            ("resume", {"all": True}),
            ("drain", {"name": name}),
            ("undrain", {"name": name}),
            ("cordon", {"name": name}),
            ("uncordon", {"name": name}),
            ("lift-cap", {"seconds": 0}),
            ("ack-messages", {}),
        ):
            assert await w.act(f"/api/{path}", order) == 200, path
        assert await w.act("/api/approve", {"revision": "0123456"}) == 404
        assert await w.act("/api/pause", token="wrong") == 401
        await w.until_states(cataloged=3)
        await w.inject("pubsub.projects.subscriptions.acknowledge", status=503, times=1)
        await w.inject("pubsub.projects.subscriptions.pull", status=503, times=1)
        await publish(w, wire("GARBAGE", {}))
        await w.pass_time(120.0)
        w.write_config("templates {", "")
        await w.pass_time(61.0)
        (w.config_dir / "templates.cfg").unlink()
        await w.pass_time(61.0)
        forbidden = {"status": 403, "reason": "forbidden", "times": 1}
        await w.inject("compute.instanceTemplates.insert", **forbidden)
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.pass_time(120.0)
        await w.daemon.stop()
        await w.inject("datastore.projects.runQuery", status=503, times=8)
        await w.start_daemon()
        await w.pass_time(60.0)


def test_every_event_is_described_and_no_other() -> None:
    """Whoever searches the log finds its words; a new event needs a row."""
    assert list(EVENTS) == sorted(logged_events())


@pytest.mark.parametrize("event", EVENTS)
def test_severities_and_fields_are_those_of_the_code(event: str) -> None:
    """A field that is added or dropped needs its word in the row."""
    logged = logged_events()[event]
    assert fields_of(event) == logged.fields
    assert set(EVENTS[event][1].split(", ")) == logged.severities


def test_every_field_has_a_type() -> None:
    """Once, and none that no event has."""
    assert list(FIELDS) == sorted({name for event in EVENTS for name in fields_of(event)})
    assert {kind for kinds in FIELDS.values() for kind in kinds} <= TYPES.keys()


def test_every_event_says_what_it_means_and_what_to_do() -> None:
    """What is a warning or worse must not leave its reader alone."""
    for event, row in EVENTS.items():
        assert len(row) == 5, event
        assert row[3] != "-", event
        if "ERROR" in row[1]:
            assert row[4] != "-", event


def test_lines_have_the_fields_and_types_that_are_described(lines: list[dict[str, Any]]) -> None:
    """Over the life of a fleet, with its troubles."""
    seen: set[str] = set()
    for line in lines:
        event = line["message"]
        if "logger" in line or not _OURS.fullmatch(event):
            continue
        assert line["severity"] in EVENTS[event][1].split(", ")
        own = line.keys() - ENVELOPE
        seen |= own
        assert own <= fields_of(event) | {"job"}, event
        for name in own:
            kinds = {TYPES[kind] for kind in FIELDS[name]}
            assert _kind(line[name]) in kinds, f"{event}: {name} is {line[name]!r}"
    assert FIELDS.keys() - seen == SELDOM


def test_there_are_queries_for_ten_questions() -> None:
    """Each with a question, and none twice."""
    assert len({question for question, _ in QUERIES}) == len(QUERIES) >= 10
    assert all(question.endswith("?") for question, _ in QUERIES)


@pytest.mark.parametrize(("question", "query"), QUERIES, ids=[question for question, _ in QUERIES])
def test_a_query_asks_for_fields_that_are_written(question: str, query: str) -> None:
    """Each event exists, and each field of the payload and each label is one of these events'."""
    assert question
    events = [event for event in re.findall(r'"([^"]+)"', query) if _OURS.fullmatch(event)]
    for pattern in re.findall(r'jsonPayload\.message=~"([^"]+)"', query):
        events += [event for event in EVENTS if re.search(pattern, event)]
    assert set(events) <= EVENTS.keys()
    payload = set(re.findall(r"\bjsonPayload\.(\w+)", query)) - {"message"}
    labels = set(re.findall(r"\blabels\.(\w+)", query))
    assert labels <= set(logs.LABELS)
    asked = {name for event in events or EVENTS for name in fields_of(event)}
    assert payload | labels <= asked
    for severity in re.findall(r"severity[><=]+(\w+)", query):
        assert any(severity in row[1] for row in EVENTS.values())
    words = re.findall(r"^\(?([a-zA-Z.]+?)(?:\.\w+)?[=!<>:]", query, re.MULTILINE)
    assert set(words) <= {"jsonPayload", "labels", "severity", "timestamp"}
