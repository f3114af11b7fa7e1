"""The messages of each subscription, and the leases on those that it has delivered."""

from __future__ import annotations

import asyncio
import heapq
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.statuses import invalid
from gce_backend.localcloud.tables import Tables

CLEAR_SECONDS = 60.0
"""Seconds between two removals of messages that are too old."""

_ACK_ID = re.compile(r"(\d+)-(\d+)", re.ASCII)


class Pending(msgspec.Struct):
    """A message that a subscription keeps.

    Attributes:
        message: its JSON PubsubMessage.
        published: Unix time.
        attempts: how often it was delivered.
        leased_until: Unix time at which its lease ends; 0 when it waits for delivery.
        resting: whether it waits until then because a delivery failed, and nobody has it.
        acknowledged: whether it is kept only for a seek.
    """

    message: dict[str, Any]
    published: UnixSeconds
    attempts: int = 0
    leased_until: UnixSeconds = 0.0
    resting: bool = False
    acknowledged: bool = False


class Delivery(NamedTuple):
    """A delivered message."""

    ack_id: str
    pending: Pending


class _Lease(NamedTuple):
    until: float
    subscription: str
    id: str
    attempts: int


class Backlog:
    """One subscription's messages.

    Attributes:
        ready: the ids of messages to deliver, oldest first; some may be gone.
        ids: the ids of all messages, in the order of their publication.
        unacknowledged: how many of these are not acknowledged.
        cleared: Unix time of the last removal of messages that were too old.
        stirred: set when waiting pulls must look again.
    """

    def __init__(self) -> None:
        self.ready: deque[str] = deque()
        self.ids: dict[str, None] = {}
        self.unacknowledged = 0
        self.cleared = 0.0
        self.stirred = asyncio.Event()


class Deliveries:
    """The backlogs of all subscriptions; kept in one table, so that leases survive a restart.

    Args:
        tables: where they live.
        subscriptions: the names of all subscriptions.
    """

    def __init__(self, tables: Tables, subscriptions: Iterable[str]) -> None:
        self._rows = tables.table("pubsub.pending", Pending)
        self._backlogs = {name: Backlog() for name in subscriptions}
        self._leases: list[_Lease] = []
        for key, pending in self._rows.items():
            subscription, _, message_id = key.rpartition("/")
            backlog = self._backlogs[subscription]
            backlog.ids[message_id] = None
            backlog.unacknowledged += not pending.acknowledged
            if pending.leased_until:
                self._lease(subscription, message_id, pending)
            elif not pending.acknowledged:
                backlog.ready.append(message_id)

    def open(self, subscription: str) -> None:
        """Begins an empty backlog."""
        self._backlogs[subscription] = Backlog()

    def drop(self, subscription: str) -> None:
        """Removes a backlog with its messages; pulls that wait for it look again."""
        backlog = self._backlogs.pop(subscription)
        for message_id in backlog.ids:
            del self._rows[f"{subscription}/{message_id}"]
        backlog.stirred.set()

    def backlog(self, subscription: str) -> Backlog:
        """A subscription's backlog."""
        return self._backlogs[subscription]

    def stir_all(self) -> None:
        """Lets every waiting pull look again."""
        for backlog in self._backlogs.values():
            backlog.stirred.set()

    def add(self, subscription: str, message: dict[str, Any], published: float) -> None:
        """Puts a message at the end of a backlog."""
        backlog, message_id = self._backlogs[subscription], message["messageId"]
        self._rows[f"{subscription}/{message_id}"] = Pending(message, published)
        backlog.ids[message_id] = None
        backlog.unacknowledged += 1
        backlog.ready.append(message_id)
        backlog.stirred.set()

    def take(
        self, subscription: str, *, most: int, now: UnixSeconds, seconds: float, oldest: float
    ) -> list[Delivery]:
        """Leases messages to a subscriber.

        Args:
            subscription: its name.
            most: how many at most.
            seconds: for how long.
            oldest: messages published earlier are dropped instead.
        """
        backlog = self._backlogs[subscription]
        if now >= backlog.cleared + CLEAR_SECONDS:
            backlog.cleared = now
            self._drop_older(subscription, oldest)
        taken: list[Delivery] = []
        while backlog.ready and len(taken) < most:
            message_id = backlog.ready.popleft()
            pending = self._rows.get(f"{subscription}/{message_id}")
            if pending is None:
                continue  # it became too old while it waited
            if pending.published < oldest:
                self._remove(subscription, message_id)
                continue
            pending.attempts += 1
            pending.leased_until = now + seconds
            self._rows[f"{subscription}/{message_id}"] = pending
            self._lease(subscription, message_id, pending)
            taken.append(Delivery(f"{message_id}-{pending.attempts}", pending))
        return taken

    def acknowledge(
        self, subscription: str, ack_ids: Iterable[str], now: UnixSeconds, *, keep: bool
    ) -> None:
        """Acknowledges messages whose lease lasts; other ack ids are ignored.

        Args:
            subscription: whose.
            ack_ids: what was given out with them.
            keep: whether they can be sought again.
        """
        for message_id, pending in self._leased(subscription, ack_ids, now):
            self._acknowledge(subscription, message_id, pending, keep=keep)

    def _acknowledge(
        self, subscription: str, message_id: str, pending: Pending, *, keep: bool
    ) -> None:
        if not keep:
            self._remove(subscription, message_id)
        elif not pending.acknowledged:
            pending.acknowledged, pending.resting, pending.leased_until = True, False, 0.0
            self._rows[f"{subscription}/{message_id}"] = pending
            self._backlogs[subscription].unacknowledged -= 1

    def seek(self, subscription: str, time: UnixSeconds, *, keep: bool) -> None:
        """Acknowledges the messages that were published before a time, and no later ones.

        Args:
            subscription: whose.
            keep: whether acknowledged messages can be sought again.
        """
        backlog = self._backlogs[subscription]
        backlog.ready.clear()
        for message_id in list(backlog.ids):
            key = f"{subscription}/{message_id}"
            pending = self._rows[key]
            if pending.published < time:
                self._acknowledge(subscription, message_id, pending, keep=keep)
                continue
            if pending.acknowledged:
                pending.acknowledged = False
                self._rows[key] = pending
                backlog.unacknowledged += 1
            if not pending.leased_until:
                backlog.ready.append(message_id)
        backlog.stirred.set()

    def _drop_older(self, subscription: str, oldest: float) -> None:
        old = takewhile(
            lambda message_id: self._rows[f"{subscription}/{message_id}"].published < oldest,
            self._backlogs[subscription].ids,
        )
        for message_id in list(old):
            self._remove(subscription, message_id)

    def clear(self, subscription: str) -> None:
        """Empties a backlog; waiting pulls look again."""
        self.drop(subscription)
        self.open(subscription)

    def extend(
        self, subscription: str, ack_ids: Iterable[str], now: UnixSeconds, seconds: float
    ) -> None:
        """Makes running leases end this many seconds from now."""
        for message_id, pending in self._leased(subscription, ack_ids, now):
            pending.leased_until = now + seconds
            self._rows[f"{subscription}/{message_id}"] = pending
            self._lease(subscription, message_id, pending)

    def next_end(self) -> float | None:
        """When the next lease may end (Unix time); None when there are none."""
        return self._leases[0].until if self._leases else None

    def end_leases(
        self,
        now: UnixSeconds,
        bury: Callable[[str, Pending], bool],
        rest: Callable[[str, Pending], float],
    ) -> bool:
        """Puts messages whose lease has ended back into their backlogs.

        Args:
            bury: returns whether it took the message as a dead letter.
            rest: returns for how many seconds a message is not delivered.

        Returns:
            Whether a lease has ended.
        """
        any_ended = False
        while self._leases and self._leases[0].until <= now:
            lease = heapq.heappop(self._leases)
            key = f"{lease.subscription}/{lease.id}"
            pending = self._rows.get(key)
            if pending is None or lease[:1] + lease[3:] != (pending.leased_until, pending.attempts):
                continue  # acknowledged, extended or shortened since
            any_ended = True
            if bury(lease.subscription, pending):
                self._remove(lease.subscription, lease.id)
                continue
            pause = 0.0 if pending.resting else rest(lease.subscription, pending)
            pending.resting = pause > 0
            pending.leased_until = now + pause if pause else 0.0
            self._rows[key] = pending
            if pending.resting:
                self._lease(lease.subscription, lease.id, pending)
                continue
            backlog = self._backlogs[lease.subscription]
            backlog.ready.append(lease.id)
            backlog.stirred.set()
        return any_ended

    def _leased(
        self, subscription: str, ack_ids: Iterable[str], now: UnixSeconds
    ) -> Iterator[tuple[str, Pending]]:
        for ack_id in ack_ids:
            match = _ACK_ID.fullmatch(ack_id)
            if match is None:
                raise invalid(f"You have passed an invalid ack ID to the service: {ack_id!r}.")
            pending = self._rows.get(f"{subscription}/{match[1]}")
            if pending is None or pending.resting or pending.leased_until <= now:
                continue
            if str(pending.attempts) == match[2]:
                yield match[1], pending

    def _lease(self, subscription: str, message_id: str, pending: Pending) -> None:
        lease = _Lease(pending.leased_until, subscription, message_id, pending.attempts)
        heapq.heappush(self._leases, lease)

    def _remove(self, subscription: str, message_id: str) -> None:
        pending = self._rows.pop(f"{subscription}/{message_id}")
        backlog = self._backlogs[subscription]
        del backlog.ids[message_id]
        backlog.unacknowledged -= not pending.acknowledged
