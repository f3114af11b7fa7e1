"""The client of a daemon's documents: tokens, refusals, and what is no daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gce_backend.base.errors import NoDaemonError, OrderError, SettingsError, UnknownNameError
from gce_backend.clients.daemon import DaemonApi, address
from gce_backend.settings.settings import HttpSettings, Secret, Settings
from support.fleet_harness import CONTROL_TOKEN, world

ELSEWHERE = {"Host": "daemon.example.net"}


@contextlib.asynccontextmanager
async def answering(body: str, status: int = 200, wait: float = 0.0) -> AsyncIterator[str]:
    """Something that answers every request alike; gives its URL."""

    async def handle(_: web.Request) -> web.Response:
        await asyncio.sleep(wait)
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def test_the_token_goes_along_only_when_it_is_asked_for(tmp_path: Path) -> None:
    """Reading on loopback needs none; from elsewhere it does, and the settings' is sent."""
    sent: list[bool] = []

    async def note(_: object, __: object, request: aiohttp.TraceRequestStartParams) -> None:
        sent.append("Authorization" in request.headers)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            near = DaemonApi(session, w.daemon.url, Secret(CONTROL_TOKEN))
            assert (await near.get("/api/status"))["project"] == "local-project"
            assert sent == [False]
        async with aiohttp.ClientSession(headers=ELSEWHERE, trace_configs=[trace]) as session:
            far = DaemonApi(session, w.daemon.url, Secret(CONTROL_TOKEN))
            assert (await far.get("/api/status"))["project"] == "local-project"
            assert sent == [False, False, True]


@pytest.mark.parametrize("token", [None, Secret("another")])
async def test_a_refused_reader_learns_what_to_set(tmp_path: Path, token: Secret | None) -> None:
    """And the token that was tried is not quoted."""
    async with world(tmp_path) as w, aiohttp.ClientSession(headers=ELSEWHERE) as session:
        with pytest.raises(SettingsError, match="GCE_BACKEND_HTTP__TOKEN") as caught:
            await DaemonApi(session, w.daemon.url, token).get("/api/status")
        assert "another" not in str(caught.value)


async def test_an_unknown_name_comes_with_names_like_it(tmp_path: Path) -> None:
    """As the daemon suggests them."""
    async with world(tmp_path) as w, aiohttp.ClientSession() as session:
        await w.until_states(cataloged=3)
        with pytest.raises(UnknownNameError, match=r"'linx'.*Did you mean: linux"):
            await DaemonApi(session, w.daemon.url, None).get("/api/explain", {"name": "linx"})
        with pytest.raises(UnknownNameError, match=r"'qqqq'; `gce-backend machines`, `groups`"):
            await DaemonApi(session, w.daemon.url, None).get("/api/explain", {"name": "qqqq"})


async def test_a_wrong_parameter_is_told_in_the_daemons_words(tmp_path: Path) -> None:
    """A daemon of another version, perhaps."""
    async with world(tmp_path) as w, aiohttp.ClientSession() as session:
        await w.until(w.is_loaded)
        with pytest.raises(OrderError, match=r"^[^/]*unknown field `colour`"):
            await DaemonApi(session, w.daemon.url, None).get("/api/events", {"colour": "red"})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("<h1>Welcome</h1>", 200),
        ('{"half', 200),
        ("Not found", 404),
        ('{"detail": "none"}', 404),
        ("[]", 500),
        ("", 302),
    ],
)
async def test_what_is_no_daemon_is_said_to_be_none(body: str, status: int) -> None:
    """Another service on that port: no traceback, and where to say the right address."""
    async with answering(body, status) as url, aiohttp.ClientSession() as session:
        with pytest.raises(
            NoDaemonError, match=rf"is not a gce-backend daemon.*HTTP {status}.*--url"
        ):
            await DaemonApi(session, url, None).get("/api/status")


async def test_a_daemon_that_has_not_loaded_yet_says_so() -> None:
    """It answers 503 until then."""
    body = '{"error": "the daemon has not loaded its entities yet"}'
    async with answering(body, 503) as url, aiohttp.ClientSession() as session:
        with pytest.raises(NoDaemonError, match=r"cannot answer yet: .* not loaded"):
            await DaemonApi(session, url, None).get("/api/status")


async def test_a_daemon_that_does_not_answer_is_not_waited_for_longer_than_told() -> None:
    """Completion has a second."""
    async with answering("{}", wait=60.0) as url, aiohttp.ClientSession() as session:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(NoDaemonError, match="no answer in time"):
            await DaemonApi(session, url, None, timeout=1.0).get("/api/status")
        assert asyncio.get_running_loop().time() - begun < 2.0


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(), "http://127.0.0.1:8080"),
        (Settings(http=HttpSettings(host="0.0.0.0", port=81)), "http://127.0.0.1:81"),
        (Settings(http=HttpSettings(host="::", port=81)), "http://[::1]:81"),
        (Settings(url="https://d.example.com"), "https://d.example.com"),
    ],
)
def test_the_address_is_that_of_the_settings(settings: Settings, url: str) -> None:
    """A daemon that listens everywhere listens on loopback too."""
    assert address(settings) == url


def test_a_port_that_the_kernel_chose_is_not_guessed() -> None:
    """The remedy is named."""
    with pytest.raises(NoDaemonError, match=r"http.port is 0 .* --url"):
        address(Settings(http=HttpSettings(port=0)))
