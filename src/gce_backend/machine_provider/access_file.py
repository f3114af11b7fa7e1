"""access.cfg as a file that is read again when it changes."""

from __future__ import annotations

from pathlib import Path

import structlog

from gce_backend.base.errors import SettingsError
from gce_backend.base.watched_file import WatchedFile
from gce_backend.configuration.text import decoded
from gce_backend.machine_provider.access.parsing import MAX_BYTES, parse_access
from gce_backend.machine_provider.access.policy import AccessPolicy
from gce_backend.settings.settings import ProviderSettings

log = structlog.stdlib.get_logger()


class AccessFile(WatchedFile[AccessPolicy]):
    """The file, and the policy that was last read from it without problems.

    Args:
        path: the path of access.cfg.

    Raises:
        SettingsError: it cannot be read.
        InvalidConfigurationError: it is invalid; the error lists every problem.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            lambda: _read(path),
            invalid=lambda problem: log.error("machine_provider.access_invalid", error=problem),
            renewed=lambda policy: log.info(
                "machine_provider.access_read", groups=len(policy.groups)
            ),
        )

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
        return self.value


def _read(path: Path) -> AccessPolicy:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = decoded(content)
    except OSError as error:
        reason = (error.strerror or "it does not exist").lower()
        raise SettingsError(
            f"{path}: cannot be read ({reason}): provider.access names access.cfg, which "
            "says who may do what"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    return parse_access(text)
