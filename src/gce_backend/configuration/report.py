"""Collects what the rules find in one file, and adds where it is."""

from __future__ import annotations

from collections.abc import Sequence

from gce_backend.configuration.problems import MAX_MESSAGE, Problem
from gce_backend.configuration.text import LineIndex, Path
from gce_backend.configuration.values import quote, shorten

MAX_KEPT = 1_000
"""Problems and warnings of a file that are kept; the others are counted."""


class Report:
    """What is wrong in a file, and what is odd.

    Args:
        file: the file's name.
        lines: where its fields are.
        names: of the templates, by their index; none for managers.

    Attributes:
        total: problems found, also those that are not kept.
        spoiled: the first problem of each block that has one, by index.
    """

    def __init__(self, file: str, lines: LineIndex, names: Sequence[str] = ()) -> None:
        self.total = 0
        self.spoiled: dict[int, Problem] = {}
        self._file = file
        self._lines = lines
        self._names = names
        self._found: list[Problem] = []

    def problem(self, path: Path, message: str) -> None:
        """What keeps the configuration from being used.

        Args:
            path: where: kind and index of the block first.
            message: what is wrong, and the remedy.
        """
        self.total += 1
        index = path[1]
        if isinstance(index, int) and index not in self.spoiled:
            self.spoiled[index] = self._made(path, message, is_warning=False)
        self._add(path, message, is_warning=False)

    def warning(self, path: Path, message: str) -> None:
        """What is used, but may be a mistake.

        Args:
            path: where: kind and index of the block first.
            message: what is made of it.
        """
        self._add(path, message, is_warning=True)

    def problems(self) -> list[Problem]:
        """What keeps the configuration from being used, in the order of the file."""
        return self._in_order(is_warning=False)

    def warnings(self) -> list[Problem]:
        """What may be a mistake, in the order of the file."""
        return self._in_order(is_warning=True)

    def _add(self, path: Path, message: str, *, is_warning: bool) -> None:
        if len(self._found) < MAX_KEPT:
            self._found.append(self._made(path, message, is_warning=is_warning))

    def _made(self, path: Path, message: str, *, is_warning: bool) -> Problem:
        subject = _dotted(path[:2])
        index = path[1]
        if isinstance(index, int) and index < len(self._names) and self._names[index]:
            subject = f"template {quote(self._names[index])}"
        words = shorten(message, MAX_MESSAGE)
        line = self._lines.find(path)
        return Problem(self._file, line, subject, _dotted(path[2:]), words, is_warning)

    def _in_order(self, *, is_warning: bool) -> list[Problem]:
        found = (problem for problem in self._found if problem.is_warning is is_warning)
        return sorted(found, key=lambda problem: problem.line or 0)


def _dotted(path: Path) -> str:
    """`("service_accounts", 0, "name")` as `service_accounts[0].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")
