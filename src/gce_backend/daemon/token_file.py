"""The tokens of the HTTP endpoint, read again when their file changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gce_backend.base.watched_file import WatchedFile
from gce_backend.engine.metrics import Metrics
from gce_backend.settings.settings import HttpSettings
from gce_backend.settings.tokens import NamedToken, named_tokens

if TYPE_CHECKING:  # heavy
    from structlog.typing import FilteringBoundLogger


class TokenFile:
    """The tokens in force: `http.token`, and those of the last good `http.tokens_file`.

    Args:
        http: names them.
        log: told of changes.
        metrics: told whether the newest file is in force.

    Raises:
        SettingsError: the file cannot be used.
    """

    def __init__(self, http: HttpSettings, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._fixed = () if http.tokens_file else named_tokens(http)
        self._file = http.tokens_file and WatchedFile(
            http.tokens_file,
            lambda: named_tokens(http),
            invalid=self._is_invalid,
            renewed=self._is_renewed,
        )
        metrics.tokens(valid=True)

    def tokens(self) -> Sequence[NamedToken]:
        """The tokens that let readers in and operators act."""
        return self._file.value if self._file else self._fixed

    async def watch(self) -> None:
        """Reads the file again when it changes, until it is cancelled; ends if there is none."""
        if self._file:
            await self._file.watch()

    def _is_invalid(self, problem: str) -> None:
        self._metrics.tokens(valid=False)
        self._log.error("http.tokens_invalid", error=problem)

    def _is_renewed(self, tokens: Sequence[NamedToken]) -> None:
        self._metrics.tokens(valid=True)
        self._log.info("http.tokens_read", tokens=len(tokens))
