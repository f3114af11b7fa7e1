"""Which of several processes works: one at a time, and never two that both may write.

Two entities. `heartbeat` names who works and changes every few seconds; who stands by and sees it
stand still takes over. `epoch` is a number that rises with each take-over and that every commit of
the work reads: a process that was thought dead and wakes up can no longer write. Durations are
measured here alone, so clocks of different machines need not agree.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError, LeadershipLostError
from gce_backend.base.tasks import first_of
from gce_backend.clients.datastore.client import Datastore, Path, Row, Transaction

KIND = "Leadership"
EPOCH: Path = ((KIND, "epoch"),)
HEARTBEAT: Path = ((KIND, "heartbeat"),)
TAKEOVER_SECONDS = 10.0
"""How long the heartbeat stands still before another takes over."""
BEATS = 4
"""Heartbeats in that time."""

log = structlog.stdlib.get_logger()


class Term(NamedTuple):
    """The time in which one process works.

    Attributes:
        epoch: its number.
    """

    epoch: int

    def check(self, rows: Mapping[Path, Row]) -> None:
        """Judges, within a transaction, whether this process still works.

        Args:
            rows: what the transaction read, `EPOCH` among it.

        Raises:
            LeadershipLostError: another one took over.
        """
        if _number(rows.get(EPOCH), "epoch") != self.epoch:
            raise LeadershipLostError("another process of this Machine Provider has taken over")


class Leadership:
    """Takes over, works and stands by.

    Args:
        datastore: the namespace that only one process may write.
        clock: the time.
        me: names this process, for the others' logs.
        takeover_seconds: how long the heartbeat stands still before this process takes over; 0
            where nobody else can have the namespace: it takes over at once, and has no heartbeat.

    Attributes:
        term: of this process; None while it stands by.
        holder: who works, as last seen; "" when nobody does.
        error: why that is not known; "" when it is.
    """

    def __init__(
        self,
        datastore: Datastore,
        clock: Clock,
        *,
        me: str,
        takeover_seconds: float = TAKEOVER_SECONDS,
    ) -> None:
        self.term: Term | None = None
        self.holder = ""
        self.error = ""
        self._datastore = datastore
        self._clock = clock
        self._me = me
        self._takeover = takeover_seconds
        self._pause = takeover_seconds / BEATS if takeover_seconds else 0.5
        self._beats = 0

    async def run(self, work: Callable[[Term], Awaitable[None]]) -> None:
        """Works whenever it is this process's turn, until it is cancelled.

        Args:
            work: what to do; cancelled when the turn ends.
        """
        while True:
            term = await self._stand_by()
            if self._takeover:
                log.info("machine_provider.took_over", epoch=term.epoch, process=self._me)
            self.term, self.holder = term, self._me

            async def working(term: Term = term) -> None:
                await work(term)

            with contextlib.suppress(LeadershipLostError):
                await first_of(self._keep(term), working())
            self.term = None
            log.warning("machine_provider.stands_by", epoch=term.epoch, process=self._me)

    async def release(self) -> None:
        """Lets another process take over at once; to be called when the work has ended."""
        term, self.term = self.term, None
        if term is None or not self._takeover:
            return

        async def work(transaction: Transaction) -> None:
            term.check(await transaction.lookup([EPOCH]))
            transaction.upsert(HEARTBEAT, {"holder": "", "count": 0})

        try:
            await self._datastore.transaction(work)
        except BackendError as error:
            log.warning("machine_provider.not_released", error=str(error), process=self._me)

    async def _stand_by(self) -> Term:
        """Waits until nobody works, and takes over."""
        seen: tuple[str, int] | None = None
        seen_at = self._clock.monotonic()
        while True:
            try:
                rows = await self._datastore.lookup([HEARTBEAT])
                self.error = ""
                found = _beat_of(rows.get(HEARTBEAT))
                self.holder = found[0] if self._takeover else ""
                if found != seen:
                    seen, seen_at = found, self._clock.monotonic()
                still = self._clock.monotonic() - seen_at >= self._takeover
                if not found[0] or still:
                    term = await self._take_over(found)
                    if term is not None:
                        return term
            except BackendError as error:
                self.error = str(error)
                seen = None  # nothing was seen in between
                log.warning("machine_provider.not_loaded", error=self.error)
            await asyncio.sleep(self._pause)

    async def _take_over(self, seen: tuple[str, int]) -> Term | None:
        """Begins a term; None when somebody else was faster, or the one that worked is back."""

        async def work(transaction: Transaction) -> Term | None:
            rows = await transaction.lookup([EPOCH, HEARTBEAT])
            if _beat_of(rows.get(HEARTBEAT)) != seen:
                return None
            epoch = _number(rows.get(EPOCH), "epoch") + 1
            transaction.upsert(EPOCH, {"epoch": epoch})
            transaction.upsert(HEARTBEAT, {"holder": self._me, "count": 1})
            return Term(epoch)

        self._beats = 1
        return await self._datastore.transaction(work)

    async def _keep(self, term: Term) -> None:
        """Shows that it works; returns when it must not work any longer."""
        if not self._takeover:
            await asyncio.Event().wait()
        shown_at = self._clock.monotonic()
        while self._clock.monotonic() - shown_at < self._takeover:
            await asyncio.sleep(self._pause)
            self._beats += 1

            async def work(transaction: Transaction, count: int = self._beats) -> None:
                term.check(await transaction.lookup([EPOCH]))
                transaction.upsert(HEARTBEAT, {"holder": self._me, "count": count})

            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._takeover):
                    await self._datastore.transaction(work)
            except LeadershipLostError:
                return
            except (BackendError, TimeoutError) as error:
                log.warning("machine_provider.no_heartbeat", error=str(error), process=self._me)
            else:
                shown_at = begun


def _beat_of(row: Row | None) -> tuple[str, int]:
    holder = row.properties.get("holder") if row is not None else ""
    return holder if isinstance(holder, str) else "", _number(row, "count")


def _number(row: Row | None, name: str) -> int:
    value = row.properties.get(name) if row is not None else 0
    return value if isinstance(value, int) else 0
