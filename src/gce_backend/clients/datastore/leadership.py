"""Leader election: one of several processes works, and two of them can never write.

It uses two entities. `heartbeat` names the leader and changes every few seconds; a standby process
that sees it stop takes over. `epoch` is a number that rises with each takeover, and every commit of
the leader reads it: a process that was presumed dead and wakes up can no longer write. Each process
measures durations on its own clock, so clocks of different machines need not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError, LeadershipLostError, SchemaError
from gce_backend.base.tasks import first_of
from gce_backend.clients.datastore.client import Datastore, Transaction
from gce_backend.clients.datastore.terms import EPOCH, KIND, Term, number
from gce_backend.clients.datastore.values import Path, Row

HEARTBEAT: Path = ((KIND, "heartbeat"),)
BEATS = 4
"""Heartbeats in the time after whose silence another process takes over."""
LOOKS = 10
"""Looks of a standby process in that time."""

log = structlog.stdlib.get_logger()


class Leadership:
    """Takes over, leads and stands by.

    Args:
        datastore: the namespace that only one process may write to.
        me: the name of this process in the logs of the others.
        takeover_seconds: seconds without a heartbeat before this process takes over; 0 when no
            other process can use the namespace: it takes over at once, without heartbeats.
        able: checks, before this process takes over, that it understands the store; if it raises
            SchemaError, this process stands by, so that another one can take over.

    Attributes:
        term: of this process; None while it stands by.
        holder: the leader, as last seen; "" when there is none.
        error: why the leader is unknown, or why this process cannot lead; else "".
    """

    def __init__(
        self,
        datastore: Datastore,
        clock: Clock,
        *,
        me: str,
        takeover_seconds: float,
        able: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.term: Term | None = None
        self.holder = ""
        self.error = ""
        self._datastore = datastore
        self._clock = clock
        self._me = me
        self._takeover = takeover_seconds
        self._able = able
        self._beats = 0
        self._shown_at = float("-inf")  # when this process last told the others that it leads

    async def run(
        self,
        work: Callable[[Term], Awaitable[None]],
        meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Works whenever this process leads, until it is cancelled.

        Args:
            work: the work of the leader; cancelled when the term ends.
            meanwhile: the work of a standby process; cancelled when a term begins.
        """
        while True:
            if meanwhile is None:
                term = await self._stand_by()
            else:
                won: list[Term] = []

                async def waiting(won: list[Term] = won) -> None:
                    won.append(await self._stand_by())

                await first_of(waiting(), meanwhile())
                [term] = won
            if self._takeover:
                log.info("leadership.took_over", epoch=term.epoch, process=self._me)
            self.term, self.holder = term, self._me

            async def working(term: Term = term) -> None:
                await work(term)

            try:
                await first_of(self._keep(term), working())
            except* LeadershipLostError:  # alone, or in the group of a TaskGroup
                pass
            self.term = None
            log.warning("leadership.stands_by", epoch=term.epoch, process=self._me)

    def assure(self) -> None:
        """Checks that this process leads; call it before a request that has an effect.

        Raises:
            LeadershipLostError: it does not lead, or another process may have taken over.
        """
        if self.term is None or not self._is_current():
            raise LeadershipLostError("this process does not lead now")

    async def release(self) -> None:
        """Lets another process take over at once; call it when the work has ended."""
        term, self.term = self.term, None
        if term is None or not self._takeover:
            return

        async def work(transaction: Transaction) -> None:
            term.check(await transaction.lookup([EPOCH]))
            transaction.upsert(HEARTBEAT, {"holder": "", "count": 0})

        try:
            await self._datastore.transaction(work)
        except BackendError as error:
            log.warning("leadership.not_released", error=str(error), process=self._me)

    async def _stand_by(self) -> Term:
        """Waits until there is no leader, and takes over."""
        seen: tuple[str, int] | None = None
        seen_at = self._clock.monotonic()
        while True:
            try:
                rows = await self._datastore.lookup([HEARTBEAT])
                found = _beat_of(rows.get(HEARTBEAT))
                self.holder = found[0] if self._takeover else ""
                if found != seen:
                    seen, seen_at = found, self._clock.monotonic()
                still = self._clock.monotonic() - seen_at >= self._takeover
                free = not found[0] or still
                self.error = await self._unable() if free else ""
                if free and not self.error:
                    term = await self._take_over(found)
                    if term is not None:
                        return term
            except BackendError as error:
                self.error = str(error)
                seen = None  # nothing was seen in the meantime
                log.warning("leadership.unknown", error=self.error)
            await asyncio.sleep(self._takeover / LOOKS or 0.5)

    async def _unable(self) -> str:
        """Why this process must not take over, which is logged once; "" when it may."""
        try:
            if self._able is not None:
                await self._able()
        except SchemaError as error:
            if str(error) != self.error:
                log.error("leadership.unable", error=str(error), process=self._me)
            return str(error)
        return ""

    async def _take_over(self, seen: tuple[str, int]) -> Term | None:
        """Begins a term; None when another process was faster or the former leader is back."""

        async def work(transaction: Transaction) -> Term | None:
            rows = await transaction.lookup([EPOCH, HEARTBEAT])
            if _beat_of(rows.get(HEARTBEAT)) != seen:
                return None
            epoch = number(rows.get(EPOCH), "epoch") + 1
            transaction.upsert(EPOCH, {"epoch": epoch})
            transaction.upsert(HEARTBEAT, {"holder": self._me, "count": 1})
            return Term(epoch)

        self._beats = 1
        self._shown_at = self._clock.monotonic()
        return await self._datastore.transaction(work)

    async def _keep(self, term: Term) -> None:
        """Sends heartbeats; returns when this process must stop working."""
        if not self._takeover:
            await asyncio.Event().wait()
        while self._is_current():
            await asyncio.sleep(self._takeover / BEATS)
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
                log.warning("leadership.no_heartbeat", error=str(error), process=self._me)
            else:
                self._shown_at = begun

    def _is_current(self) -> bool:
        """Whether no other process can have taken over yet."""
        return not self._takeover or self._clock.monotonic() - self._shown_at < self._takeover


def _beat_of(row: Row | None) -> tuple[str, int]:
    holder = row.properties.get("holder") if row is not None else ""
    return holder if isinstance(holder, str) else "", number(row, "count")
