"""Access tokens: where they come from, how seldom, and that they stay secret."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses

from gce_backend.base.errors import SettingsError, TransientError, UnauthenticatedError
from gce_backend.clients.auth import TokenSource
from support.responses import MockedResponse, ScriptedServer, never, scripted_server

SCOPES = ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/x")
CANARY = "ya29.canary-secret"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own is found."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "nothing"))


class Metadata:
    """A metadata server that numbers its tokens, or fails with `status`."""

    def __init__(self, *, status: int = 200, seconds: float = 3600) -> None:
        self.status = status
        self.seconds = seconds
        self.issued = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serves tokens and the project."""
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403)
        if request.path.endswith("/project-id"):
            return web.Response(text="my-project", headers={"Metadata-Flavor": "Google"})
        if self.status == 0:
            return await never()
        if self.status != 200:
            return web.Response(status=self.status, text=f"error with {CANARY}")
        self.issued += 1
        await asyncio.sleep(1)  # so that others can join the wait
        token = {"access_token": f"{CANARY}-{self.issued}", "expires_in": self.seconds}
        return web.json_response(token)


@contextlib.asynccontextmanager
async def source_on(metadata: Metadata) -> AsyncIterator[tuple[TokenSource, ScriptedServer]]:
    """A token source on a metadata server."""
    async with scripted_server(metadata.answer) as server, aiohttp.ClientSession() as session:
        source = TokenSource(session, metadata_root=server.root, scopes=SCOPES)
        yield source, server
        await source.close()


async def test_the_metadata_setting_and_the_scopes_reach_the_metadata_server() -> None:
    """Gcloud's import-time address plays no part; each source has its own scopes."""
    async with source_on(Metadata()) as (source, server):
        assert await source.get() == f"{CANARY}-1"
        request = server.requests[0]
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        assert request.path == path
        assert request.query["scopes"].split(",") == list(SCOPES)
        assert source.describe() == f"metadata server at {server.root.rstrip('/')}"
        assert await source.project() == "my-project"
        assert await source.token.get() == f"{CANARY}-1"


async def test_one_401_causes_one_refresh_for_all_who_wait() -> None:
    """Fifty callers refused together share one new token, and late ones do not drop it again."""
    metadata = Metadata()
    async with source_on(metadata) as (source, _):
        old = await source.get()

        async def refused() -> str:
            source.invalidate(old)
            return await source.get()

        assert set(await asyncio.gather(*(refused() for _ in range(50)))) == {f"{CANARY}-2"}
        source.invalidate(old)
        assert await source.get() == f"{CANARY}-2"
        assert metadata.issued == 2


async def test_tokens_that_are_always_refused_are_renewed_only_every_few_seconds() -> None:
    """The back-off after 401s: an error with a delay, not a storm."""
    metadata = Metadata()
    async with source_on(metadata) as (source, _):
        delays: list[float | None] = []
        for _ in range(60):
            try:
                source.invalidate(await source.get())
            except UnauthenticatedError as error:
                delays.append(error.retry_after)
            await asyncio.sleep(0.5)
        assert len(delays) > 20
        assert None not in delays
        assert metadata.issued <= 9


async def test_one_cancelled_waiter_does_not_cancel_the_others() -> None:
    """The refresh belongs to nobody in particular."""
    metadata = Metadata()
    async with source_on(metadata) as (source, _):
        first = asyncio.create_task(source.get())
        second = asyncio.create_task(source.token.get())
        await asyncio.sleep(0.5)
        first.cancel()
        assert await second == f"{CANARY}-1"
        assert metadata.issued == 1


async def test_a_token_is_renewed_before_it_ends_without_making_anybody_wait() -> None:
    """Half-way through its life the old one is still given while the new one is fetched."""
    metadata = Metadata(seconds=100)
    async with source_on(metadata) as (source, _):
        await source.get()
        await asyncio.sleep(60)
        assert await source.get() == f"{CANARY}-1"
        await asyncio.sleep(2)
        assert await source.get() == f"{CANARY}-2"
        await asyncio.sleep(99)
        assert await source.get() == f"{CANARY}-3"


async def test_a_token_that_ended_is_not_given_when_it_cannot_be_renewed() -> None:
    """After its life there is an error, during it the old one goes on serving."""
    metadata = Metadata(seconds=100)
    async with source_on(metadata) as (source, _):
        await source.get()
        metadata.status = 503
        await asyncio.sleep(60)
        assert await source.get() == f"{CANARY}-1"
        await asyncio.sleep(60)
        with pytest.raises(TransientError):
            await source.get()


async def test_a_failing_token_server_is_asked_less_and_less_and_then_recovers() -> None:
    """Sixty impatient seconds cost a handful of requests."""
    metadata = Metadata(status=503)
    async with source_on(metadata) as (source, server):
        for _ in range(120):
            with pytest.raises(TransientError):
                await source.get()
            await asyncio.sleep(0.5)
        assert 3 <= len(server.requests) <= 8
        metadata.status = 200
        await asyncio.sleep(31)
        assert (await source.get()).startswith(CANARY)


@pytest.mark.parametrize(
    ("status", "kind"), [(503, TransientError), (429, TransientError), (403, UnauthenticatedError)]
)
async def test_failures_are_the_projects_errors_and_hold_no_secret(
    status: int, kind: type[Exception]
) -> None:
    """Not even an error page that repeats a token reaches the traceback."""
    async with source_on(Metadata(status=status)) as (source, _):
        with pytest.raises(kind) as caught:
            await source.get()
        assert type(caught.value) is kind
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert CANARY not in shown
        assert caught.value.__context__ is None


async def test_a_silent_token_server_costs_seconds_not_minutes() -> None:
    """The wait is bounded."""
    async with source_on(Metadata(status=0)) as (source, _):
        with pytest.raises(TransientError):
            await source.get()
        assert asyncio.get_running_loop().time() <= 16


@pytest.mark.parametrize(
    "body", ["<html>", "{}", '{"access_token": "a b\\r\\nc", "expires_in": 9}']
)
async def test_a_nonsensical_answer_is_a_transient_error(body: str) -> None:
    """HTML, missing fields, and a token that could not be sent."""
    async with aiohttp.ClientSession() as session:
        source = TokenSource(session, metadata_root="http://metadata.test", scopes=SCOPES)
        with aioresponses() as mocked:
            mocked.get(
                re.compile("http://metadata.test/.*"), body=body, response_class=MockedResponse
            )
            with pytest.raises(TransientError, match="cannot be used"):
                await source.get()


async def test_found_credentials_are_described_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The account's name is told, its key is not."""
    file = tmp_path / "key.json"
    account = {"type": "service_account", "client_email": "me@x.test", "private_key": CANARY}
    file.write_text(json.dumps(account | {"project_id": "found"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    async with aiohttp.ClientSession() as session:
        source = TokenSource(session, metadata_root="http://m", scopes=SCOPES)
        assert source.describe() == "service account me@x.test"
        assert await source.project() == "found"
        local = TokenSource(session, metadata_root="http://m", scopes=SCOPES, metadata_only=True)
        assert local.describe() == "metadata server at http://m"


async def test_named_credentials_that_are_missing_are_a_settings_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The message says what to mend."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SettingsError, match="GOOGLE_APPLICATION_CREDENTIALS"):
            TokenSource(session, metadata_root="http://m", scopes=SCOPES)


async def test_what_is_no_metadata_server_names_no_project() -> None:
    """A captive portal's page is not a project id."""
    async with (
        scripted_server(lambda _: web.Response(text="<html>")) as server,
        aiohttp.ClientSession() as session,
    ):
        source = TokenSource(session, metadata_root=server.root, scopes=SCOPES)
        with pytest.raises(TransientError, match="not a working metadata server"):
            await source.project()
