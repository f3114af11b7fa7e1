"""docs/reference/ is what scripts/reference.py makes of the code, and what it makes is true."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import reference
from click.testing import CliRunner

from gce_backend.cli import main
from gce_backend.configuration import values
from gce_backend.configuration.naming import MAX_BASE_NAME_LENGTH
from support.documents import DOCS, name_of, tables_of, text_of

PAGES = reference.pages()
FLEET = text_of(DOCS / "reference" / "fleet.md")
COMMANDS = text_of(DOCS / "reference" / "commands.md")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_page_is_what_the_code_says(path: Path) -> None:
    """Whoever changes a comment, a docstring or a help text runs `make docs`."""
    assert text_of(path) == PAGES[path], "run `make docs`"


def test_no_page_is_there_that_nothing_writes() -> None:
    """A page that the script no longer makes is gone."""
    assert set((DOCS / "reference").iterdir()) == set(PAGES)


@pytest.mark.parametrize(
    ("field", "limits"),
    [
        ("base_name", [MAX_BASE_NAME_LENGTH]),
        ("disk_size_gb", [values.MIN_DISK_GB, values.MAX_DISK_GB]),
        ("tags", [values.MAX_TAGS]),
        ("snapshot_labels", [values.MAX_LABELS]),
        ("service_accounts", [values.MAX_ACCOUNTS]),
        ("dimensions", [values.MAX_DIMENSIONS]),
        ("metadata_from_file", [values.MAX_FILES]),
        ("metadata", [values.MAX_METADATA_VALUE // 1024, values.MAX_METADATA_TOTAL // 1024]),
        ("minimum_size", [values.MAX_GROUP_SIZE]),
        ("maximum_size", [values.MAX_GROUP_SIZE]),
    ],
)
def test_the_limits_of_a_field_are_those_that_are_checked(field: str, limits: list[int]) -> None:
    """A comment of the .proto is prose: its numbers are compared with the rules' own."""
    rows = [row for row in tables_of(FLEET, "field", "no.") if row[0].strip("`") == field]
    told = {number for row in rows for number in re.findall(r"\d+", row[-1])}
    assert {str(limit) for limit in limits} <= told


@pytest.mark.parametrize(
    ("field", "words"), [("disk_type", values.DISK_TYPES), ("dimensions", values.DIMENSIONS)]
)
def test_the_words_that_a_field_may_hold_are_named(field: str, words: list[str]) -> None:
    """All of those that the rules know."""
    rows = [row for row in tables_of(FLEET, "field", "no.") if row[0] == f"`{field}`"]
    assert not [word for word in words if all(word not in row[-1] for row in rows)]


@pytest.mark.parametrize("name", main.commands)
def test_every_parameter_of_a_command_is_in_its_section(name: str) -> None:
    """Options in the table, or among those of all commands; arguments in the usage."""
    _, _, section = COMMANDS.partition(f"\n## gce-backend {name}\n")
    section = section.partition("\n## ")[0]
    everywhere = COMMANDS.partition("\n## ")[0]
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Argument):
            usage = re.findall(r"```text\n(.+)\n```", section)[0]
            assert parameter.make_metavar(click.Context(main.commands[name])) in usage
        elif isinstance(parameter, click.Option):
            assert f"{parameter.opts[-1]}" in section + everywhere


@pytest.mark.parametrize("name", main.commands)
def test_wrong_usage_ends_with_the_code_that_the_page_names(name: str) -> None:
    """2, except where 2 says that there are changes."""
    [meaning] = [row[1] for row in tables_of(COMMANDS, "code", "means") if row[0] == "2"]
    expected = 1 if f"`{name}`" in meaning else 2
    assert CliRunner().invoke(main, [name, "--no-such-option"]).exit_code == expected
