"""The consumer: pulls the Machine Provider's messages into a queue, and extends their leases.

A message stays leased from Pub/Sub until a job reports that its effect is durable. It is then
acknowledged, with others, in one call. At shutdown, the messages in the queue are returned at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import NotFoundError, RemoteError
from gce_backend.clients.pubsub import PubSub, Received

ACK_BATCH = 1000
T = TypeVar("T")
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
FIRST_EXTENSION = 3.0
"""Seconds before the first extension: a subscription's own deadline may be as short as ten."""
FIRST_IDLE = 0.05
LONGEST_IDLE = 1.0
"""Seconds until the next pull after one that was answered at once without a message."""
LOOK_SECONDS = 1.0


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The internal queue as the API shows it.

    Attributes:
        subscription: the name of the subscription.
        waiting: messages that wait for the job.
        working: messages that the job is processing.
        oldest_seconds: how long ago the oldest of them came; 0 when there are none.
        problem: why nothing can be pulled, and the remedy; "" while pulling works.
        retry_seconds: seconds until it is pulled again after a failure; 0 when that is now.
    """

    subscription: str
    waiting: int
    working: int
    oldest_seconds: float
    problem: str
    retry_seconds: float = 0.0


class Consumer:
    """A continuous pull from one subscription.

    Args:
        subscription: its name.
        max_messages: messages per pull.
        queue_size: messages in hand at most.
        ack_deadline: seconds for which a delivery is leased, again and again while it is in work.
        arrived: called when messages have come.

    Attributes:
        problem: why nothing can be pulled now, and the remedy; "" while pulling works.
    """

    def __init__(
        self,
        client: PubSub,
        subscription: str,
        *,
        clock: Clock,
        max_messages: int,
        queue_size: int,
        ack_deadline: int,
        arrived: Callable[[], None],
    ) -> None:
        self._client = client
        self._name = client.subscription(subscription)
        self._clock = clock
        self._max_messages = max_messages
        self._queue_size = queue_size
        self._ack_deadline = ack_deadline
        self._arrived = arrived
        self._waiting: dict[str, Received] = {}  # by ack id, in order of arrival
        self._working: dict[str, Received] = {}
        self._arrived_at: dict[str, float] = {}  # of all in hand; monotonic
        self._extend_at: dict[str, float] = {}  # the same
        self._room = asyncio.Event()
        self._came = asyncio.Event()
        self._log = structlog.get_logger()
        self._pulling: asyncio.Task[None] | None = None
        self._pull_at = float("-inf")  # after a failure; monotonic
        self.problem = ""

    def status(self) -> QueueStatus:
        """How the queue is now."""
        now = self._clock.monotonic()
        return QueueStatus(
            subscription=self._name,
            waiting=len(self._waiting),
            working=len(self._working),
            oldest_seconds=now - min(self._arrived_at.values(), default=now),
            problem=self.problem,
            retry_seconds=max(0.0, self._pull_at - now) if self.problem else 0.0,
        )

    async def run(self) -> None:
        """Pulls and extends, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._pulling = group.create_task(self._pull(), name="pubsub.pull")
            group.create_task(self._extend(), name="pubsub.extend")

    def stop_pulling(self) -> None:
        """Pulls no more; what is in hand stays there until `return_all`."""
        if self._pulling is not None:
            self._pulling.cancel()

    def take(self, limit: int) -> list[Received]:
        """Takes messages to work on; each must come back through `acknowledge` or `give_back`."""
        taken = list(self._waiting.values())[:limit]
        for message in taken:
            del self._waiting[message.ack_id]
            self._working[message.ack_id] = message
        return taken

    async def acknowledge(self, messages: Sequence[Received]) -> None:
        """Acknowledges messages whose effect is durable.

        An acknowledgement that is lost costs a redelivery, which changes nothing.
        """
        self._forget(messages)
        for batch in _batches(messages):
            try:
                await self._client.acknowledge(self._name, [m.ack_id for m in batch])
            except RemoteError as error:
                self._log.warning("message.ack_failed", messages=len(batch), error=str(error))

    def give_back(self, messages: Iterable[Received]) -> None:
        """Puts messages back into the queue: they are processed again, without another delivery."""
        returned = {message.ack_id: message for message in messages}
        for ack_id in returned:
            self._working.pop(ack_id, None)
        self._waiting = {**returned, **self._waiting}

    async def return_all(self) -> None:
        """Returns all messages to Pub/Sub, so that the next process gets them at once."""
        messages = [*self._waiting.values(), *self._working.values()]
        for held in (self._waiting, self._working, self._arrived_at, self._extend_at):
            held.clear()
        for batch in _batches(messages):
            try:
                ids = [message.ack_id for message in batch]
                await self._client.modify_ack_deadline(self._name, ids, 0)
            except RemoteError as error:
                self._log.warning("message.return_failed", messages=len(batch), error=str(error))

    def _forget(self, messages: Iterable[Received]) -> None:
        for message in messages:
            for held in (self._working, self._arrived_at, self._extend_at):
                held.pop(message.ack_id, None)
        self._room.set()

    async def _pull(self) -> None:
        pause = FIRST_PAUSE
        idle = 0.0
        while True:
            room = await self._wait_for_room()
            asked = self._clock.monotonic()
            try:
                messages = await self._client.pull(self._name, min(room, self._max_messages))
            except RemoteError as error:
                self._fail(error)
                wait = max(pause, error.retry_after or 0.0)
                self._pull_at = self._clock.monotonic() + wait
                await asyncio.sleep(wait)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if self.problem:
                self._log.info("subscription.recovered", subscription=self._name)
                self.problem = ""
            if messages:
                idle = 0.0
                self._hold(messages)
                self._arrived()
            elif self._clock.monotonic() - asked < LONGEST_IDLE:  # it did not wait for messages
                idle = min(2 * idle or FIRST_IDLE, LONGEST_IDLE)
                await asyncio.sleep(idle)

    def _hold(self, messages: Iterable[Received]) -> None:
        now = self._clock.monotonic()
        for message in messages:
            self._waiting[message.ack_id] = message
            self._arrived_at[message.ack_id] = now
            self._extend_at[message.ack_id] = now + FIRST_EXTENSION
        self._came.set()

    async def _wait_for_room(self) -> int:
        while True:
            room = self._queue_size - len(self._waiting) - len(self._working)
            if room > 0:
                return room
            self._room.clear()
            await self._room.wait()

    def _fail(self, error: RemoteError) -> None:
        problem = str(error)
        if isinstance(error, NotFoundError):
            problem = f"there is no subscription {self._name}: create it with `gce-backend setup`"
        if problem != self.problem:
            self._log.error("subscription.failing", subscription=self._name, error=problem)
        self.problem = problem

    async def _extend(self) -> None:
        while True:
            if not self._extend_at:
                self._came.clear()
                await self._came.wait()
            await asyncio.sleep(LOOK_SECONDS)
            now = self._clock.monotonic()
            due = [ack_id for ack_id, at in self._extend_at.items() if at <= now]
            for batch in _batches(due):
                pause = self._ack_deadline / 3
                try:
                    await self._client.modify_ack_deadline(
                        self._name, list(batch), self._ack_deadline
                    )
                except RemoteError as error:  # they are delivered again, which changes nothing
                    self._log.warning(
                        "message.extend_failed", messages=len(batch), error=str(error)
                    )
                    pause = FIRST_EXTENSION
                still = [ack_id for ack_id in batch if ack_id in self._extend_at]
                self._extend_at.update(dict.fromkeys(still, now + pause))


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), ACK_BATCH):
        yield items[start : start + ACK_BATCH]
