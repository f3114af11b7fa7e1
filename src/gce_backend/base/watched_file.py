"""A file that is read again when it changes; content that is wrong leaves the old in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from gce_backend.base.errors import BackendError

T = TypeVar("T")

LOOK_SECONDS = 5.0


class WatchedFile(Generic[T]):
    """The file, and what was last read from it without problems.

    Args:
        path: the file.
        read: reads it.
        invalid: told why new content is not in force; once for each reason.
        renewed: told what was read when the file has changed.

    Attributes:
        value: what was last read without problems.
        problem: why the file's present content is not in force; "" when it is.

    Raises:
        BackendError: from `read`; the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[], T],
        *,
        invalid: Callable[[str], None],
        renewed: Callable[[T], None],
    ) -> None:
        self.problem = ""
        self._path = path
        self._read = read
        self._invalid = invalid
        self._renewed = renewed
        self._seen = self._mark()
        self.value = read()

    async def watch(self) -> NoReturn:
        """Reads the file again when it changes, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Reads the file if it has changed."""
        mark = await asyncio.to_thread(self._mark)
        if mark == self._seen:
            return
        self._seen = mark
        try:
            self.value = await asyncio.to_thread(self._read)
        except BackendError as error:
            if str(error) != self.problem:
                self._invalid(str(error))
            self.problem = str(error)
        else:
            self.problem = ""
            self._renewed(self.value)

    def _mark(self) -> tuple[int, int, int] | None:
        """What changes with the file; None when it cannot be seen."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
