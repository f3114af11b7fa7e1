"""The documents say what is so: links, commands, jobs, settings, events, metrics, fields, tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from gce_backend.cli import main
from gce_backend.loops import JOBS
from gce_backend.metrics import Metrics
from gce_backend.permissions import COMPUTE, DATASTORE, SUBSCRIPTION
from gce_backend.proto import config_pb2 as pb
from gce_backend.settings import JobSettings, Settings

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "gce_backend"
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?<![\w./-])gce-backend ([a-z][a-z-]*)([^`\n|]*)")
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_TEST = re.compile(r"`(test_[a-z0-9_]+)`")
_LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}
_PASSING_ON = {"_log", "_insist", "_Action"}
"""Functions and types that are given an event to log."""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _rows(path: Path, *head: str) -> list[tuple[str, ...]]:
    """The cells of the one table of a document whose first columns are headed so."""
    tables = re.findall(r"(?:^\|.*\n)+", _text(path), re.MULTILINE)
    for table in tables:
        lines = [
            tuple(cell.strip() for cell in line.strip("|\n ").split(" | "))
            for line in table.splitlines()
        ]
        if lines[0][: len(head)] == head:
            return lines[2:]
    raise AssertionError(f"{path.name} has no table with the columns {head}")


def _option_names(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def _described_events() -> set[str]:
    return {row[0].strip("`") for row in _rows(DOCS / "operations.md", "event", "severity")}


def _logged_events() -> Iterator[tuple[str, str]]:
    """Every event that the source names in a call that logs it, and where."""
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(_text(path))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name not in _LOGGING | _PASSING_ON:
                continue
            for argument in node.args:
                value = getattr(argument, "value", None)
                if isinstance(value, str) and _EVENT.fullmatch(value):
                    yield value, f"{path.relative_to(ROOT)}:{node.lineno}"


def _setting_keys() -> set[str]:
    keys: set[str] = set()
    for field in msgspec.structs.fields(Settings):
        if field.name == "jobs":
            keys |= {f"jobs.<name>.{name}" for name in JobSettings.__struct_fields__}
        elif isinstance(field.default, msgspec.Struct):
            keys |= {f"{field.name}.{name}" for name in field.default.__struct_fields__}
        else:
            keys.add(field.name)
    return keys


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    """A link without a scheme is a path from the document's own directory."""
    prose = _CODE.sub("", _text(path))
    targets = [target for target in _LINK.findall(prose) if "://" not in target]
    assert not [t for t in targets if not (path.parent / t.partition("#")[0]).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_named_exists(path: Path) -> None:
    """What a document tells people to type, they can type."""
    code = "\n".join(_CODE.findall(_text(path))).replace("\\\n", " ")
    for name, rest in _COMMAND.findall(code):
        if name == "owner":  # the mark in descriptions at Compute
            continue
        assert name in main.commands, f"gce-backend {name}"
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
        unknown = options - _option_names(main.commands[name])
        assert not unknown, f"gce-backend {name}: {sorted(unknown)}"


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md"])
def test_the_commands_table_is_complete(name: str) -> None:
    """Each command of the program has a row."""
    rows = _rows(ROOT / name, "command", "does")
    found = {words[1] for row in rows if (words := row[0].strip("`").split())[0] == "gce-backend"}
    assert found == set(main.commands)


def test_every_make_target_named_exists() -> None:
    """`make X` in a document is a target of the Makefile."""
    code = "\n".join(piece for path in DOCUMENTS for piece in _CODE.findall(_text(path)))
    wanted = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert wanted <= set(re.findall(r"^([a-z]+):", _text(ROOT / "Makefile"), re.MULTILINE))


def test_the_jobs_table_is_what_the_jobs_declare() -> None:
    """Names, in order, deadlines, and whom they wake."""
    rows = _rows(DOCS / "architecture.md", "job", "acts on", "deadline", "wakes")
    table = [(row[0], row[2], set() if row[3] == "-" else set(row[3].split(", "))) for row in rows]
    assert table == [(job.name, f"{job.timeout:g} s", set(job.wakes)) for job in JOBS]


def test_the_settings_table_has_exactly_the_settings() -> None:
    """Each key once, and none that is no more."""
    rows = _rows(DOCS / "configuration.md", "key", "default", "meaning")
    assert sorted(row[0].strip("`") for row in rows) == sorted(_setting_keys())


@pytest.mark.parametrize("message", [pb.InstanceTemplate, pb.InstanceGroupManager])
def test_every_field_of_the_configuration_is_described(
    message: type[pb.InstanceTemplate | pb.InstanceGroupManager],
) -> None:
    """By its number and name."""
    tables = {
        (int(number), name)
        for number, name in re.findall(
            r"^\| (\d+) \| `(\w+)` \|", _text(DOCS / "configuration.md"), re.MULTILINE
        )
    }
    assert {(field.number, field.name) for field in message.DESCRIPTOR.fields} <= tables


def test_every_event_is_described() -> None:
    """Whoever searches the log finds its words; a new event needs a row in docs/operations.md."""
    described = _described_events()
    assert not [f"{event} ({at})" for event, at in _logged_events() if event not in described]


def test_every_described_event_is_logged() -> None:
    """No row outlives its event."""
    assert not _described_events() - {event for event, _ in _logged_events()}


def test_every_metric_is_described() -> None:
    """A new metric needs a row in docs/operations.md, and none outlives its metric."""
    metrics = Metrics()
    metrics.read_machines(lambda: ())
    metrics.read_call_budget(lambda: ())
    families = set(re.findall(r"^# TYPE (\w+)", metrics.render().decode(), re.MULTILINE))
    families = {name for name in families if not name.endswith("_created")}
    rows = _rows(DOCS / "operations.md", "metric", "labels")
    assert {row[0].strip("`") for row in rows} == families


def test_the_permissions_are_those_that_setup_checks() -> None:
    """Whoever makes a role from the document gives what is needed, and no more."""
    listed = re.findall(
        r"^- `([a-z]+\.[A-Za-z]+\.[A-Za-z]+)`$", _text(DOCS / "operations.md"), re.MULTILINE
    )
    assert listed == [*COMPUTE, *DATASTORE, *SUBSCRIPTION]


def test_every_test_named_exists() -> None:
    """docs/safety.md names tests that are there."""
    named = {name for path in DOCUMENTS for name in _TEST.findall(_text(path))}
    sources = [_text(path) for path in (ROOT / "tests").rglob("test_*.py")]
    there = set(re.findall(r"^ *(?:async )?def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert not named - there


def test_every_fault_and_hazard_has_its_row() -> None:
    """40 faults and 21 hazards, in order."""
    for kind, count in (("fault", 40), ("hazard", 21)):
        rows = _rows(DOCS / "safety.md", "no.", kind)
        assert [row[0] for row in rows] == [str(number) for number in range(1, count + 1)]
