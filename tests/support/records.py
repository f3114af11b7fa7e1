"""Exchanges on their way from the processes that tests start to the referee of the tests.

Every process has a file, and every exchange a line of it, written before the answer goes out: what
a client was told is there even if the server is killed right afterwards.

Use it for a test that starts processes of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from yarl import URL

from support.discovery.exchanges import Exchange

SITE = Path(__file__).parent / "referee_site"
"""What makes a process record its exchanges, when it is on PYTHONPATH."""

VARIABLE = "REFEREE_RECORDS"
"""Tells a process in which directory."""

_LINES = msgspec.json.Decoder(Exchange, dec_hook=lambda _, text: URL(text, encoded=True))


class Records:
    """What processes have recorded.

    Attributes:
        directory: where their files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, exchange: Exchange) -> None:
        """Records an exchange of this process."""
        line = msgspec.json.encode(exchange, enc_hook=str) + b"\n"
        with (self.directory / str(os.getpid())).open("ab", buffering=0) as file:
            file.write(line)

    def take(self) -> list[Exchange]:
        """Takes all exchanges away; a line that a killed process did not finish is none."""
        found: list[Exchange] = []
        for path in self.directory.iterdir():
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            path.unlink()
            found += _LINES.decode_lines(whole)
        return found
