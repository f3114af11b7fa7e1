"""access.cfg from a config set of LUCI Config, as the daemon's configuration is imported.

A revision is used if it is valid. The last one that was is kept, also in the Machine Provider's
store, so that a process that starts while LUCI Config does not answer knows who may do what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import structlog

from gce_backend.base.errors import BackendError
from gce_backend.base.tasks import off_loop
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.config_source import ConfigFile, LuciConfigV1, LuciConfigV2, LuciSource
from gce_backend.clients.datastore.client import Datastore, Path, Transaction, Unindexed
from gce_backend.clients.observer import CallObserver
from gce_backend.machine_provider.access.parsing import ACCESS_FILE, parse_access
from gce_backend.machine_provider.access.policy import AccessPolicy
from gce_backend.machine_provider.access_file import AccessFile
from gce_backend.settings.settings import ProviderSettings

LOOK_SECONDS = 60.0
"""Between two looks at LUCI Config."""
RETRY_SECONDS = 5.0
"""Between two looks while no access.cfg is known."""
KEPT_PATH: Path = (("AccessConfiguration", "access.cfg"),)
"""The key of the last good access.cfg."""

log = structlog.stdlib.get_logger()


class AccessImport:
    """The access.cfg of a config set, and the policy that was last read from it without problems.

    Args:
        source: returns the client of LUCI Config.
        reader: returns the Machine Provider's store; None while it is not known.
        writer: returns the store for writing; None while another process leads.

    Attributes:
        problem: why the present revision is not in force; "" when it is.
    """

    def __init__(
        self,
        source: Callable[[], LuciSource],
        reader: Callable[[], Datastore | None],
        writer: Callable[[], Datastore | None],
    ) -> None:
        self.problem = f"{ACCESS_FILE} has not been read yet"
        self._source = source
        self._reader = reader
        self._writer = writer
        self._policy = AccessPolicy()
        self._file: ConfigFile | None = None
        self._kept = ""

    @property
    def missing(self) -> str:
        """Why nobody may do anything, because no access.cfg is known; "" when one is."""
        return self.problem if self._file is None else ""

    def policy(self) -> AccessPolicy:
        """Who may do what; nobody until an access.cfg is known."""
        return self._policy

    async def watch(self) -> None:
        """Reads new revisions; what is invalid leaves the last good one in force."""
        while True:
            await self.look()
            await asyncio.sleep(RETRY_SECONDS if self._file is None else LOOK_SECONDS)

    async def look(self) -> None:
        """Reads the present revision, if it is a new one."""
        unusable = await self._recall() if self._file is None else ""
        known = self._file.revision if self._file is not None else None
        try:
            found = await read_access(self._source(), known)
        except BackendError as error:
            self._note("; ".join(filter(None, (str(error), unusable))))
        else:
            self.problem = ""
            if found is not None:
                self._file, self._policy = found
                log.info(
                    "machine_provider.access_read",
                    groups=len(self._policy.groups),
                    revision=self._file.revision,
                )
        await self._keep()

    async def _recall(self) -> str:
        """Uses what an earlier process kept, until LUCI Config answers.

        Returns:
            Why that cannot be used; "" when it can, or when nothing is kept.
        """
        store = self._reader()
        if store is None:
            return ""
        try:
            row = (await store.lookup([KEPT_PATH])).get(KEPT_PATH)
            if row is None:
                return ""
            revision, text = row.properties.get("revision"), row.properties.get("text")
            if not isinstance(revision, str) or not isinstance(text, Unindexed):
                return f"the kept {ACCESS_FILE} cannot be understood"
            kept = ConfigFile(revision, str(text.value))
            self._policy = await off_loop(lambda: parse_access(kept.text), len(kept.text))
        except BackendError as error:
            return f"the kept {ACCESS_FILE} cannot be used: {error}"
        self._file, self._kept = kept, kept.revision
        return ""

    async def _keep(self) -> None:
        """Stores the file in force, where this process leads."""
        store, file = self._writer(), self._file
        if store is None or file is None or file.revision == self._kept:
            return

        async def work(transaction: Transaction) -> None:
            text = Unindexed(file.text)
            transaction.upsert(KEPT_PATH, {"revision": file.revision, "text": text})

        try:
            await store.transaction(work)
        except BackendError as error:  # the next look tries again
            log.warning("machine_provider.access_not_kept", error=str(error))
        else:
            self._kept = file.revision

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.error("machine_provider.access_invalid", error=problem)
        self.problem = problem


def config_service(
    settings: ProviderSettings,
    session: aiohttp.ClientSession,
    tokens: TokenSource,
    observer: CallObserver | None = None,
) -> LuciSource:
    """The client of the LUCI Config service that the settings name.

    Args:
        tokens: tokens that identify the caller, for this service alone.

    Raises:
        SettingsError: its address is not usable.
    """
    kind = LuciConfigV1 if settings.access_source == "luci-v1" else LuciConfigV2
    return kind(
        session=session,
        tokens=tokens,
        hostname_url=settings.access_service,
        config_set=settings.access_config_set,
        observer=observer,
    )


async def read_access(
    source: LuciSource, known: str | None = None
) -> tuple[ConfigFile, AccessPolicy] | None:
    """The present access.cfg of a config set, and what it says; None when it is `known`.

    Raises:
        InvalidConfigurationError: it is invalid; the error lists every problem.
        BackendError: it cannot be read.
    """
    found = await source.fetch_file(ACCESS_FILE, known)
    if found is None:
        return None
    return found, await off_loop(lambda: parse_access(found.text), len(found.text))


async def present_access(
    settings: ProviderSettings, session: aiohttp.ClientSession, tokens: TokenSource
) -> AccessPolicy:
    """What the access.cfg that the settings name says now, from a file or from LUCI Config.

    Args:
        tokens: as for `config_service`.

    Raises:
        InvalidConfigurationError: it is invalid; the error lists every problem.
        BackendError: the settings do not name it, or it cannot be read.
    """
    if settings.access_source == "file":
        return AccessFile.named_by(settings).policy()
    found = await read_access(config_service(settings, session, tokens))
    return found[1] if found is not None else AccessPolicy()


def address_of(settings: ProviderSettings) -> str:
    """Where access.cfg comes from, for people."""
    if settings.access_source == "file":
        return str(settings.access)
    return f"{ACCESS_FILE} of {settings.access_config_set} at {settings.access_service}"
