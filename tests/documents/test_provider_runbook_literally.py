"""The Machine Provider's alerts are provoked, and end when the runbook's commands were run.

A daemon works with a Machine Provider of its own beside it, in simulated time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from documents.test_docs_runbook import ALERTS
from documents.test_runbook_literally import READ, SOON, Operator
from gce_backend.daemon.local import CONFIG_SET
from gce_backend.localcloud.metadata import OAUTH_CLIENT
from gce_backend.machine_provider.service import ProviderService
from gce_backend.settings.settings import ProviderSettings
from gce_backend.setup.addresses import configure
from support.alerting import PROVIDER_RULES, Prometheus, wrong_alerts
from support.fleet_harness import PROJECT, ZONE, World, manager, world
from support.simulation import ProcessClock

ACCOUNT = f"gce-backend@{PROJECT}.iam.gserviceaccount.com"
ACCESS = f"""
client_ids: "{OAUTH_CLIENT}"
issuers {{ url: "URL" audiences: "mp" email_domains: "*" }}
groups {{ name: "daemon" members: "{ACCOUNT}" roles: [BACKEND, VIEWER] backend: "GCE" }}
groups {{ name: "users" members: "*@example.com" roles: USER }}
"""
OURS = {
    rule["alert"]: rule["annotations"]["runbook"].partition("#")[2]
    for rule in ALERTS
    if rule["alert"].startswith("MachineProvider")
}


class Place:
    """A world whose daemon works with a Machine Provider of its own beside it.

    Attributes:
        w: the world.
        service: the Machine Provider's process.
        access: its access.cfg.
        silent: machines whose agents do not report.
    """

    def __init__(self, w: World, access: Path) -> None:
        self.w = w
        self.access = access
        self.text = ACCESS.replace("URL", w.cloud.base_url)
        self.silent: set[str] = set()
        access.write_text(self.text, encoding="utf-8")
        wanted = ProviderSettings(
            port=0,
            access=access,
            namespace="of-its-own",
            takeover_seconds=3.0,
            agent_silent_seconds=60.0,
        )
        w.settings = msgspec.structs.replace(w.settings, provider=wanted)

    async def start(self) -> None:
        """Starts a process, and waits until it works."""
        clock = ProcessClock(self.w.clock)
        self.service = ProviderService(self.w.settings, clock=clock, rng=random.Random(1))
        await self.service.start()
        url = self.service.url
        provider = msgspec.structs.replace(
            self.w.settings.provider, url=url, port=int(url.rpartition(":")[2])
        )
        self.w.settings = msgspec.structs.replace(self.w.settings, provider=provider)
        await self.w.until(self.works)

    async def works(self) -> bool:
        """Whether the process is the one that works."""
        return await self.post("/readyz", verb="GET") == 200

    async def post(self, path: str, body: Any = None, token: str = "", verb: str = "POST") -> int:
        """A request to the Machine Provider; returns the status."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.service.url + path
        async with self.w.session.request(verb, url, json=body, headers=headers) as response:
            return response.status

    async def user(self) -> str:
        """An access token of somebody who leases machines; each is a new one."""
        url = f"{self.w.cloud.base_url}/_localcloud/tokens/ann@example.com"
        async with self.w.session.post(url) as response:
            return str((await response.json())["access_token"])

    async def asks(self, os_family: str = "LINUX") -> int:
        """Somebody asks for a machine."""
        body = {"request_id": "r1", "duration": 3600, "dimensions": {"os_family": os_family}}
        return await self.post("/api/v1/leases", body, await self.user())

    async def gives_up(self) -> None:
        """Who asked for it no longer wants it."""
        headers = {"Authorization": f"Bearer {await self.user()}"}
        url = self.service.url + "/api/v1/leases"
        async with self.w.session.get(url, headers=headers) as response:
            ((lease,),) = (await response.json()).values()
        path = f"/api/v1/leases/{lease['id']}:release"
        assert await self.post(path, {}, await self.user()) == 200

    async def guess(self) -> None:
        """Somebody guesses tokens."""
        guesses = (self.post("/api/v1/whoami", token="x.y.z", verb="GET") for _ in range(5))
        await asyncio.gather(*guesses)

    async def report(self) -> None:
        """The agents of all VMs report, but for the silent ones."""
        for name in set(await self.w.vms()) - self.silent:
            vm = await self.w.compute("GET", f"zones/{ZONE}/instances/{name}")
            claims = {
                "aud": "mp",
                "sub": "1",
                "email": vm["serviceAccounts"][0]["email"],
                "email_verified": True,
                "google": {"compute_engine": {"project_id": PROJECT, "instance_name": name}},
            }
            url = f"{self.w.cloud.base_url}/_localcloud/identity-tokens"
            async with self.w.session.post(url, json=claims) as response:
                token = (await response.json())["id_token"]
            await self.post(f"/api/v1/machines/{name}:report", {"version": "1"}, token)


@contextlib.asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A fleet of four machines, in the catalog of a Machine Provider of its own."""
    async with world(tmp_path, managers=manager(minimum=4), settings=SOON, start=False) as w:
        made = Place(w, tmp_path / "access.cfg")
        await made.start()
        try:
            async with w.fleet() as fleet:
                await configure(
                    fleet,
                    config_set=CONFIG_SET,
                    config_service=w.cloud.base_url,
                    machine_provider=made.service.url,
                )
            await w.start_daemon()
            await w.until_states(cataloged=4)
            yield made
        finally:
            await made.service.abort()


@contextlib.asynccontextmanager
async def again_and_again(every: float, act: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Somebody does something, for a while."""

    async def go_on() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError):  # its process is down
                await act()
            await asyncio.sleep(every)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_runbook_ends_the_alerts_of_the_machine_provider(tmp_path: Path) -> None:
    """Each is provoked, no other fires, and none is left when its section was followed."""
    async with place(tmp_path) as p:
        operator = Operator(p.w, tmp_path)
        prometheus = Prometheus(p.w, "provider", "machine-provider")
        prometheus.url = p.service.url

        p.access.write_text("groups {", encoding="utf-8")
        async with again_and_again(2, p.guess):
            await p.w.pass_time(READ)
            await prometheus.see("MachineProviderAccessInvalid", "MachineProviderTokensRefused")
        said = await operator.follows(OURS["MachineProviderAccessInvalid"])
        assert "access.cfg:1" in said
        await operator.follows(OURS["MachineProviderTokensRefused"])
        p.access.write_text(p.text, encoding="utf-8")
        await p.w.pass_time(READ)
        await prometheus.see()

        await p.report()
        p.silent = {min(await p.w.vms())}
        assert await p.asks("WINDOWS") == 200
        async with again_and_again(30, p.report):
            await p.w.pass_time(130)
            await prometheus.see(
                "MachineProviderAgentsSilent", "MachineProviderRequestsWait", minutes=45
            )
            said = await operator.follows(OURS["MachineProviderRequestsWait"])
            assert "no machine fits" in said
            await p.gives_up()
            (name,) = p.silent
            assert name in await operator.follows(OURS["MachineProviderAgentsSilent"], NAME=name)
            await p.w.until(lambda: p.w.lacks(name))
            await p.w.until_states(cataloged=4)
            await p.w.pass_time(READ)
            await prometheus.see()

            await p.w.inject("metadata.tokeninfo", status=503, times=None)
            async with again_and_again(5, p.asks):
                await p.w.pass_time(READ)
                await prometheus.see("MachineProviderCallsFail", minutes=25)
            await operator.follows(OURS["MachineProviderCallsFail"])
            await p.w.clear_faults()
            await p.w.pass_time(READ)
            await prometheus.see()

            await p.w.inject("datastore.*", status=503, times=None)
            await p.w.pass_time(READ)
            await prometheus.see("MachineProviderNoLeader")
            await operator.follows(OURS["MachineProviderNoLeader"])
            await p.w.clear_faults()
            await p.w.pass_time(READ)
            await prometheus.see()

            await p.service.abort()
            await prometheus.see("MachineProviderDown")
            await operator.follows(OURS["MachineProviderDown"])
            await p.start()
            await p.w.pass_time(READ)
            await prometheus.see()
    assert operator.followed == set(OURS.values())
    assert wrong_alerts([prometheus.case()], tmp_path, PROVIDER_RULES) == ""
