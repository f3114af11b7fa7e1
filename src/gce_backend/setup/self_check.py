"""The running daemon's self-check: it finds, now and then, what `doctor` would find.

It makes the checks of `setup` and `doctor` on topic, subscription, permissions and addresses, and
looks for a second daemon on the store. A problem is a condition, which documents and pages show,
and makes `/readyz` fail. A check that cannot be made proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple, NoReturn

from gce_backend.base.errors import (
    AbortedError,
    AlreadyExistsError,
    BackendError,
    NotFoundError,
)
from gce_backend.clients.pubsub import PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.engine.context import SELF_CHECK, Context
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import DAEMONS_KEY, Daemons
from gce_backend.rules import presence
from gce_backend.setup.messaging import DEAD_LETTER_SUFFIX, Done, provision_messages
from gce_backend.setup.permissions import COMPUTE, DATASTORE
from gce_backend.setup.project import Addresses, check_permissions, judge

LOOK_SECONDS = 600.0
"""Seconds between two looks, on average."""
SOON_SECONDS = 60.0
"""The same while something is wrong, and until the first look."""
PATIENCE_SECONDS = 30.0
"""Seconds that each part of a look may take."""

WRONG = frozenset({"missing", "wrong", "would make"})
"""Outcomes with which the daemon cannot do all of its work."""


class _Part(NamedTuple):
    """A part of a look.

    Attributes:
        subject: what `/readyz` calls it.
        reason: the reason of its condition.
        look: returns the problems, one text for each.
    """

    subject: str
    reason: str
    look: Callable[[], AsyncIterator[str]]


class SelfCheck:
    """Checks what the daemon depends on.

    Args:
        context: the daemon's context.
        store: where it stores its sign of life.
        pubsub: of the daemon's project.
        resource_manager: lists the daemon's permissions.
        process: an id of this process.
        url: where the daemon listens.
    """

    def __init__(
        self,
        context: Context,
        *,
        store: Store,
        pubsub: PubSub,
        resource_manager: ResourceManager,
        process: str,
        url: str,
    ) -> None:
        self._context = context.of_job(SELF_CHECK)
        self._log = context.log
        self._store = store
        self._pubsub = pubsub
        self._resource_manager = resource_manager
        self._process = process
        self._where = f"{socket.gethostname()}, process {os.getpid()}, {url}"
        self._before: Daemons | None = None
        self._parts = (
            _Part("messages", "MessagesCutOff", self._messages),
            _Part("permissions", "PermissionMissing", self._permissions),
            _Part("addresses", "AddressRefused", self._addresses),
            _Part("alone", "SecondDaemon", self._second_daemon),
        )

    async def run(self) -> NoReturn:
        """Looks now and then, until cancelled."""
        wait = SOON_SECONDS
        while True:
            await asyncio.sleep(wait * self._context.rng.uniform(0.9, 1.1))
            await self.look()
            wait = SOON_SECONDS if self._context.conditions.mine() else LOOK_SECONDS

    async def look(self) -> None:
        """Looks at all parts, one after the other; each stands alone."""
        for part in self._parts:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    wrong = [text async for text in part.look()]
            except (BackendError, TimeoutError) as error:
                self._log.warning(
                    "self_check.blind", subject=part.subject, error=str(error) or "no answer"
                )
                continue
            self._tell(part, wrong)

    async def end(self) -> None:
        """Removes the sign of life, because the daemon stops."""
        if self._before is None:
            return
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS / 10):
                await self._change(lambda known: presence.gone(known, self._process))

    def _tell(self, part: _Part, wrong: Iterable[str]) -> None:
        message = "; ".join(wrong)
        if not message:
            self._context.conditions.clear(part.subject)
        elif self._context.conditions.note(part.subject, part.reason, message):
            self._log.error(
                "self_check.failing", subject=part.subject, reason=part.reason, error=message
            )

    async def _messages(self) -> AsyncIterator[str]:
        settings = self._context.settings
        async for step in provision_messages(self._pubsub, settings, dry_run=True):
            dead = DEAD_LETTER_SUFFIX in step.what  # without it messages are pulled all the same
            if step.outcome in WRONG and not dead:
                yield _said(step)

    async def _permissions(self) -> AsyncIterator[str]:
        wanted: dict[tuple[str, str], tuple[str, ...]] = {
            (self._context.project, "datastore"): DATASTORE
        }
        for _, revision in self._context.fleet.active_revisions():
            wanted[revision.template.project, "compute"] = COMPUTE
        for (project, service), names in sorted(wanted.items()):
            step = await check_permissions(self._resource_manager, project, service, names)
            if step.outcome in WRONG:
                yield _said(step)

    async def _addresses(self) -> AsyncIterator[str]:
        fleet = self._context.fleet
        stored = Addresses(
            fleet.configuration.config_set,
            fleet.config_settings.service_hostname,
            fleet.machine_provider.instance_url,
        )
        for step in judge(self._context.settings, stored, Addresses(), dry_run=True):
            if step.outcome in WRONG:
                yield _said(step)

    async def _second_daemon(self) -> AsyncIterator[str]:
        now = self._context.clock.now()

        def beat(known: Daemons) -> Daemons:
            if presence.is_alone(known, self._process):
                return known
            return presence.beaten(known, self._process, self._where, now)

        found = await self._change(beat)
        before, self._before = self._before, found
        for where in presence.others(before, found, self._process):
            yield f"another daemon works on this store: {where}. Stop one of the two"

    async def _change(self, apply: Callable[[Daemons], Daemons]) -> Daemons:
        """Changes the signs of life; retries when another daemon writes at the same time."""
        while True:
            stored = (await self._store.read([DAEMONS_KEY])).get(DAEMONS_KEY)
            known = stored.entity if stored is not None else None
            found = apply(known if isinstance(known, Daemons) else Daemons())
            base = stored.version if stored is not None else None
            if found == known:
                return found
            with contextlib.suppress(AbortedError, AlreadyExistsError, NotFoundError):
                await self._store.write([Write(DAEMONS_KEY, found, base)])
                return found


def _said(step: Done) -> str:
    if step.outcome == "would make":
        return f"there is no {step.what}: `gce-backend setup` makes it"
    return f"{step.what}: {step.remedy}"
