"""Terms of leadership: numbered, and checked within each transaction of the process that leads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gce_backend.base.errors import LeadershipLostError
from gce_backend.clients.datastore.values import Path, Row

KIND = "Leadership"
EPOCH: Path = ((KIND, "epoch"),)


class Term(NamedTuple):
    """The time in which one process works.

    Attributes:
        epoch: the number of the term.
    """

    epoch: int

    def check(self, rows: Mapping[Path, Row]) -> None:
        """Checks, within a transaction, that this process still leads.

        Args:
            rows: the rows that the transaction read, including `EPOCH`.

        Raises:
            LeadershipLostError: another process took over.
        """
        if number(rows.get(EPOCH), "epoch") != self.epoch:
            raise LeadershipLostError("another process has taken over")


def number(row: Row | None, name: str) -> int:
    """An integer property of a row; 0 when there is none."""
    value = row.properties.get(name) if row is not None else 0
    return value if isinstance(value, int) else 0
