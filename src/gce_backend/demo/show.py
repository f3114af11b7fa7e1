"""What people see of the story: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text


class Show(Protocol):
    """What the story tells of itself."""

    def chapter(self, title: str) -> None:
        """A chapter begins; the one before has ended well."""
        ...

    def fact(self, text: str) -> None:
        """Something was verified."""
        ...

    def see(self, counts: Mapping[str, int]) -> None:
        """What there is at this moment."""
        ...


class Lines:
    """Plain lines, each with the seconds since the beginning."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """One line."""
        self._chapters += 1
        self._print(f"{self._chapters}. {title}")

    def fact(self, text: str) -> None:
        """One line."""
        self._print(f"   {text}")

    def see(self, counts: Mapping[str, int]) -> None:
        """Nothing: plain lines are for what is verified."""

    def _print(self, text: str) -> None:
        seconds = time.monotonic() - self._begun
        self._console.print(
            f"{seconds:6.1f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )


class Screen:
    """A live display: what was verified above, the present chapter and the counts below.

    Used as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._console = console
        self._begun = time.monotonic()
        self._chapters = 0
        self._spinner = Spinner("dots")
        self._counts: Mapping[str, int] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def chapter(self, title: str) -> None:
        """The title stays, and is the one that spins."""
        self._chapters += 1
        self._console.print(Text(f"{self._chapters}. {title}", style="bold"))
        self._spinner.update(text=title)
        self._draw()

    def fact(self, text: str) -> None:
        """A line with a tick."""
        self._console.print(Text.assemble(("   ✓ ", "green"), text))

    def see(self, counts: Mapping[str, int]) -> None:
        """The line of counts."""
        self._counts = counts
        self._draw()

    def _draw(self) -> None:
        seconds = time.monotonic() - self._begun
        shown = "   ".join(f"{name} {count}" for name, count in self._counts.items())
        self._live.update(Group(self._spinner, Text(f"{seconds:4.0f} s   {shown}", style="cyan")))
