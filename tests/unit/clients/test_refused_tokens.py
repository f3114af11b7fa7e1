"""Calls that are refused together: one renewal for all, whichever client made them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import aiohttp
import pytest
from aiohttp import web

from gce_backend.base.errors import BackendError, SettingsError, UnauthenticatedError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.config_source import LuciConfigV1, LuciConfigV2
from gce_backend.clients.daemon import DaemonApi
from gce_backend.clients.datastore.client import Datastore, Upsert
from gce_backend.clients.json_api import JsonApi, Limits
from gce_backend.clients.machine_provider import MachineProviderClient
from gce_backend.clients.plain_http import PlainSession
from gce_backend.clients.pubsub import PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.gce_client import ComputeClient
from gce_backend.settings.settings import Secret
from support.responses import scripted_server
from support.simulation import VirtualClock

Calls = Callable[[], Awaitable[object]]
Make = Callable[[aiohttp.ClientSession, TokenSource, str], Calls]


def compute(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Lists groups."""
    clock = VirtualClock(0.0)
    client = ComputeClient(
        session=session,
        tokens=tokens,
        root=root + "/",
        budget=CallBudget(clock, dict.fromkeys(QuotaGroup, 1000)),
        clock=clock,
        random=Random(1),
    )
    return lambda: client.list_groups("p")


def datastore(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Commits, which is never repeated."""
    clock = VirtualClock(0.0)
    client = Datastore(session=session, tokens=tokens, project="p", api_root=root, clock=clock)
    return lambda: client.commit([Upsert((("K", "a"),), {})])


def lookups(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Reads an entity, which may be repeated."""
    clock = VirtualClock(0.0)
    client = Datastore(session=session, tokens=tokens, project="p", api_root=root, clock=clock)
    return lambda: client.lookup([(("K", "a"),)])


def messages(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Pulls messages."""
    client = PubSub(session=session, tokens=tokens, project="p", api_root=root)
    return lambda: client.pull("projects/p/subscriptions/s", 10)


def policies(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Reads a policy, which the library does not offer."""
    client = PubSub(session=session, tokens=tokens, project="p", api_root=root)
    return lambda: client.get_iam_policy("projects/p/topics/t")


def broker(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Looks up a machine."""
    client = MachineProviderClient(session=session, tokens=tokens, instance_url=root)
    return lambda: client.get("host")


def config_v1(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Fetches a configuration."""
    client = LuciConfigV1(
        session=session,
        tokens=tokens,
        hostname_url=root,
        config_set="services/x",
        references=lambda _: [],
    )
    return lambda: client.fetch(None)


def config_v2(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Fetches a configuration by pRPC."""
    client = LuciConfigV2(
        session=session,
        tokens=tokens,
        hostname_url=root,
        config_set="services/x",
        references=lambda _: [],
    )
    return lambda: client.fetch(None)


def permissions(session: aiohttp.ClientSession, tokens: TokenSource, root: str) -> Calls:
    """Asks for permissions."""
    api = JsonApi(session=session, tokens=tokens, root=root, limits=Limits(), retrier=None)
    return lambda: ResourceManager(api).granted("p", ["x"])


CLIENTS = [
    compute,
    datastore,
    lookups,
    messages,
    policies,
    broker,
    config_v1,
    config_v2,
    permissions,
]


@pytest.mark.parametrize("make", CLIENTS, ids=lambda make: make.__name__)
async def test_twenty_refused_calls_make_one_renewal_and_forty_requests_at_most(make: Make) -> None:
    """The first token was issued before; the second is for all twenty."""
    issued = 0
    refused = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal issued, refused
        if request.path.startswith("/computeMetadata"):
            issued += 1
            return web.json_response({"access_token": f"t-{issued}", "expires_in": 3600})
        refused += 1
        await asyncio.sleep(1.0)
        return web.json_response(
            {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}, status=401
        )

    async with scripted_server(answer) as server, aiohttp.ClientSession() as session:
        root = server.root.rstrip("/")
        tokens = TokenSource(session, metadata_root=root, scopes=["s"], metadata_only=True)
        await tokens.get()
        call = make(session, tokens, root)
        results = await asyncio.gather(*(call() for _ in range(20)), return_exceptions=True)
        await tokens.close()
    assert {type(result) for result in results} == {UnauthenticatedError}
    assert issued == 2
    assert 20 < refused <= 40


@pytest.mark.parametrize("plain", [True, False])
async def test_twenty_commands_whose_token_a_daemon_refuses_ask_it_forty_times_at_most(
    plain: bool,
) -> None:
    """Their token is the settings' own: there is none to renew, and nobody is asked for one."""
    bearing = 0
    requests = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal bearing, requests
        requests += 1
        bearing += "Authorization" in request.headers
        await asyncio.sleep(0.2)
        return web.json_response({"error": "the token is missing or wrong"}, status=401)

    async with scripted_server(answer) as server, aiohttp.ClientSession() as session:
        chosen = PlainSession() if plain else session
        daemon = DaemonApi(chosen, server.root.rstrip("/"), Secret("s" * 20))
        calls = (daemon.get("/api/status") for _ in range(20))
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {SettingsError}
    assert bearing <= 20
    assert requests <= 40


def daemon(session: aiohttp.ClientSession, _: TokenSource, root: str) -> Calls:
    """Asks a daemon for a document."""
    client = DaemonApi(session, root, Secret("s" * 20))
    return lambda: client.get("/api/status")


def plainly(_: aiohttp.ClientSession, __: TokenSource, root: str) -> Calls:
    """Asks a daemon as most commands do: without a library."""
    client = DaemonApi(PlainSession(), root, Secret("s" * 20))
    return lambda: client.get("/api/status")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("make", [*CLIENTS, daemon, plainly], ids=lambda make: make.__name__)
async def test_no_client_follows_a_redirect_with_or_without_its_token(
    make: Make, status: int
) -> None:
    """Not to another host, and not within the same: what it points to never hears of us."""
    elsewhere: list[str] = []

    async def lure(request: web.Request) -> web.Response:
        elsewhere.append(request.path)
        return web.json_response({})

    async with scripted_server(lure) as other, aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            if request.path.startswith("/computeMetadata"):
                return web.json_response({"access_token": "t", "expires_in": 3600})
            if request.path.startswith("/moved"):
                elsewhere.append(request.path)
            if make in {daemon, plainly} and "Authorization" not in request.headers:
                return web.json_response({"error": "who are you?"}, status=401)
            target = "/moved" if request.query_string else other.root
            return web.Response(status=status, headers={"Location": target})

        async with scripted_server(answer) as server:
            root = server.root.rstrip("/")
            tokens = TokenSource(session, metadata_root=root, scopes=["s"], metadata_only=True)
            with pytest.raises(BackendError):
                await make(session, tokens, root)()
            await tokens.close()
    assert elsewhere == []
