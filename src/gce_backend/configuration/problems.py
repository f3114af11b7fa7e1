"""What is wrong with a configuration: every problem, with its place and remedy, in bounds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gce_backend.base.errors import BackendError

MAX_MESSAGE = 500
"""Characters in one problem's message."""
MAX_LISTED = 100
"""Problems that are listed; the others are counted."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with the configuration.

    Attributes:
        file: the file's name, e.g. `templates.cfg`.
        line: counted from 1; of the field, or of what lacks it. None when unknown.
        subject: what it is about, e.g. `template "linux-small"` or `managers[2]`; "" for the file.
        field: e.g. `tags[1]` or `service_accounts[0].name`; "" for the whole subject.
        message: what is wrong and what to do.
        is_warning: it is used all the same, but may not mean what its author thinks.
    """

    file: str
    line: int | None
    subject: str
    field: str
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        """One line, beginning like a compiler's so that editors find the place."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        kind = "warning" if self.is_warning else ""
        parts = (place, self.subject, self.field, kind, self.message)
        return ": ".join(part for part in parts if part)


def listed(problems: Sequence[Problem], total: int) -> list[str]:
    """The problems as lines, and how many there are besides.

    Args:
        problems: those to be listed.
        total: how many there are.
    """
    more = total - len(problems)
    return [*map(str, problems), *([f"and {more} more"] if more else [])]


class InvalidConfigurationError(BackendError):
    """templates.cfg or managers.cfg cannot be used.

    Attributes:
        problems: the first MAX_LISTED of those found, in the order of the files.
        total: how many were found.
    """

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems[:MAX_LISTED])
        self.total = len(problems) if total is None else total
        super().__init__("\n".join(listed(self.problems, self.total)))
