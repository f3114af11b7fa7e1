"""Who may call the embedded Machine Provider, over HTTP, with the tokens of its metadata server."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from gce_backend.machine_provider import api, lease_api
from gce_backend.machine_provider.server import path_of
from localcloud.test_machine_provider import ANY, Client, machine, running

BODY = {"dimensions": {"os_family": "LINUX"}, "count": 1}
ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"


ROUTES = {
    **{name: ("POST", path_of(name)) for name in api.METHODS},
    **{
        route.name: (route.verb, re.sub(r"\{.*?\}", "vm-1", route.path))
        for route in lease_api.ROUTES
    },
}
"""Verb and path of every method."""


async def called(mp: Client, method: str, token: str | None, body: object = None) -> int:
    """The status of a call with a token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    verb, path = ROUTES[method]
    sent = (body or {}) if verb == "POST" else None
    async with (
        aiohttp.ClientSession() as session,
        session.request(verb, mp.cloud.base_url + path, json=sent, headers=headers) as response,
    ):
        return response.status


async def identity_token(mp: Client, audience: str) -> str:
    """An identity token of the cloud's own account."""
    url = f"{mp.cloud.base_url}{ACCOUNT}/identity"
    query = {"audience": audience, "format": "full"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=query, headers={"Metadata-Flavor": "Google"}) as response,
    ):
        assert response.status == 200
        return await response.text()


async def job_token(mp: Client, **claims: object) -> str:
    """An identity token as another issuer would sign it."""
    url = f"{mp.cloud.base_url}/_localcloud/identity-tokens"
    async with aiohttp.ClientSession() as session, session.post(url, json=claims) as response:
        return str((await response.json())["id_token"])


async def test_both_kinds_of_tokens_are_of_the_same_account() -> None:
    """What was added with an access token is read, and leased, with an identity token."""
    async with running() as mp:
        await mp("catalog.add_machine", machine())
        token = await identity_token(mp, "machine-provider")
        assert await called(mp, "catalog.get", token, {"hostname": "vm-1"}) == 200
        lease = ANY | {"request_id": "r1", "duration": 60}
        assert await called(mp, "machine_provider.lease", token, lease) == 200
        again = await mp("machine_provider.lease", lease)
        assert "error" not in again


async def test_a_call_right_after_a_restart_waits_for_the_start(tmp_path: Path) -> None:
    """Whoever worked before was this very cloud: nobody is told to go to another process."""
    async with running(tmp_path / "state") as mp:
        await mp("catalog.add_machine", machine())
    for _ in range(3):
        async with running(tmp_path / "state") as mp:
            token = await mp.token()
            calls = [called(mp, "catalog.modify_capacity", token, BODY) for _ in range(5)]
            assert await asyncio.gather(*calls) == [200] * 5


async def test_a_token_for_another_service_is_refused() -> None:
    """401, whatever its signature."""
    async with running() as mp:
        token = await identity_token(mp, "https://other.example.com")
        assert await called(mp, "catalog.get", token, {"hostname": "vm-1"}) == 401


async def test_a_job_without_an_address_belongs_to_no_group_here() -> None:
    """Known, and allowed nothing: 403."""
    async with running() as mp:
        token = await job_token(mp, aud="machine-provider", sub="repo:org/app:ref:main")
        assert await called(mp, "machine_provider.lease", token, ANY | {"request_id": "r"}) == 403


def test_every_method_has_an_address() -> None:
    """So that the next test calls them all."""
    assert ROUTES.keys() == {*api.METHODS, *lease_api.METHODS}


@pytest.mark.parametrize("method", sorted(ROUTES))
async def test_every_method_refuses_nobody_and_forged_tokens(method: str) -> None:
    """No token: 403, as the original; a forged one: 401; neither reaches the method."""
    async with running() as mp:
        assert await called(mp, method, None) == 403
        assert await called(mp, method, "ya29.forged") == 401
        forged = (await identity_token(mp, "machine-provider"))[:-8] + "AAAAAAAA"
        assert await called(mp, method, forged) == 401
