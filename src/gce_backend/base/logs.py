"""The log: structlog and the standard library's logging, rendered alike, without credentials.

On a terminal it is readable and coloured; elsewhere it is one JSON object a line with Cloud
Logging's names. Events have constant, dotted names (`instance.cataloged`) and fields; an exception
becomes the field `stack_trace`. What was bound by `structlog.contextvars` is part of each event.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LABELS = ("job", "template", "zone", "instance")
"""The fields that Cloud Logging indexes as labels too."""

REDACTED = "[redacted]"

_HANDLER_NAME = "gce-backend"

# The character classes hold neither quotes nor backslashes, so what they match can be cut out of
# JSON, of a dict's repr and of a header line alike.
_CREDENTIAL = re.compile(
    r"""
    (?P<before>
      \b(?:proxy-)?authorization\b (?:\\?["'])? \s*[:=,]\s* (?:b?\\?["'])?
        (?:(?:bearer|basic|digest)\s+)?
    | \b(?:access|refresh|id)_token\b (?:\\?["'])? \s*[:=,]\s* (?:b?\\?["'])?
    | \bbearer\s+
    )
    [\w.~+/=-]+
    | \bya29\.[\w.~+/=-]+
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*
    """,
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)


class Burst(NamedTuple):
    """Lines of a run that were too many to be written.

    Attributes:
        counts: how many there were, by event and template.
        severe: whether there were warnings or errors among them.
    """

    counts: dict[str, dict[str, int]]
    severe: bool


class _Bursts:
    """Writes the first few lines of a kind that a job's run logs; the others only for `debug`.

    A kind is an event of a template. Warnings and errors are always written, unless each is about a
    machine.
    """

    def __init__(self) -> None:
        self.details = False
        self._logged: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._severe: set[str] = set()

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A processor of structlog.

        Raises:
            DropEvent: the run has logged enough of this kind.
        """
        job, name = event.get("job"), event["event"]
        severe = method in {"warning", "error"}
        if job is None or name.startswith("job.") or (severe and _EACH.isdisjoint(event)):
            return event
        if not severe and method != "info":
            return event
        kind = (name, str(event.get("template", "")))
        self._logged[job][kind] += 1
        if self._logged[job][kind] <= MOST_OF_A_KIND:
            return event
        if severe:
            self._severe.add(job)
        if not self.details:
            raise structlog.DropEvent
        return {**event, "level": "debug"}

    def end_run(self, job: str) -> Burst:
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (name, template), count in self._logged.pop(job, Counter()).items():
            if count > MOST_OF_A_KIND:
                counts[name][template] = count
        severe = job in self._severe
        self._severe.discard(job)
        return Burst(dict(counts), severe)


_EACH = frozenset({"instance", "resource"})
"""Fields of warnings and errors of which there may be one for each machine."""
MOST_OF_A_KIND = 10
"""Lines of one event and template that one run of a job writes."""
_bursts = _Bursts()


def end_run(job: str) -> Burst:
    """How many lines a job's run has logged, where it was many.

    Args:
        job: whose run has ended; the next one begins to count anew.
    """
    return _bursts.end_run(job)


def redact(text: str) -> str:
    """The text with everything that looks like a credential replaced by "[redacted]".

    That is: bearer tokens, values of Authorization headers and of `access_token` and its like,
    Google's access tokens (`ya29.`) and signed JSON web tokens.
    """
    return _CREDENTIAL.sub(_cut, text)


def _cut(match: re.Match[str]) -> str:
    return (match["before"] or "") + REDACTED


def configure(
    log_format: Literal["auto", "json", "console"],
    level: Literal["debug", "info", "warning", "error"],
    stream: TextIO,
) -> None:
    """Sends all events of structlog and `logging` to a stream. May be called again.

    Args:
        log_format: "auto" is console when the stream is a terminal, JSON otherwise.
        level: the least severe level that is written; calls below it cost next to nothing.
        stream: where lines go.
    """
    terminal = stream.isatty()
    console = log_format == "console" or (log_format == "auto" and terminal)
    shared = _shared_processors(console=console)
    renderer = _console(colors=terminal) if console else [_to_json]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    _bursts.details = threshold <= logging.DEBUG
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _bursts,
            *shared,
            *renderer,
            _redacted,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,  # so that modules' loggers follow a second call
    )
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderer,
                _redacted,
            ],
        )
    )
    root = logging.getLogger()
    for other in [known for known in root.handlers if known.get_name() == _HANDLER_NAME]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(threshold)


def _shared_processors(*, console: bool) -> list[Processor]:
    stamp = (
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="timestamp")
        if console
        else structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp")
    )
    return [
        structlog.contextvars.merge_contextvars,
        _add_level,
        stamp,
        structlog.processors.StackInfoRenderer(),
    ]


def _add_level(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if "level" in event:
        return event
    return structlog.processors.add_log_level(logger, method, event)


def _console(*, colors: bool) -> list[Processor]:
    # structlog's own default would print local variables with each traceback
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors,
            pad_event_to=28,
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


_SEVERITIES = {"exception": "ERROR", "warn": "WARNING", "notset": "DEFAULT"}
_OURS = frozenset({"severity", "message", "time", "stack_trace", "logging.googleapis.com/labels"})
_format_exception = structlog.processors.ExceptionRenderer()
_ATOMS = frozenset({str, int, float, bool})  # exactly: msgspec refuses their subclasses
_encoder = msgspec.json.Encoder()


def _to_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One line of JSON with Cloud Logging's names first."""
    event = _format_exception(logger, method, event)
    level = event.pop("level", method)
    line: dict[str, object] = {
        "severity": _SEVERITIES.get(level) or level.upper(),
        "message": event.pop("event", ""),
        "time": event.pop("timestamp", None),
    }
    trace = event.pop("exception", None)
    for name, value in event.items():
        line[f"{name}_" if name in _OURS else name] = _plain(value)
    if trace is not None:
        line["stack_trace"] = trace
    labels = _labels(event)
    if labels:
        line["logging.googleapis.com/labels"] = labels
    try:
        return _encoder.encode(line).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in file names that are not UTF-8
        return json.dumps(line)


def _plain(value: object) -> object:
    """A JSON value, or the text of any other: base64 would hide a token from `redact`."""
    if value is None or type(value) in _ATOMS:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _labels(event: Mapping[str, object]) -> dict[str, str]:
    return {name: str(event[name]) for name in LABELS if event.get(name) is not None}


def _redacted(_logger: WrappedLogger, _method: str, line: object) -> str:
    """Comes last, so that it sees what every value, exception and traceback was rendered to."""
    return redact(str(line))
