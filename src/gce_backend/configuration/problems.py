"""What is wrong with a configuration: every problem, with its place and remedy."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gce_backend.base.errors import BackendError


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with the configuration.

    Attributes:
        file: the file's name, e.g. `templates.cfg`.
        line: counted from 1; of the field, or of what lacks it. None when unknown.
        subject: what it is about, e.g. `template "linux-small"` or `managers[2]`; "" for the file.
        field: e.g. `tags[1]` or `service_accounts[0].name`; "" for the whole subject.
        message: what is wrong and how to mend it.
    """

    file: str
    line: int | None
    subject: str
    field: str
    message: str

    def __str__(self) -> str:
        """One line, beginning like a compiler's so that editors find the place."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.subject, self.field, self.message) if part)


class InvalidConfigurationError(BackendError):
    """templates.cfg or managers.cfg cannot be used.

    Attributes:
        problems: every problem found, in the order of the files.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
