"""Client of a webhook: a bounded queue of bodies, which one task sends one after the other."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gce_backend.base.clock import Clock
from gce_backend.base.errors import MalformedResponseError, RemoteError, TransientError
from gce_backend.clients.error_table import ErrorTable
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest
from gce_backend.clients.retry import Backoff

if TYPE_CHECKING:  # heavy
    from structlog.typing import FilteringBoundLogger

METHOD = "webhook.post"
SIGNATURE = "GCE-Backend-Signature"
MAX_WAITING = 1000
"""Bodies that wait; beyond that, the oldest is dropped."""
MAX_ANSWER_BYTES = 2**16
TIMEOUT = Deadlines(total=15.0, connect=5.0)
BACKOFF = Backoff(first=1.0, cap=120.0)
GIVE_UP_SECONDS = 3600.0
"""How long one body is tried."""
_ERRORS = ErrorTable({}, {})


class _Body(NamedTuple):
    """What waits, and who is told of its end."""

    body: bytes
    done: Callable[[], None]


class Webhook:
    """Sends bodies to one address; nobody waits for it.

    Args:
        exchange: sends requests.
        url: the address.
        key: signs the bodies; None does not.
        name: of the webhook, for log and metrics.
        counted: notified of what became of a body: `sent`, `dropped`, `refused`, `expired`.
        waits: notified of how many bodies wait, the one that is being sent included.
        retried: notified of every repetition, with its method.
        rng: jitter.
    """

    def __init__(
        self,
        exchange: Exchange,
        url: str,
        *,
        key: str | None,
        name: str,
        clock: Clock,
        rng: random.Random,
        log: FilteringBoundLogger,
        counted: Callable[[str, str], None],
        waits: Callable[[str, int], None],
        retried: Callable[[str], None],
    ) -> None:
        self._exchange = exchange
        self._url = url
        self._key = key
        self._name = name
        self._clock = clock
        self._rng = rng
        self._log = log
        self._counted = counted
        self._waits = waits
        self._retried = retried
        self._waiting: deque[_Body] = deque()
        self._sending = 0
        self._arrived = asyncio.Event()
        self._failing = False

    def offer(self, body: bytes, done: Callable[[], None] = lambda: None) -> None:
        """Puts a body at the end of the queue.

        Args:
            body: what is sent.
            done: called when nothing more is tried with it, whatever became of it.
        """
        if len(self._waiting) >= MAX_WAITING:
            dropped = self._waiting.popleft()
            self._lost("dropped", f"more than {MAX_WAITING} wait")
            dropped.done()
        self._waiting.append(_Body(body, done))
        self._arrived.set()
        self._tell_waiting()

    async def run(self) -> NoReturn:
        """Sends what is in the queue, until it is cancelled."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                body, done = self._waiting.popleft()
                self._sending = 1
                await self._deliver(body)
                self._sending = 0
                done()
                self._tell_waiting()
            self._arrived.clear()

    async def _deliver(self, body: bytes) -> None:
        until = self._clock.monotonic() + GIVE_UP_SECONDS
        tries = 0
        while (error := await self._send(body)) is not None:
            if not isinstance(error, TransientError):
                self._lost("refused", str(error))
                return
            if self._clock.monotonic() >= until:
                self._lost("expired", str(error))
                return
            if not self._failing:
                self._failing = True
                self._log.warning("webhook.failing", webhook=self._name, error=str(error))
            tries += 1
            self._retried(METHOD)
            await asyncio.sleep(max(BACKOFF.delay(tries, self._rng), error.retry_after or 0.0))
        if self._failing:
            self._failing = False
            self._log.info("webhook.works", webhook=self._name)
        self._counted(self._name, "sent")

    async def _send(self, body: bytes) -> RemoteError | None:
        """Sends a body once; returns why that failed."""
        headers = {"Content-Type": "application/json", "User-Agent": "gce-backend"}
        if self._key is not None:
            at = str(int(self._clock.now()))
            headers[SIGNATURE] = f"t={at},v1={signature(self._key, at, body)}"
        request = HttpRequest(METHOD, "POST", self._url, TIMEOUT, MAX_ANSWER_BYTES, headers, body)
        try:
            answer = await self._exchange.send(request, None)
        except MalformedResponseError:  # a success whose words nobody needs
            return None
        except TransientError as error:
            return error
        return None if 200 <= answer.status < 300 else _ERRORS.error(METHOD, answer)

    def _lost(self, outcome: str, why: str) -> None:
        self._log.error("webhook.lost", webhook=self._name, outcome=outcome, error=why)
        self._counted(self._name, outcome)

    def _tell_waiting(self) -> None:
        self._waits(self._name, len(self._waiting) + self._sending)


def signature(key: str, at: str, body: bytes) -> str:
    """The signature of a body: HMAC-SHA256 of the time, a dot and the body, in hexadecimal digits.

    Args:
        key: the shared secret.
        at: when it is sent, Unix seconds as text.
    """
    return hmac.new(key.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
