"""The Python client: machines for a block, and nothing left behind however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gce_backend.base.errors import OrderError, SettingsError, TransientError, UnauthenticatedError
from gce_backend.localcloud.faults import Fault
from gce_backend.machine_provider import lease_api
from gce_backend.machine_provider.client import (
    DeniedError,
    FixedToken,
    GitHubTokens,
    LeaseClient,
    LeaseLostError,
    ask_sync,
    connected,
    leased,
    leased_sync,
    new_id,
)
from gce_backend.machine_provider.lease_documents import MachineTrouble, NewLease, WaitDocument
from gce_backend.machine_provider.wire import Dimensions
from machine_provider.test_leases_api import ANN, Api
from machine_provider.test_leases_api import running as api_running
from support.provider_harness import DAEMON
from support.responses import scripted_server
from support.served_cloud import served_cloud

LINUX = Dimensions(os_family="LINUX")


def wanted(**changes: Any) -> NewLease:
    """A request for a Linux machine for an hour."""
    return NewLease(**{"request_id": new_id(), "dimensions": LINUX, "duration": 3600, **changes})


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *machines: str) -> AsyncIterator[tuple[Api, LeaseClient]]:
    """A Machine Provider with machines, and a client of it."""
    async with api_running(tmp_path) as mp:
        await mp.add(*machines)
        token = FixedToken(await mp.place.token(ANN))
        async with connected(mp.service.url, token) as client:
            yield mp, client


async def test_machines_are_had_for_a_block_and_given_back(tmp_path: Path) -> None:
    """Kept alive for as long as it runs, which may be long."""
    async with running(tmp_path, "vm-1") as (mp, client):
        async with leased(client, wanted(keepalive=30)) as lease:
            assert lease.document.machines == ("vm-1",)
            assert (await client.machine("vm-1", "GCE")).user == ANN
            with pytest.raises(DeniedError, match=r"users\.list needs the role"):
                await client.users()
            await asyncio.sleep(100)
            assert await mp.states() == {"vm-1": "LEASED"}
        await asyncio.sleep(1)
        assert await mp.states() == {}


async def test_a_block_that_raises_gives_its_machines_back(tmp_path: Path) -> None:
    """The exception is the block's own; as many machines as access.cfg says are held for a look."""
    async with running(tmp_path, "vm-1", "vm-2") as (mp, client):
        for state in ("held", "active"):
            with pytest.raises(ZeroDivisionError):
                async with leased(client, wanted()) as lease:
                    raise ZeroDivisionError
            assert lease.document.state == state
        await asyncio.sleep(1)
        assert await mp.states() == {"vm-1": "LEASED"}


async def test_a_lease_that_is_transferred_ends_its_block(tmp_path: Path) -> None:
    """Also for one who may see all leases. Whose it is now is said, and it is not given back."""
    async with running(tmp_path, "vm-1") as (mp, client):
        access = mp.place.access.read_text("utf-8")
        seeing = access.replace(
            '"*@example.com" roles: USER', '"*@example.com" roles: [USER, VIEWER]'
        )
        mp.place.access.write_text(seeing, "utf-8")
        await asyncio.sleep(10)

        async def work() -> None:
            async with leased(client, wanted()) as lease:
                await client.transfer(lease.document.id, "cy@example.com")
                await asyncio.sleep(10)
                raise AssertionError

        with pytest.raises(LeaseLostError, match=r"it is cy@example[.]com's now"):
            await work()
        await asyncio.sleep(1)
        assert await mp.states() == {"vm-1": "LEASED"}


@pytest.mark.parametrize("machines", [(), ("vm-1",)])
async def test_ctrl_c_leaves_no_lease_and_no_request(
    tmp_path: Path, machines: tuple[str, ...]
) -> None:
    """Which cancels the program's task, while it waits or works."""
    async with running(tmp_path, *machines) as (mp, client):

        async def work() -> None:
            async with leased(client, wanted()):
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)
        assert (await mp.ok("GET", "leases"))["leases"] == []
        await mp.add("vm-2")
        assert await mp.states() == {"vm-2": "AVAILABLE"}


async def test_who_waits_is_told_why(tmp_path: Path) -> None:
    """At each look; and gets the machine when it comes."""
    async with running(tmp_path) as (mp, client):
        told: list[WaitDocument] = []

        async def work() -> tuple[str, ...]:
            async with leased(client, wanted(), told=told.append) as lease:
                return lease.document.machines

        task = asyncio.create_task(work())
        await asyncio.sleep(200)
        await mp.add("vm-1")
        assert await task == ("vm-1",)
        assert {one.reason for one in told} == {"unsatisfiable"}


async def test_a_wait_that_is_over_is_an_error(tmp_path: Path) -> None:
    """With the reason; a request that may never be filled is refused at once."""
    async with running(tmp_path) as (_, client):
        with pytest.raises(OrderError, match="in time: there is no machine in the catalog"):
            async with leased(client, wanted(wait=20)):
                raise AssertionError
        with pytest.raises(OrderError, match="may last"):
            async with leased(client, wanted(duration=20 * 3600)):
                raise AssertionError


async def test_a_lease_that_is_lost_ends_its_block(tmp_path: Path) -> None:
    """An administrator ended it: the machine may be somebody else's."""
    async with running(tmp_path, "vm-1") as (mp, client):
        loop = asyncio.get_running_loop()
        begun = loop.time()

        async def work() -> None:
            async with leased(client, wanted(keepalive=30)) as lease:
                await mp.ok("POST", f"leases/{lease.document.id}:release", who="root@example.com")
                await asyncio.sleep(3600)

        with pytest.raises(LeaseLostError, match="ended: RELEASED"):
            await work()
        assert loop.time() - begun < 30


async def trouble(mp: Api, name: str, message: str, *, gone: bool = False) -> None:
    """What the daemon says of a machine's VM."""
    body = {"message": message, "gone": gone}
    await mp.ok("POST", f"machines/{name}:trouble", body, who=DAEMON)


async def test_a_stopped_vm_is_told_of_and_a_lost_one_ends_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, which the list of leases shows for a while."""
    async with running(tmp_path, "vm-1") as (mp, client):
        told: list[MachineTrouble] = []

        async def work() -> None:
            async with leased(client, wanted(keepalive=30), troubled=told.append):
                await trouble(mp, "vm-1", "it stopped")
                await asyncio.sleep(60)
                await trouble(mp, "vm-1", "it is gone", gone=True)
                await asyncio.sleep(3600)

        begun = asyncio.get_running_loop().time()
        with pytest.raises(LeaseLostError, match="vm-1: it is gone"):
            await work()
        assert asyncio.get_running_loop().time() - begun < 90
        assert [one.message for one in told] == ["it stopped"]
        await asyncio.sleep(1)
        assert await mp.states() == {}
        [lost] = (await client.leases()).leases
        assert (lost.state, lost.ended, lost.message) == ("ended", "LOST", "vm-1: it is gone")
        monkeypatch.setattr(lease_api, "LOST_SECONDS", 0)
        await asyncio.sleep(2)
        assert (await client.leases()).leases == ()


async def test_a_lease_of_several_machines_ends_with_the_last_of_them(tmp_path: Path) -> None:
    """Until then its lessee works on with the others; repeating the message changes nothing."""
    async with running(tmp_path, "vm-1", "vm-2") as (mp, client):
        lease = await client.create(wanted(count=2))
        await trouble(mp, "vm-1", "it is gone", gone=True)
        lease = await client.get(lease.id)
        assert lease.state == "active"
        assert [(one.machine, one.gone) for one in lease.troubles] == [("vm-1", True)]
        await trouble(mp, "vm-2", "it is gone", gone=True)
        lease = await client.get(lease.id)
        assert (lease.state, lease.ended) == ("ended", "LOST")
        assert lease.message == "vm-1: it is gone; vm-2: it is gone"
        assert lease.machines == ()
        await asyncio.sleep(1)
        status, _ = await mp(
            "POST", "machines/vm-2:trouble", {"message": "x", "gone": True}, DAEMON
        )
        assert status == 404
        assert (await client.get(lease.id)).message == lease.message


async def test_only_the_backend_tells_of_trouble_and_only_of_leased_machines(
    tmp_path: Path,
) -> None:
    """The next lessee of a name hears nothing of it."""
    async with running(tmp_path, "vm-1") as (mp, client):
        await trouble(mp, "vm-1", "it stopped")
        lease = await client.create(wanted())
        assert lease.troubles == ()
        refused = await mp.refused("POST", "machines/vm-1:trouble", {"message": "x"})
        assert refused.startswith("403")
        await trouble(mp, "vm-1", "it stopped")
        assert len((await client.get(lease.id)).troubles) == 1
        await trouble(mp, "vm-1", "")
        assert (await client.get(lease.id)).troubles == ()
        status, _ = await mp("POST", "machines/vm-9:trouble", {"message": "x"}, DAEMON)
        assert status == 404


async def test_a_short_loss_of_the_service_is_borne_and_a_long_one_ends_the_block(
    tmp_path: Path,
) -> None:
    """When the lease has ended by itself, as nobody could keep it alive."""
    async with running(tmp_path, "vm-1") as (mp, client):
        store = Fault(method="datastore.*", kind="status", status=503, times=None)

        async def work() -> None:
            async with leased(client, wanted(keepalive=60)):
                mp.place.cloud.faults.add(store)
                await asyncio.sleep(20)
                mp.place.cloud.faults.clear()
                await asyncio.sleep(200)
                mp.place.cloud.faults.add(store)
                await asyncio.sleep(3600)

        with pytest.raises(LeaseLostError):
            await work()
        mp.place.cloud.faults.clear()
        await asyncio.sleep(90)
        assert await mp.states() == {}


async def test_an_answer_that_is_lost_leaves_nothing(tmp_path: Path) -> None:
    """The lease was made, its answer did not come: asked again, it is the same one."""
    async with running(tmp_path, "vm-1", "vm-2") as (mp, client):
        commit = Fault(method="datastore.projects.commit", kind="drop", when="after", times=1)
        mp.place.cloud.faults.add(commit)
        async with leased(client, wanted()) as lease:
            assert len(lease.document.machines) == 1
            states = await mp.states()
            assert sorted(states.values()) == ["AVAILABLE", "LEASED"]


async def test_machines_that_are_held_are_not_given_back(tmp_path: Path) -> None:
    """For a look after a failure."""
    async with running(tmp_path, "vm-1") as (mp, client):
        async with leased(client, wanted(), kept=lambda: True) as lease:
            await client.hold(lease.document.id, 600)
        await asyncio.sleep(300)
        assert await mp.states() == {"vm-1": "LEASED"}
        (seen,) = (await client.leases()).leases
        assert seen.state == "held"


async def test_a_token_goes_to_https_or_to_this_machine_alone() -> None:
    """Never in the clear."""
    with pytest.raises(SettingsError, match="https"):
        async with connected("http://machines.example.com", FixedToken("t")):
            raise AssertionError


async def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    """At once."""
    async with (
        running(tmp_path) as (mp, _),
        connected(mp.service.url, FixedToken("ya29.wrong")) as client,
    ):
        with pytest.raises(UnauthenticatedError):
            await client.who_am_i()


async def test_a_github_job_asks_for_a_token_for_this_audience() -> None:
    """And for another one when it was refused; without the permission it is told of it."""
    asked: list[tuple[str, str]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append((request.query["audience"], request.headers["Authorization"]))
        if request.query["api-version"] == "none":
            return web.Response(status=403)
        return web.json_response({"value": f"token-{len(asked)}"})

    async with scripted_server(answer) as server, aiohttp.ClientSession() as session:
        url = f"{server.root}token?api-version=2.0"
        tokens = GitHubTokens(session, url=url, token="runner", audience="https://mp.example.com")
        assert [await tokens.get(), await tokens.get()] == ["token-1", "token-1"]
        tokens.invalidate("token-1")
        assert await tokens.get() == "token-2"
        assert asked == [("https://mp.example.com", "Bearer runner")] * 2
        refused = GitHubTokens(
            session, url=f"{server.root}?api-version=none", token="r", audience="a"
        )
        with pytest.raises(UnauthenticatedError, match="id-token: write"):
            await refused.get()


def test_programs_without_asyncio_have_the_same() -> None:
    """On the embedded cloud, whose own account is a user, too."""
    with served_cloud() as cloud:

        async def token() -> str:
            async with aiohttp.ClientSession() as session:
                url = f"{cloud.url}/_localcloud/tokens/ann@example.com"
                async with session.post(url) as response:
                    return str((await response.json())["access_token"])

        async def add(clients: Any, name: str) -> None:
            headers = {"Authorization": f"Bearer {await clients.tokens.get()}"}
            body = {"dimensions": {"hostname": name, "os_family": "LINUX"}, "policies": {}}
            url = f"{cloud.url}/_ah/api/catalog/v1/add_machine"
            async with clients.session.post(url, json=body, headers=headers) as response:
                assert response.status == 200

        cloud.ask(lambda clients: add(clients, "vm-1"))
        tokens = FixedToken(asyncio.run(token()))
        with leased_sync(cloud.url, tokens, wanted()) as document:
            assert document.machines == ("vm-1",)
            found = ask_sync(cloud.url, tokens, lambda client: client.extend(document.id, 60))
            assert (found.id, found.ends_at != document.ends_at) == (document.id, True)
        cloud.ask(lambda clients: add(clients, "vm-2"))

        def fail() -> None:
            with leased_sync(cloud.url, tokens, wanted()) as document:
                assert document.machines == ("vm-2",)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with pytest.raises(OrderError), leased_sync(cloud.url, tokens, wanted(duration=10**7)):
            raise AssertionError
        assert not [one for one in threading.enumerate() if one.name == "lease"]


def test_a_program_without_a_machine_provider_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends, and the error is the caller's."""
    monkeypatch.setattr("gce_backend.machine_provider.client.RELEASE_SECONDS", 0.1)
    with (
        pytest.raises(TransientError),
        leased_sync("http://127.0.0.1:9", FixedToken("t"), wanted()),
    ):
        raise AssertionError
