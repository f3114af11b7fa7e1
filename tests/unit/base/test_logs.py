"""The log: Cloud Logging's JSON, the console, and no credential in either."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import pytest
import structlog
from multidict import istr
from structlog.contextvars import bound_contextvars

from gce_backend.base import logs
from gce_backend.base.logs import MOST_OF_A_KIND, end_run

CANARY = "canary-0123456789._~+/=AbC"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(
    log_format: Literal["auto", "json", "console"] = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: io.StringIO | None = None,
) -> io.StringIO:
    """A stream that the log now goes to."""
    stream = stream or io.StringIO()
    logs.configure(log_format, level, stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON objects written so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_cloud_loggings_names() -> None:
    """Severity, message, time, labels; the event's own fields beside them."""
    stream = configured()
    structlog.get_logger().warning("zone.exhausted", job="resize", zone="z", template=None, n=3)
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "severity": "WARNING",
        "message": "zone.exhausted",
        "job": "resize",
        "zone": "z",
        "template": None,
        "n": 3,
        "logging.googleapis.com/labels": {"job": "resize", "zone": "z"},
    }


def test_fields_named_like_ours_are_kept_under_another_name() -> None:
    """A field called `message` does not hide the event's name, nor is it lost."""
    stream = configured()
    structlog.get_logger().info("call.failed", message="no answer", severity=1)
    (line,) = lines(stream)
    assert (line["message"], line["message_"]) == ("call.failed", "no answer")
    assert (line["severity"], line["severity_"]) == ("INFO", 1)


def test_bound_context_is_part_of_every_event() -> None:
    """What the scheduler binds for a run is in its events, the standard library's too."""
    stream = configured()
    with structlog.contextvars.bound_contextvars(job="a"):
        structlog.get_logger().info("one")
        logging.getLogger("aiohttp.client").warning("two %d", 2)
    first, second = lines(stream)
    assert first["job"] == second["job"] == "a"
    assert second["logging.googleapis.com/labels"] == {"job": "a"}
    assert (second["message"], second["logger"]) == ("two 2", "aiohttp.client")


def test_events_below_the_level_are_not_written() -> None:
    """The level holds for structlog and for `logging`."""
    stream = configured(level="warning")
    structlog.get_logger().info("no")
    logging.getLogger("other").info("no")
    structlog.get_logger().error("yes")
    logging.getLogger("other").error("yes")
    assert [line["message"] for line in lines(stream)] == ["yes", "yes"]


def test_configuring_again_moves_the_log() -> None:
    """Nothing is written twice, and nothing to the old stream."""
    old = configured()
    logger = structlog.get_logger()
    logger.info("one")
    new = configured()
    logger.info("two")
    logging.getLogger("other").warning("three")
    assert [line["message"] for line in lines(old)] == ["one"]
    assert [line["message"] for line in lines(new)] == ["two", "three"]


def test_an_exception_becomes_a_field() -> None:
    """The traceback is one field of one line, also from the standard library's loggers."""
    stream = configured()
    try:
        int("inner")
    except ValueError as error:
        structlog.get_logger().error("job.failed", exc_info=error)
        logging.getLogger("asyncio").exception("never retrieved")
    for line in lines(stream):
        assert line["severity"] == "ERROR"
        assert line["stack_trace"].startswith("Traceback")
        assert line["stack_trace"].endswith("base 10: 'inner'")


def test_values_json_does_not_know_are_written_as_text() -> None:
    """A log line never fails because of what it says."""
    stream = configured()
    structlog.get_logger().info(
        "odd", value=ValueError("why"), kind=asyncio.Lock, pairs={(1, 2): {3}}, file="\udcff"
    )
    structlog.get_logger().info("fine", ratio=float("nan"), raw=b"x", name=istr("Date"), ok=True)
    odd, fine = lines(stream)
    assert (odd["value"], odd["pairs"], odd["file"]) == ("why", {"(1, 2)": [3]}, "\udcff")
    assert (fine["ratio"], fine["raw"], fine["name"]) == (None, "b'x'", "Date")
    assert fine["ok"] is True


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_run_writes_few_lines_of_a_kind_and_their_number(level: Literal["info", "debug"]) -> None:
    """By event and template. What is wrong is always written, but for a line for each machine."""
    stream = configured(level=level)
    log = structlog.get_logger()
    for run in range(2):
        with bound_contextvars(job="catalog-instances"):
            for number in range(1000):
                log.info("instance.cataloged", template=f"t{number % 2}")
            for _ in range(MOST_OF_A_KIND + 1):
                log.warning("subject.failed", template="t0")
            for number in range(run * 100):
                log.error("metadata.denied", template="t0", instance=f"m{number}")
            log.info("instance.removed", template="t0")
        assert end_run("another") == ({}, False)
        counts = {"instance.cataloged": {"t0": 500, "t1": 500}}
        if run:
            counts["metadata.denied"] = {"t0": 100}
        assert end_run("catalog-instances") == (counts, bool(run))
        found = Counter((line["message"], line["severity"]) for line in lines(stream))
        assert found["instance.cataloged", "INFO"] == 2 * MOST_OF_A_KIND * (run + 1)
        assert found["subject.failed", "WARNING"] == (MOST_OF_A_KIND + 1) * (run + 1)
        assert found["instance.removed", "INFO"] == run + 1
        assert found["metadata.denied", "ERROR"] == MOST_OF_A_KIND * run
        details = (1000 - 2 * MOST_OF_A_KIND) * (run + 1) if level == "debug" else 0
        assert found["instance.cataloged", "DEBUG"] == details
    for _ in range(2 * MOST_OF_A_KIND):
        log.info("daemon.started")
    assert lines(stream)[-2 * MOST_OF_A_KIND]["message"] == "daemon.started"


def test_auto_means_console_on_a_terminal() -> None:
    """People get colours and no JSON; a file gets JSON; a choice wins over both."""
    terminal = configured(stream=Terminal())
    structlog.get_logger().info("instance.cataloged", zone="z")
    assert "instance.cataloged" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    plain = configured("console")
    structlog.get_logger().info("instance.cataloged", zone="z")
    assert "zone=z" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()
    forced = configured("json", stream=Terminal())
    structlog.get_logger().info("instance.cataloged")
    assert len(lines(forced)) == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "value",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: {CANARY}",
        {"headers": {"Authorization": f"Bearer {CANARY}"}},
        {"Authorization": CANARY},
        [(b"Authorization", f"Bearer {CANARY}".encode())],
        f"<CIMultiDict('Authorization': 'bearer {CANARY}')>",
        f"Proxy-Authorization: Basic {CANARY}",
        f"ya29.{CANARY}",
        f'{{"access_token": "{CANARY}"}}',
        f"eyJhbGciOiJSUzI1.eyJzdWIiOiIx.{CANARY.replace('.', '')[:16]}",
        ValueError(f"401 for Bearer {CANARY}"),
    ],
)
def test_no_credential_is_written(value: object, log_format: Literal["json", "console"]) -> None:
    """Not in a field, a message or a traceback, of our loggers or of others."""
    stream = configured(log_format)
    structlog.get_logger().info("call.sent", value=value)
    logging.getLogger("aiohttp").warning("sent %s", value)
    error = RuntimeError(str(value))
    error.__cause__ = ValueError(value)
    structlog.get_logger().error("call.failed", exc_info=error)
    text = stream.getvalue()
    assert "canary" not in text
    assert base64.b64encode(b"Bearer canary").decode()[:-4] not in text
    assert text.count(logs.REDACTED) >= 4
    if log_format == "json":
        assert len(lines(stream)) == 3


def test_redacting_leaves_other_text_alone() -> None:
    """Names that merely sound like credentials stay."""
    text = "instance bearer-1 authorized; tokens=3; https://example.com/token?x=1"
    assert logs.redact(text) == text
