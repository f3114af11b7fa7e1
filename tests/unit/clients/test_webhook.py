"""The client of a webhook: order, signature, repetitions, and what it gives up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiohttp
import structlog
from aiohttp import web
from structlog.testing import LogCapture

from gce_backend.clients.exchange import Exchange
from gce_backend.clients.webhook import (
    GIVE_UP_SECONDS,
    MAX_WAITING,
    SIGNATURE,
    Webhook,
    signature,
)
from support.simulation import VirtualClock

KEY = "0123456789abcdef"


class Receiver:
    """An address that is told.

    Attributes:
        statuses: with which it answers, in turn; then with the last one.
        got: the bodies, in order.
        headers: of the last request.
        logs: what the webhook logs, at any level.
    """

    def __init__(self, statuses: Sequence[int]) -> None:
        self.statuses = list(statuses)
        self.got: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.logs = LogCapture()
        self.counted: Counter[str] = Counter()
        self.retries = 0
        self.waiting = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Notes a request."""
        self.got.append(await request.read())
        self.headers = dict(request.headers)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        headers = {"Location": "/elsewhere", **({"Retry-After": "40"} if status == 429 else {})}
        return web.Response(status=status, headers=headers)

    def count(self, _: str, outcome: str) -> None:
        """Notes an outcome."""
        self.counted[outcome] += 1

    def wait(self, _: str, waiting: int) -> None:
        """Notes how many wait."""
        self.waiting = waiting

    def retry(self, _: str) -> None:
        """Notes a repetition."""
        self.retries += 1


@contextlib.asynccontextmanager
async def told(*statuses: int, key: str | None = None) -> AsyncIterator[tuple[Receiver, Webhook]]:
    """A webhook that works, and its receiver."""
    receiver = Receiver(statuses)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = "http://{}:{}/hook?a=1".format(*runner.addresses[0])
    async with aiohttp.ClientSession() as session:
        webhook = Webhook(
            Exchange(session, None, None),
            receiver.url,
            key=key,
            name="json",
            clock=VirtualClock(),
            rng=random.Random(1),
            log=structlog.wrap_logger(
                None,
                processors=[receiver.logs],
                wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            ),
            counted=receiver.count,
            waits=receiver.wait,
            retried=receiver.retry,
        )
        task = asyncio.ensure_future(webhook.run())
        try:
            yield receiver, webhook
        finally:
            task.cancel()
            await asyncio.wait({task})
            await runner.cleanup()


async def test_bodies_arrive_in_order_and_signed() -> None:
    """A receiver can check who sent it, and when."""
    async with told(200, key=KEY) as (receiver, webhook):
        for number in range(3):
            webhook.offer(b'{"n": %d}' % number)
        await asyncio.sleep(5)
        assert receiver.got == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
        at, _, given = receiver.headers[SIGNATURE].removeprefix("t=").partition(",v1=")
        assert given == signature(KEY, at, b'{"n": 2}')
        assert receiver.headers["Content-Type"] == "application/json"
        assert receiver.counted == {"sent": 3}
        assert receiver.waiting == 0


async def test_a_failure_in_passing_is_repeated_and_told_once() -> None:
    """5xx, 429 with its wait; then the log says that it works again."""
    async with told(503, 503, 429, 204) as (receiver, webhook):
        webhook.offer(b"{}")
        await asyncio.sleep(30)
        assert len(receiver.got) == 3
        assert receiver.waiting == 1
        await asyncio.sleep(120)
        assert len(receiver.got) == 4
        assert (receiver.counted, receiver.retries) == ({"sent": 1}, 3)
        assert [line["event"] for line in receiver.logs.entries] == [
            "webhook.failing",
            "webhook.works",
        ]
        assert SIGNATURE not in receiver.headers


async def test_what_is_refused_is_not_repeated_and_no_redirect_is_followed() -> None:
    """The next body gets its chance; no log line quotes the address, which is a secret."""
    async with told(400, 302, 404, 200) as (receiver, webhook):
        for _ in range(4):
            webhook.offer(b"{}")
        await asyncio.sleep(5)
        assert receiver.counted == {"refused": 3, "sent": 1}
        lost = [line for line in receiver.logs.entries if line["event"] == "webhook.lost"]
        assert [line["outcome"] for line in lost] == ["refused"] * 3
        assert "/hook" not in str(receiver.logs.entries)


async def test_a_receiver_that_is_down_costs_little_and_the_newest_are_kept() -> None:
    """The queue is bounded, tries become seldom, and after an hour a body is given up."""
    async with told(500) as (receiver, webhook):
        for number in range(MAX_WAITING + 11):
            webhook.offer(b"%d" % number)
            if not number:
                await asyncio.sleep(1)  # the first one is on its way
        assert receiver.counted["dropped"] == 10
        assert receiver.waiting == MAX_WAITING + 1
        await asyncio.sleep(GIVE_UP_SECONDS + 300)
        assert receiver.counted["expired"] == 1
        assert len(receiver.got) < 100
        assert receiver.got[-1] == b"11"
        receiver.statuses[:] = [200]
        await asyncio.sleep(GIVE_UP_SECONDS)
        assert receiver.counted["sent"] == MAX_WAITING
        assert receiver.got[-1] == b"%d" % (MAX_WAITING + 10)


def test_the_signature_is_the_documented_one() -> None:
    """HMAC-SHA256 of time, dot and body."""
    wanted = "6d58fb78491a4cd45b0a5944663cf2020c2185a67defd8caec14059846f09e3d"
    assert signature("k" * 16, "1700000000", b"{}") == wanted
