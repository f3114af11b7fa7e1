"""access.cfg as a file that is read again when it changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from gce_backend.base.errors import SettingsError
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.text import decoded
from gce_backend.machine_provider.access.parsing import MAX_BYTES, parse_access
from gce_backend.machine_provider.access.policy import AccessPolicy
from gce_backend.settings.settings import ProviderSettings

LOOK_SECONDS = 5.0

log = structlog.stdlib.get_logger()


class AccessFile:
    """The file, and the policy that was last read from it without problems.

    Args:
        path: the path of access.cfg.

    Attributes:
        problem: why the file's present content is not in force; "" when it is.

    Raises:
        SettingsError: it cannot be read.
        InvalidConfigurationError: it is invalid; the error lists every problem.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._path = path
        self._seen = self._mark()
        self._policy = self._read()

    @classmethod
    def named_by(cls, settings: ProviderSettings) -> AccessFile:
        """The file that the settings name.

        Raises:
            SettingsError: they name none, or it cannot be read.
            InvalidConfigurationError: it is invalid; the error lists every problem.
        """
        if settings.access is None:
            raise SettingsError(
                "provider.access is not set: name the access.cfg that says who may do what"
            )
        return cls(settings.access)

    @property
    def missing(self) -> str:
        """Why no access.cfg is known: it always is."""
        return ""

    def policy(self) -> AccessPolicy:
        """Who may do what."""
        return self._policy

    async def watch(self) -> None:
        """Reads the file again when it changes; an invalid file leaves the old policy in force."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Reads the file if it has changed."""
        try:
            mark = await asyncio.to_thread(self._mark)
            if mark == self._seen:
                return
            self._seen = mark
            self._policy = await asyncio.to_thread(self._read)
        except (SettingsError, InvalidConfigurationError) as error:
            if str(error) != self.problem:
                log.error("machine_provider.access_invalid", error=str(error))
            self.problem = str(error)
        else:
            self.problem = ""
            log.info("machine_provider.access_read", groups=len(self._policy.groups))

    def _mark(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> AccessPolicy:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            text = decoded(content)
        except OSError as error:
            raise self._unreadable(error) from None
        except ValueError as error:
            raise SettingsError(f"{self._path}: {error}") from None
        return parse_access(text)

    def _unreadable(self, error: OSError) -> SettingsError:
        reason = (error.strerror or "it does not exist").lower()
        return SettingsError(
            f"{self._path}: cannot be read ({reason}): provider.access names access.cfg, which "
            "says who may do what"
        )
