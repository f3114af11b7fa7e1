"""Prints results: tables, times, ages; coloured on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gce_backend.base.dates import UNITS, UnixSeconds, date

_WIDE = 1_000_000
"""Characters of a line outside a terminal: nothing is wrapped."""
GAP = 2
"""Characters between two columns."""
_NARROWEST = 24
"""Characters of the narrowest column of words."""


def console(*, stderr: bool = False) -> Console:
    """The console for results, or for progress (on standard error)."""
    context = click.get_current_context(silent=True)
    plain = context is not None and context.color is False
    return Console(
        stderr=stderr,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


class Listing(Table):
    """A table that becomes a record for each row where it is too wide: nothing is cut off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or the records."""
        if self._needs() <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        heads = [str(column.header).lower() for column in self.columns]
        for first, *rest in zip(*(column.cells for column in self.columns), strict=True):
            yield Text(str(first), "bold", overflow="fold")
            told = [f"{head} {value}" for head, value in zip(heads[1:], rest, strict=True)]
            yield Padding(Text("  ".join(told), overflow="fold"), (0, 0, 0, 2))

    def add(self, *values: Any) -> None:
        """Adds a row; a value without a style becomes a `cell`."""
        self.add_row(*(it if isinstance(it, Text) else cell(it) for it in values))

    def _needs(self) -> int:
        """Characters of the narrowest line that holds all of a row's words and numbers."""
        widths = (
            column.min_width or max(cell_len(str(it)) for it in (column.header, *column.cells))
            for column in self.columns
        )
        return sum(width + GAP for width in widths) - GAP


def show(*parts: RenderableType) -> None:
    """Prints a result, fitted to a terminal; elsewhere, whole lines."""
    for part in parts:
        target = console()
        if not target.is_terminal:
            target.width = _WIDE
        with target.capture() as capture:
            target.print(part)
        for line in capture.get().splitlines():
            click.echo(line.rstrip())


def table(*heads: str, numbers: Collection[str] = ()) -> Listing:
    """An empty table, as `kubectl` and its like print them: only the last column may be wrapped.

    Args:
        heads: the heads of its columns.
        numbers: the heads of columns that hold numbers.
    """
    made = Listing(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for head in heads:
        side: JustifyMethod = "right" if head in numbers else "left"
        words = head == heads[-1] and head not in numbers
        made.add_column(
            head.upper(),
            justify=side,
            no_wrap=not words,
            min_width=_NARROWEST if words else None,
            overflow="fold",
        )
    return made


def cell(value: Any, style: str = "") -> Text:
    """A value on one line without control characters; "-" where there is none."""
    return Text("-" if value is None or value == "" else one_line(str(value)), style)


def caused(event: Mapping[str, Any]) -> str:
    """What caused an event, and who ordered it."""
    return " by ".join(filter(None, (event["cause"], event.get("who"))))


def one_line(text: str) -> str:
    """A text of another's on one line, without control characters for the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def moment(at: UnixSeconds) -> str:
    """A time in the local zone, which is named."""
    return f"{date(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def age(seconds: float) -> str:
    """A duration in its largest unit: `45s`, `5m`, `3h`, `12d`."""
    seconds = max(0.0, seconds)
    for unit, limit in (("s", 120), ("m", 7200), ("h", 172_800)):
        if seconds < limit:
            return f"{seconds // UNITS[unit]:.0f}{unit}"
    return f"{seconds // UNITS['d']:.0f}d"


def when(at: UnixSeconds, now: UnixSeconds) -> str:
    """A time, and how far it is from now."""
    return f"{moment(at)} ({f'in {age(at - now)}' if at > now else f'{age(now - at)} ago'})"
