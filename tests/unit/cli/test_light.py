"""Commands start light: each imports what it needs, and no more."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from typing import NamedTuple

import click
import msgspec
import pytest

from gce_backend.cli.common import run_until_interrupted
from gce_backend.cli.main import COMMANDS, main
from support.served_fleet import served_fleet

HEAVY = (
    *("aiohttp", "cryptography", "gcloud", "google.protobuf", "jinja2", "prometheus_client"),
    *("sqlite3", "structlog", "gce_backend.configuration.parsing", "gce_backend.daemon"),
    *("gce_backend.demo", "gce_backend.engine", "gce_backend.fleet", "gce_backend.localcloud"),
    *("gce_backend.loops", "gce_backend.setup", "gce_backend.web"),
)
"""What only the work of a command may load."""
PROBE = """
import contextlib, io, json, sys
from gce_backend.cli import main
said = io.TextIOWrapper(io.BytesIO(), write_through=True)
with contextlib.redirect_stdout(said):
    for arguments in json.loads(sys.argv[1]):
        with contextlib.suppress(SystemExit):
            main(arguments, prog_name="gce-backend")
print(json.dumps({"said": said.buffer.getvalue().decode(), "modules": sorted(sys.modules)}))
"""


class Probed(NamedTuple):
    """What a fresh interpreter printed, and the modules that it had loaded at the end."""

    said: str
    modules: list[str]

    @property
    def own(self) -> int:
        """How many of this project's modules."""
        return sum(module.startswith("gce_backend") for module in self.modules)

    def loaded(self, *names: str) -> set[str]:
        """Those of the modules, or of their packages, that are loaded."""
        packages = tuple(f"{name}." for name in names)
        return {m for m in self.modules if m in names or m.startswith(packages)}


def probe(*commands: tuple[str, ...], **environment: str) -> Probed:
    """Calls commands one after the other in one fresh interpreter."""
    called = [sys.executable, "-c", PROBE, msgspec.json.encode(commands).decode()]
    done = subprocess.run(
        called, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    document = msgspec.json.decode(done.stdout)
    return Probed(document["said"], document["modules"])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    """The list of commands needs no command: what it says is the beginning of the help."""
    command = main.commands[name]
    assert isinstance(command, click.Command)
    assert command.name == name
    assert not command.hidden
    summary = " ".join((command.help or "").partition("\n\n")[0].split())
    assert summary.startswith(COMMANDS[name].help)


def test_the_version_loads_next_to_nothing() -> None:
    """Two dozen modules of this project would be a chain of imports again."""
    found = probe(("version",), ("--version",))
    assert found.said.startswith("gce-backend, version ")
    assert found.loaded(*HEAVY, "rich") == set()
    assert found.own <= 14


def test_the_list_of_commands_imports_no_command() -> None:
    """Only the table is read."""
    found = probe(("--help",))
    assert all(f"\n  {name} " in found.said for name in COMMANDS)
    assert found.own <= 4


def test_no_help_loads_what_the_command_works_with() -> None:
    """All of them together, in one process."""
    found = probe(*((name, "--help") for name in COMMANDS))
    assert found.said.count("Usage: gce-backend ") == len(COMMANDS)
    assert found.loaded(*HEAVY, "rich") == set()


def test_the_completion_script_loads_next_to_nothing() -> None:
    """A shell's start file asks for it."""
    found = probe(("completion", "bash"))
    assert "_GCE_BACKEND_COMPLETE" in found.said
    assert found.loaded(*HEAVY, "rich") == set()
    assert found.own <= 14


@pytest.mark.parametrize(
    ("words", "offered", "limit"),
    [
        ("gce-backend sta", "plain,status", 4),
        ("gce-backend --ver", "plain,--version", 4),
        ("gce-backend status --wa", "plain,--watch", 16),
    ],
)
def test_a_tab_imports_at_most_the_command_that_it_is_about(
    words: str, offered: str, limit: int
) -> None:
    """Names of commands and options."""
    variables = {
        "_GCE_BACKEND_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    found = probe((), **variables)
    assert found.said.split() == [offered]
    assert found.loaded(*HEAVY, "rich") == set()
    assert found.own <= limit


def test_a_name_is_completed_by_the_daemons_client_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Below 0.2 s of CPU: one more library would be felt at every Tab (bench/COMMANDS.md)."""
    variables = {"_GCE_BACKEND_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    with served_fleet(tmp_path_factory.mktemp("config")) as fleet:
        machine = min(fleet.machines())
        words = {**variables, "COMP_WORDS": "gce-backend drain li"}
        found = probe((), **fleet.environment, **words)
    assert f"plain,{machine}" in found.said.split()
    assert (
        found.loaded(*HEAVY, "rich", "yarl", "multidict", "http.client", "email.message") == set()
    )
    assert found.own <= 46


def test_status_loads_the_daemons_client_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not an HTTP library, not the clients of Google's services, nor the daemon itself."""
    with served_fleet(tmp_path_factory.mktemp("config")) as fleet:
        found = probe(("status",), **fleet.environment)
    assert "no problems" in found.said
    assert found.loaded(*HEAVY, "yarl", "multidict", "http.client", "email.message") == set()


@pytest.mark.parametrize(
    ("command", "does", "spared"),
    [
        (
            ("pause", "--reason", "a test"),
            "paused",
            ("gce_backend.gce_client", "gce_backend.clients.machine_provider"),
        ),
        (("plan",), "No changes", ("gce_backend.clients.machine_provider",)),
        (("lease", "--template", "linux", "--json"), "hostname", ("gce_backend.gce_client",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_command_loads_the_clients_that_it_asks_and_no_others(
    command: tuple[str, ...],
    does: str,
    spared: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Neither Pub/Sub's client nor metrics, which nobody reads of a command."""
    with served_fleet(tmp_path_factory.mktemp("config")) as fleet:
        found = probe(command, **fleet.environment)
    assert does in found.said
    assert found.loaded("gcloud.aio.datastore")
    assert found.loaded(*spared, "gcloud.aio.pubsub", "prometheus_client", "structlog") == set()


def test_the_collector_no_longer_looks_at_what_a_service_has_loaded() -> None:
    """Its pauses are as long as what it looks at is large; modules stay anyway."""
    before = gc.get_freeze_count()
    try:
        run_until_interrupted(asyncio.sleep(0))
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
