"""Results in terminals of any width: no number and no letter is lost."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group, RenderableType

from gce_backend.cli import explain_text, status_text
from gce_backend.cli.common import own_name
from gce_backend.cli.output import cell, table
from gce_backend.rules.states import State

WIDTHS = (60, 80, 110)
LONG = "linux-with-a-name-of-many-letters-00c88a37-usc1a-x7k2"
NOW = 1_700_000_000.0


def drawn(width: int, *parts: RenderableType) -> str:
    """What a terminal of that width shows, as `status --watch` draws it."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(Group(*parts))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return out.getvalue()


def row(number: int) -> dict[str, Any]:
    """A group all of whose numbers are large, and occur nowhere else."""
    first = 10_000 * number
    return {
        "template": f"{LONG}{number}",
        "zone": "northamerica-northeast1-a",
        "state": "degraded",
        "reason": "It has 12345 of 67890 machines. 4242 are stopped.",
        "minimum": first + 150,
        "maximum": first + 151,
        "target": first + 152,
        "machines": {state.value: first + 1000 + at for at, state in enumerate(State)},
    }


STATUS = {
    "now": NOW,
    "project": "a-project",
    "owner": "an-owner",
    "configuration": {"revision": "0123456789abcdef", "imported_at": NOW - 60},
    "machines": {state.value: 7000 + at for at, state in enumerate(State)},
    "problems": [
        {
            "severity": "critical",
            "kind": "machine",
            "subject": f"{LONG}/northamerica-northeast1-a",
            "reason": "PermissionDenied",
            "since": NOW - 60,
            "count": 8181,
            "message": "Something is wrong with 9191 of them.",
        }
    ],
    "fleet": [row(1), row(2), row(3)],
}


@pytest.mark.parametrize("width", WIDTHS)
def test_status_shows_every_number_at_every_width(width: int) -> None:
    """A table where there is room for it, a record for each group elsewhere."""
    text = drawn(width, *status_text.view_of(STATUS))
    shown = set(re.findall(r"[0-9]+", text))
    for one in STATUS["fleet"]:  # type: ignore[attr-defined]  # of a document
        counts = status_text._row(one)
        assert {str(value) for value in counts.values() if isinstance(value, int)} <= shown
    assert {"8181", "9191", "7000", "12345", "67890", "4242"} <= shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert LONG in re.sub(r"\s", "", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_explain_shows_every_number_and_name_at_every_width(width: int) -> None:
    """Facts, groups with their counts, conditions and events."""
    found = {
        "name": LONG,
        "kind": "template",
        "state": "active",
        "since": None,
        "reason": "The configuration names it.",
        "waits_for": None,
        "subject": LONG,
        "facts": {"minimum": 150150, "sent_at": NOW},
        "machines": {"cataloged": 515151},
        "groups": [
            {
                "name": LONG,
                "zone": "northamerica-northeast1-a",
                "revision": "0123456789",
                "state": "degraded",
                "machines": {"cataloged": 252525, "leased": 353535},
                "reason": "It has 454545 of 464646 machines.",
            }
        ],
        "conditions": [
            {
                "reason": "PermissionDenied",
                "since": NOW,
                "failures": 565656,
                "job": "check-instance-metadata-operations",
                "message": "refused 575757 times",
            }
        ],
        "history_problem": None,
        "events": [
            {
                "at": NOW,
                "before": "running",
                "after": "cataloged",
                "cause": "job catalog-instances",
                "reason": "It took 676767 s.",
            }
        ],
    }
    text = drawn(width, *explain_text.view_of(found, NOW))
    shown = set(re.findall(r"[0-9]+", text))
    numbers = {"150150", "515151", "252525", "353535", "454545", "464646", "565656", "575757"}
    assert numbers | {"676767"} <= shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.replace("\n", "").count(LONG) >= 2


def test_a_table_that_fits_is_a_table() -> None:
    """One that does not is a record for each row, with the heads before the values."""
    rows = table("name", "machines", "why", numbers=("machines",))
    rows.add_row(cell("linux"), cell(1234), cell("It is well."))
    assert drawn(60, rows).splitlines()[0].split() == ["NAME", "MACHINES", "WHY"]
    lines = [line.rstrip() for line in drawn(30, rows).splitlines()]
    assert lines == ["linux", "  machines 1234  why It is", "  well."]


def test_a_hint_names_the_command_as_a_shell_here_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name on the PATH, else by its path or its module, so that it can be copied."""
    command = tmp_path / "bin" / "gce-backend"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n", "utf-8")
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(command), "run"])
    assert own_name() == "bin/gce-backend"
    monkeypatch.setattr(sys, "argv", ["/src/gce_backend/__main__.py", "run"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert own_name() == "bin/python -m gce_backend"
    monkeypatch.setenv("PATH", str(command.parent))
    assert own_name() == "gce-backend"
