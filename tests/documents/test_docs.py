"""The documents say what is so: links, commands, jobs, settings, fields, tests."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from gce_backend.cli import main
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.loops import JOBS
from gce_backend.model.entities import Permit
from gce_backend.rules.states import State
from gce_backend.settings.settings import JobSettings, Settings, WebhookSettings
from gce_backend.setup.permissions import COMPUTE, DATASTORE, LOOKS, SUBSCRIPTION
from support.documents import (
    DOCS,
    DOCUMENTS,
    ROOT,
    anchors_of,
    code_of,
    links_of,
    name_of,
    tables_of,
    text_of,
)

_COMMAND = re.compile(r"(?<![\w./-])gce-backend ([a-z][a-z-]*)([^`\n|]*)")
SRC = ROOT / "src" / "gce_backend"
_TEST = re.compile(r"`(test_[a-z0-9_]+)`")


def _option_names(command: click.Command) -> set[str]:
    """The options of a command, and of those that a group has."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    return own.union(*map(_option_names, below))


def _command_names() -> set[str]:
    """The names of all commands, those of groups with the group's."""
    names = set()
    for name, command in main.commands.items():
        below = command.commands if isinstance(command, click.Group) else ()
        names |= {f"{name} {one}" for one in below} or {name}
    return names


def _setting_keys() -> set[str]:
    keys: set[str] = set()
    for field in msgspec.structs.fields(Settings):
        if field.name in {"jobs", "webhooks"}:
            kind = JobSettings if field.name == "jobs" else WebhookSettings
            keys |= {f"{field.name}.<name>.{name}" for name in kind.__struct_fields__}
        elif isinstance(field.default, msgspec.Struct):
            keys |= {f"{field.name}.{name}" for name in field.default.__struct_fields__}
        else:
            keys.add(field.name)
    return keys


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    """A link without a scheme is a path from the document's own directory."""
    for link in links_of(path):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), link
        assert not anchor or anchor in anchors_of(file), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_and_option_named_exists(path: Path) -> None:
    """What a document tells people to type, they can type."""
    code = "\n".join(code_of(path)).replace("\\\n", " ")
    for name, rest in _COMMAND.findall(code):
        if name == "owner":  # the mark in descriptions at Compute
            continue
        assert name in main.commands, f"gce-backend {name}"
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
        unknown = options - _option_names(main.commands[name])
        assert not unknown, f"gce-backend {name}: {sorted(unknown)}"


def test_the_commands_table_is_complete() -> None:
    """Each command of the program has a row, which leads to its section."""
    rows = tables_of(text_of(DOCS / "reference" / "commands.md"), "command", "does")
    link = re.compile(r"\[`gce-backend ([\w -]+)`\]\(#gce-backend-(.+)\)")
    found = [link.fullmatch(row[0]) for row in rows]
    names = {match[1]: match[2] for match in found if match}
    assert names == {name: name.replace(" ", "-") for name in _command_names()}


def test_every_make_target_named_exists() -> None:
    """`make X` in a document is a target of the Makefile."""
    code = "\n".join(piece for path in DOCUMENTS for piece in code_of(path))
    wanted = set(re.findall(r"\bmake ([a-z-]+)\b", code))
    assert wanted <= set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))


def test_the_jobs_table_is_what_the_jobs_declare() -> None:
    """Names, in order, deadlines, and which jobs they wake."""
    rows = tables_of(text_of(DOCS / "architecture.md"), "job", "acts on", "deadline", "wakes")
    table = [(row[0], row[2], set() if row[3] == "-" else set(row[3].split(", "))) for row in rows]
    assert table == [(job.name, f"{job.timeout:g} s", set(job.wakes)) for job in JOBS]


def test_the_table_of_folders_is_what_import_linter_proves() -> None:
    """The layers in their order, and each contract by its name."""
    text = text_of(DOCS / "architecture.md")
    rows = tables_of(text, "layer", "what lives there")
    drawn = [set(re.findall(r"`(\w+)`", row[0])) for row in rows]
    linted = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in linted if contract["type"] == "layers"]
    assert drawn == [set(layer.split(" | ")) for layer in layers]
    beside = {"machine_provider", "localcloud"}
    there = {path.parent.name for path in SRC.glob("*/__init__.py")} | {"__main__", "gce_client"}
    assert there == set().union(*drawn) | beside
    listed = re.findall(r"^- (.+)\.$", text, re.MULTILINE)
    assert listed == [contract["name"] for contract in linted]


def test_the_architecture_names_every_kind_of_entity() -> None:
    """Those of the daemon's store, and no other."""
    pattern = r'^ *KIND(?:: ClassVar\[str\])? = "(\w+)"$'
    folders = ("model", "clients/datastore")
    sources = [text_of(path) for folder in folders for path in (SRC / folder).glob("*.py")]
    kinds = re.findall(pattern, "\n".join(sources), re.MULTILINE)
    rows = tables_of(text_of(DOCS / "architecture.md"), "kind", "what it holds")
    assert sorted(kind for row in rows for kind in row[0].split(", ")) == sorted(kinds)


def test_the_architecture_is_read_in_three_minutes() -> None:
    """At 240 words a minute, without the table of jobs, which is for looking up."""
    text, _, _ = text_of(DOCS / "architecture.md").partition("## Jobs")
    assert len(re.findall(r"\w+", text)) < 3 * 240


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_source_file_named_exists(path: Path) -> None:
    """`rules/states.py`, `tests/support/`: as seen from one of three roots."""
    if path.name == "CHANGELOG.md":
        return  # it may name what an older release had
    named = re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|proto|toml|cfg))?)`", text_of(path))
    roots = (ROOT, SRC, ROOT / "tests")
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert not set(missing) - {"var/", "site/"}


@pytest.mark.parametrize(
    "init", sorted(SRC.glob("*/__init__.py")), ids=lambda path: path.parent.name
)
def test_every_folder_says_what_may_live_there_and_what_not(init: Path) -> None:
    """In the docstring of its `__init__`, which is its contract."""
    docstring = ast.get_docstring(ast.parse(text_of(init))) or ""
    assert re.search(r"What\s+may\s+live\s+here|and\s+nothing\s+else", docstring)
    assert re.search(r"What\s+may\s+not", docstring)


def test_the_licence_is_apaches() -> None:
    """As a whole, and named in the package's metadata."""
    text = text_of(ROOT / "LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]


def test_the_settings_table_has_exactly_the_settings() -> None:
    """Each key once, and none that no longer exists."""
    rows = tables_of(text_of(DOCS / "reference" / "settings.md"), "key", "default", "values")
    assert sorted(row[0].strip("`") for row in rows) == sorted(_setting_keys())


@pytest.mark.parametrize("message", [pb.InstanceTemplate, pb.InstanceGroupManager])
def test_every_field_of_the_configuration_is_described(
    message: type[pb.InstanceTemplate | pb.InstanceGroupManager],
) -> None:
    """By its number and name."""
    rows = tables_of(text_of(DOCS / "reference" / "fleet.md"), "field", "no.")
    tables = {(int(row[1]), row[0].strip("`")) for row in rows}
    assert {(field.number, field.name) for field in message.DESCRIPTOR.fields} <= tables


def test_the_permissions_are_those_that_setup_checks() -> None:
    """Whoever makes a role from the document gives what is needed, and no more."""
    listed = re.findall(
        r"^- `([a-z]+\.[A-Za-z]+\.[A-Za-z]+)`$", text_of(DOCS / "operations.md"), re.MULTILINE
    )
    assert listed == [*COMPUTE, *DATASTORE, *SUBSCRIPTION, *LOOKS]


def test_every_test_named_exists() -> None:
    """docs/safety.md names tests that are there."""
    named = {name for path in DOCUMENTS for name in _TEST.findall(text_of(path))}
    sources = [text_of(path) for path in (ROOT / "tests").rglob("test_*.py")]
    there = set(re.findall(r"^ *(?:async )?def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert not named - there


@pytest.mark.parametrize(("words", "drawn_as"), [(State, "head"), (Permit, "text")])
def test_the_life_of_a_machine_shows_every_state_and_permit(
    words: type[State | Permit], drawn_as: str
) -> None:
    """In the picture, and in the tables below it; and none that no longer exists."""
    wanted = {word.value for word in words}
    drawn = re.findall(rf'class="{drawn_as}"[^>]*>([a-z-]+)</text>', text_of(DOCS / "life.svg"))
    rows = tables_of(text_of(DOCS / "life.md"), words.__name__.lower())
    assert sorted(drawn) == sorted(wanted)
    assert sorted(row[0].strip("`") for row in rows) == sorted(wanted)


def test_every_fault_and_hazard_has_its_row() -> None:
    """56 faults and 21 hazards, in order, each with a test."""
    for kind, count in (("fault", 56), ("hazard", 21)):
        rows = tables_of(text_of(DOCS / "safety.md"), "no.", kind)
        numbers = [int(row[0]) for row in rows]
        assert numbers[:count] == list(range(1, count + 1))
        assert numbers == sorted(set(numbers)), "those that were found later, each once"
        assert [row[0] for row in rows if not _TEST.search(row[-1])] == []


def test_the_readme_says_what_a_machine_provider_is_in_its_second_sentence() -> None:
    """Nobody can use this project who does not know, and the name alone says little."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n\n")[2]
    sentences = re.split(r"(?<=[.]) ", " ".join(text.split()))
    assert sentences[1].startswith("A Machine Provider lends machines to people and CI jobs")
