"""A Compute client on a small server that answers what a test says.

Use it for a test of `gce_client.py` against single answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import aiohttp
from aiohttp import web

from gce_backend.clients.auth import TokenSource
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.compute.links import CANONICAL_ROOT, ResourceLink
from gce_backend.clients.compute.transport import Timeouts
from gce_backend.clients.retry import Backoff, RetryBudget
from gce_backend.gce_client import ComputeClient
from support.responses import Answer, ScriptedServer, scripted_server
from support.simulation import VirtualClock

CANARY = "ya29.canary-secret"
REQUEST_ID = "0e4a5b52-1df9-4a83-9d35-6f0d2f1d4f7a"
LINK = ResourceLink("p", "zones/z", "operations", "operation-1")
OPERATION = {"name": "operation-1", "status": "RUNNING", "selfLink": CANONICAL_ROOT + LINK.path}
GROUP = {"name": "g", "targetSize": 1}
FINGERPRINT = "Zg=="


class World:
    """A client, what it was told to see, and the server that it talks to."""

    client: ComputeClient

    def __init__(
        self,
        server: ScriptedServer,
        budget: CallBudget,
        clock: VirtualClock,
        source: TokenSource,
    ) -> None:
        self.server = server
        self.budget = budget
        self.clock = clock
        self.source = source
        self.tokens = 0
        self.seen: list[tuple[str, str | None, int | None, float]] = []
        self.retried: list[str] = []

    def call(self, method: str, group: str | None, status: int | None, seconds: float) -> None:
        """The client's observer."""
        self.seen.append((method, group, status, seconds))

    def retry(self, method: str) -> None:
        """The same, of repetitions."""
        self.retried.append(method)

    @property
    def requests(self) -> list[web.Request]:
        """What Compute was asked."""
        return [r for r in self.server.requests if not r.path.startswith("/computeMetadata")]


@contextlib.asynccontextmanager
async def world(
    answer: Answer,
    *,
    tries: int = 4,
    burst: float = 10.0,
    limit: int = 1000,
    epoch: float = 0.0,
) -> AsyncIterator[World]:
    """A client on a server; tokens are numbered. The wall clock begins at `epoch`."""

    def dispatch(request: web.Request) -> web.StreamResponse | Awaitable[web.StreamResponse]:
        if not request.path.startswith("/computeMetadata"):
            return answer(request)
        it.tokens += 1
        return web.json_response({"access_token": f"{CANARY}-{it.tokens}", "expires_in": 3600})

    clock = VirtualClock(epoch)
    budget = CallBudget(clock, dict.fromkeys(QuotaGroup, limit))
    async with scripted_server(dispatch) as server, aiohttp.ClientSession() as session:
        tokens = TokenSource(session, metadata_root=server.root, scopes=["s"], metadata_only=True)
        it = World(server, budget, clock, tokens)
        it.client = ComputeClient(
            session=session,
            tokens=tokens,
            root=server.root + "compute/v1/",
            budget=budget,
            clock=clock,
            random=Random(1),
            timeouts=Timeouts(connect=5, read=10, total=40),
            backoff=Backoff(tries=tries),
            retry_budget=RetryBudget(burst=burst),
            observer=it,
        )
        yield it
        await tokens.close()


def script(*answers: web.Response | Callable[[], Any]) -> Answer:
    """Answers in turn; the last one again and again."""
    left = list(answers)

    def answer(_: web.Request) -> Any:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, web.Response):
            return web.Response(status=one.status, body=one.body, headers=one.headers)
        return one()

    return answer
