"""Every command of the program, and how an operator of a troubled fleet uses it.

Use it for a test that reads what all commands print; a new command needs a line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from gce_backend.cli import main

READS: Mapping[str, tuple[str, ...]] = {
    "adopt": ("--store", "0123456789ab", "--json"),
    "agent": ("DIR",),
    "approve": ("no-such-revision",),
    "catalog": (),
    "completion": ("bash",),
    "configure": ("--machine-provider", "https://no-such-service"),
    "cordon": ("NAME", "--dry-run"),
    "doctor": (),
    "drain": ("-l", "template=linux", "--dry-run"),
    "events": (),
    "explain": ("NAME",),
    "extend": ("no-such-lease", "1h"),
    "groups": ("-o", "wide"),
    "hold": ("no-such-lease", "1h"),
    "leaks": (),
    "leases": ("--everybody",),
    "lift-cap": (),
    "machines": ("-o", "wide"),
    "messages": ("ack",),
    "pause": ("--zone", "no-such-zone", "--reason", "a look"),
    "plan": (),
    "release": ("no-such-request",),
    "resume": ("--zone", "no-such-zone"),
    "rollout pause": ("no-such-template",),
    "rollout resume": ("linux",),
    "rollout status": ("linux",),
    "rollout undo": ("linux",),
    "setup": ("--dry-run",),
    "status": (),
    "templates": ("-o", "wide"),
    "transfer": ("no-such-lease", "bob@example.com"),
    "uncordon": ("NAME", "--dry-run"),
    "undrain": ("NAME", "--dry-run"),
    "validate": ("CONFIG",),
    "version": (),
}
"""Arguments of the commands that ask a fleet, or give it an order that changes no machine."""
ELSEWHERE: Mapping[str, str] = {
    "demo": "tests/unit/demo/test_story.py reads it",
    "exec": "tests/processes/test_shell.py: it works on a leased machine",
    "lease": "tests/unit/cli/test_leases.py: it waits for a machine",
    "localcloud": "tests/processes: it runs until it is stopped",
    "machine-provider": "tests/processes: it runs until it is stopped",
    "run": "tests/processes: it runs until it is stopped",
    "shell": "tests/processes/test_shell.py: it works on a leased machine",
    "with-machine": "tests/unit/cli/test_lending.py: it works on a leased machine",
}
"""Commands that are read elsewhere, and where."""


def commands(group: click.Group = main, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, as the parser has them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)
