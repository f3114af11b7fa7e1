"""The embedded metadata server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gcloud.aio.auth import Token

from gce_backend.localcloud.cloud import CloudOptions
from support.cloud_harness import FLAVOR, TOKEN_PATH, Running, running


async def get(run: Running, path: str, **headers: str) -> tuple[int, str, str | None]:
    """Status, text and flavor of an answer."""
    async with run.session.get(run.url + path, headers=headers) as response:
        return response.status, await response.text(), response.headers.get("Metadata-Flavor")


async def token_of(run: Running, query: str = "") -> dict[str, Any]:
    """A token's JSON."""
    async with run.session.get(run.url + TOKEN_PATH + query, headers=FLAVOR) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def test_names_the_project_with_the_flavor_header() -> None:
    """Clients check the answer's header to know that it is the metadata server."""
    async with running(options=CloudOptions(project="some-project")) as run:
        path = "/computeMetadata/v1/project/project-id"
        assert await get(run, path, **FLAVOR) == (200, "some-project", "Google")


@pytest.mark.parametrize("path", ["/computeMetadata/v1/project/project-id", TOKEN_PATH])
async def test_refuses_requests_without_the_flavor_header(path: str) -> None:
    """A browser or a forwarded request cannot have a token."""
    async with running() as run:
        assert (await get(run, path))[0] == 403
        assert (await get(run, path, **FLAVOR, **{"X-Forwarded-For": "10.0.0.1"}))[0] == 403


async def test_calls_need_a_token_that_was_given_and_has_not_expired() -> None:
    """Other services refuse missing, unknown, expired and revoked tokens with 401."""
    async with running(options=CloudOptions(token_seconds=100)) as run:
        topics = "/v1/projects/p/topics"
        assert (await run.call("GET", topics))[0] == 200
        good = run.authorization
        for headers in ({}, {"Authorization": "Bearer ya29.other"}, {"Authorization": "Basic x"}):
            run.authorization = headers
            assert await run.refused("GET", topics) == (401, "UNAUTHENTICATED")
        run.authorization = good
        await asyncio.sleep(101)
        assert await run.refused("GET", topics) == (401, "UNAUTHENTICATED")
        await run.authenticate()
        await run.ok("GET", topics)
        run.metadata.revoke_all()
        assert await run.refused("GET", topics) == (401, "UNAUTHENTICATED")


async def test_gives_the_same_token_again_while_it_is_young() -> None:
    """As the real one: another token only when half of its life is over, or for other scopes."""
    async with running(options=CloudOptions(token_seconds=100)) as run:
        first = await token_of(run)
        assert (await token_of(run))["access_token"] == first["access_token"]
        assert 98 <= first["expires_in"] <= 100
        assert (await token_of(run, "?scopes=a,b"))["access_token"] != first["access_token"]
        await asyncio.sleep(60)
        assert (await token_of(run))["access_token"] != first["access_token"]


async def test_tokens_survive_a_restart(tmp_path: Path) -> None:
    """A daemon keeps its token over a restart of the cloud."""
    async with running(tmp_path / "state") as run:
        token = (await token_of(run))["access_token"]
    async with running(tmp_path / "state") as run:
        assert run.metadata.is_valid(token)
        assert token not in str(run.metadata.state())


async def test_gcloud_aio_auth_gets_its_token_here() -> None:
    """The production token class works against it."""
    async with running() as run:
        token = Token(session=run.session)  # type: ignore[arg-type]  # mypy resolves requests
        token.token_uri = run.url + TOKEN_PATH + "?recursive=true"
        value = await token.get()
        assert value is not None
        assert run.metadata.is_valid(value)


async def test_is_found_by_its_root_and_tells_all_of_an_account() -> None:
    """google-auth looks for the server at its root, and reads an account in one go."""
    async with running(options=CloudOptions(project="proj-1")) as run:
        assert await get(run, "/", **FLAVOR) == (200, "computeMetadata/\n", "Google")
        universe = "/computeMetadata/v1/universe/universe-domain"
        assert (await get(run, universe, **FLAVOR))[1] == "googleapis.com"
        account = "/computeMetadata/v1/instance/service-accounts/default/"
        assert (await get(run, account, **FLAVOR))[1].split() == [
            "aliases",
            "email",
            "identity",
            "scopes",
            "token",
        ]
        status, text, flavor = await get(run, f"{account}?recursive=true", **FLAVOR)
        assert (status, flavor) == (200, "Google")
        assert msgspec.json.decode(text) == {
            "aliases": ["default"],
            "email": "gce-backend@proj-1.iam.gserviceaccount.com",
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        }
        stranger = account.replace("default", "x@y.z")
        assert (await get(run, f"{stranger}?recursive=true", **FLAVOR))[0] == 404
        assert (await get(run, f"{account}?recursive=true"))[0] == 403


async def test_describes_the_instance_and_its_account() -> None:
    """Id, zone, e-mail address and scopes can be read."""
    async with running(options=CloudOptions(project="proj-1")) as run:
        root = "/computeMetadata/v1/instance"
        account = root + "/service-accounts/default"
        assert (await get(run, root + "/id", **FLAVOR))[1].isdecimal()
        assert "/zones/" in (await get(run, root + "/zone", **FLAVOR))[1]
        email = (await get(run, account + "/email", **FLAVOR))[1]
        assert email.endswith("@proj-1.iam.gserviceaccount.com")
        assert (await get(run, account + "/scopes", **FLAVOR))[1].startswith("https://")
        other = f"{root}/service-accounts/{email}/token"
        assert (await get(run, other, **FLAVOR))[0] == 200
        assert (await get(run, other.replace("gce-", "x-"), **FLAVOR))[0] == 404
