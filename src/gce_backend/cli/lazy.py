"""A group that imports a command when it is called, and lists all commands without an import."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """A command's module, and its line in a list of commands.

    Attributes:
        module: its module in `gce_backend.cli`.
        attribute: its name in that module.
        help: the first sentence of its help.
    """

    module: str
    attribute: str
    help: str


class Commands(UserDict[str, click.Command]):
    """Commands by name; each is imported when it is asked for.

    Args:
        table: all commands.
        finish: adds what all commands share.
    """

    def __init__(
        self, table: Mapping[str, Entry], finish: Callable[[click.Command], click.Command]
    ) -> None:
        super().__init__()
        self.table = table
        self._finish = finish

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            entry = self.table[name]
            module = import_module(f"gce_backend.cli.{entry.module}")
            self.data[name] = self._finish(getattr(module, entry.attribute))
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: object) -> bool:
        return name in self.table


class LazyGroup(click.Group):
    """A group of `Commands`: its help and its completion import none of them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands into the group's help."""
        table = self._table()
        with formatter.section("Commands"):
            formatter.write_dl([(name, table[name].help) for name in sorted(table)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands and options that begin with `incomplete`."""
        return [
            *(
                CompletionItem(name, help=entry.help)
                for name, entry in sorted(self._table().items())
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def _table(self) -> Mapping[str, Entry]:
        if not isinstance(self.commands, Commands):
            raise TypeError("a LazyGroup is made with Commands")
        return self.commands.table
