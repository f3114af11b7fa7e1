"""What machines' agents say and are told, and what lessees see of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gce_backend.machine_provider.client import (
    FixedToken,
    LeaseClient,
    LeasePreemptedError,
    connected,
    leased,
)
from gce_backend.machine_provider.lease_documents import MachineTrouble, NewLease
from machine_provider.test_leases_api import LIMITED, Api
from machine_provider.test_service import until_ready
from support.provider_harness import DAEMON, place

ACCOUNT = "worker@fleet.iam.gserviceaccount.com"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPd/4 ann@laptop"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPd/5 ann@laptop"
SSH = {"address": "10.0.0.7", "port": 22, "login": "lessee", "host_keys": ["ssh-ed25519 AAAA"]}


def digest(key: str) -> str:
    """How an agent tells that it lets a key in."""
    return hashlib.sha256(key.encode()).hexdigest()


class Fleet(Api):
    """The API, with machines that speak for themselves."""

    async def add_vm(self, *names: str) -> None:
        """Adds machines of one project and one account."""
        for name in names:
            body = {
                "dimensions": {"hostname": name, "os_family": "LINUX", "project": "fleet"},
                "policies": {"machine_service_account": ACCOUNT},
            }
            await self.place.ok(self.service, "catalog.add_machine", body, DAEMON)
        await asyncio.sleep(1)

    async def report(self, name: str, *, vm: str = "", **said: Any) -> tuple[int, Any]:
        """What a machine's agent says, with the token of that VM or of `vm`."""
        project, _, instance = (vm or f"fleet/{name}").partition("/")
        claims = {
            "aud": "mp",
            "sub": "1",
            "email": ACCOUNT,
            "email_verified": True,
            "google": {"compute_engine": {"project_id": project, "instance_name": instance}},
        }
        url = f"{self.place.cloud.base_url}/_localcloud/identity-tokens"
        async with self.place._session.post(url, json=claims) as response:
            token = (await response.json())["id_token"]
        url = f"{self.service.url}/api/v1/machines/{name}:report"
        headers = {"Authorization": f"Bearer {token}"}
        body = {"version": "1", **said}
        async with self.place._session.post(url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def metrics(self) -> str:
        """The metrics as text."""
        return str((await self.place.send(self.service, "GET", "/metrics"))[1])

    async def agents(self) -> dict[str, int]:
        """The metric of the agents."""
        text = await self.metrics()
        prefix = 'machine_provider_agents{state="'
        lines = [line for line in text.splitlines() if line.startswith(prefix)]
        words = [line.removeprefix(prefix).split('"} ') for line in lines]
        return {state: int(float(number)) for state, number in words}


@contextlib.asynccontextmanager
async def fleet(tmp_path: Path, **provider: Any) -> AsyncIterator[Fleet]:
    """One process with these settings that believes the cloud's identity tokens."""
    async with place(tmp_path) as p:
        issuer = f'issuers {{ url: "{p.cloud.base_url}" audiences: "mp" email_domains: "*" }}\n'
        p.access.write_text(issuer + LIMITED, encoding="utf-8")
        service = await p.start(**provider)
        await until_ready(p, service)
        yield Fleet(p, service)


async def test_a_machine_is_told_whom_to_let_in_and_its_lessee_where(tmp_path: Path) -> None:
    """From the lease to its end."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1")
        assert await mp.report("vm-1", ssh=SSH) == (200, {"state": "AVAILABLE"})
        lease = await mp.lease("r1", ssh_keys=[KEY], label="night")
        assert lease["ssh"] == [{"machine": "vm-1", **SSH, "ready": False}]
        told = {
            "id": lease["id"],
            "user": "ann@example.com",
            "label": "night",
            "ends_at": lease["ends_at"],
            "ssh_keys": [KEY],
        }
        assert await mp.report("vm-1", ssh=SSH) == (200, {"state": "LEASED", "lease": told})
        await mp.report("vm-1", ssh=SSH, serves=lease["id"], admits=digest(KEY))
        assert (await mp.get(lease))["ssh"][0]["ready"] is True
        await mp.ok("POST", f"leases/{lease['id']}:admit", {"ssh_keys": [OTHER_KEY]})
        assert (await mp.get(lease))["ssh"][0]["ready"] is False
        _, orders = await mp.report("vm-1", ssh=SSH, serves=lease["id"], admits=digest(KEY))
        assert orders["lease"]["ssh_keys"] == [OTHER_KEY]
        await mp.report("vm-1", ssh=SSH, serves=lease["id"], admits=digest(OTHER_KEY))
        assert (await mp.get(lease))["ssh"][0]["ready"] is True
        path = f"leases/{lease['id']}"
        moved = await mp.ok("POST", f"{path}:transfer", {"user": "cy@example.com"})
        assert moved["ssh"][0]["ready"] is False
        _, orders = await mp.report("vm-1", ssh=SSH, serves=lease["id"], admits=digest(OTHER_KEY))
        del told["ssh_keys"]
        assert orders["lease"] == {**told, "user": "cy@example.com"}
        await mp.ok("POST", f"{path}:release", who="cy@example.com")
        await asyncio.sleep(1)
        assert await mp.report("vm-1", ssh=SSH, serves=lease["id"]) == (200, {"state": "GONE"})
        assert "ssh" not in await mp.get(lease)
        assert (await mp.report("vm-1", ssh=SSH))[0] == 404


async def test_who_served_an_earlier_lease_is_not_ready_for_the_next_one(tmp_path: Path) -> None:
    """A machine that was added again under its name has said nothing yet."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1")
        lease = await mp.lease("r1", ssh_keys=[KEY])
        await mp.report("vm-1", ssh=SSH, serves=lease["id"])
        await mp.ok("POST", f"leases/{lease['id']}:release")
        await asyncio.sleep(1)
        await mp.add_vm("vm-1")
        again = await mp.lease("r2", ssh_keys=[KEY])
        assert "ssh" not in again
        await mp.report("vm-1", ssh=SSH, serves=lease["id"], admits=digest(KEY))
        assert (await mp.get(again))["ssh"][0]["ready"] is False


async def test_a_report_that_says_nothing_new_is_not_stored(tmp_path: Path) -> None:
    """Many thousand machines repeat themselves."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1")
        await mp.report("vm-1", ssh=SSH)
        calls = mp.place.cloud.calls
        before = calls["datastore.projects.commit"]
        assert (await mp.report("vm-1", ssh=SSH))[0] == 200
        assert calls["datastore.projects.commit"] == before
        await mp.report("vm-1", ssh={**SSH, "port": 2222})
        assert calls["datastore.projects.commit"] == before + 1


async def test_a_machine_without_a_living_agent_is_not_leased_where_one_is_required(
    tmp_path: Path,
) -> None:
    """The request says why it waits, and gets the machine with the agent's next report."""
    async with fleet(tmp_path, require_agent=True, agent_silent_seconds=60) as mp:
        await mp.add_vm("vm-1")
        lease = await mp.lease("r1")
        why = "of 1 machine that fit, 0 can be leased; the agents of 1 do not report"
        assert (lease["waiting"]["reason"], lease["waiting"]["message"]) == ("no_agent", why)
        [shown] = (await mp.ok("GET", "machines"))["machines"]
        assert (shown["state"], shown.get("agent"), shown.get("leasable")) == (
            "AVAILABLE",
            None,
            None,
        )
        await mp.report("vm-1")
        await asyncio.sleep(1)
        assert (await mp.get(lease))["machines"] == ["vm-1"]


async def test_a_machine_whose_agent_is_silent_is_not_handed_out(tmp_path: Path) -> None:
    """It is told in list and metrics; a machine that never had an agent is leased all the same."""
    async with fleet(tmp_path, agent_silent_seconds=60) as mp:
        await mp.add_vm("vm-1", "vm-2")
        await mp.report("vm-1")
        await asyncio.sleep(50)
        await mp.report("vm-1")
        await asyncio.sleep(50)
        assert await mp.agents() == {"reports": 1, "silent": 0, "none": 1}
        await asyncio.sleep(20)
        shown = (await mp.ok("GET", "machines"))["machines"]
        assert [(one.get("agent"), one.get("leasable")) for one in shown] == [
            ("silent", None),
            (None, True),
        ]
        assert await mp.agents() == {"reports": 0, "silent": 1, "none": 1}
        assert (await mp.lease("r1"))["machines"] == ["vm-2"]
        waits = await mp.lease("r2")
        assert waits["state"] == "pending"
        await mp.report("vm-1")
        await asyncio.sleep(1)
        assert (await mp.get(waits))["machines"] == ["vm-1"]
        assert await mp.agents() == {"reports": 1, "silent": 0, "none": 1}


async def test_a_machine_speaks_for_itself_alone(tmp_path: Path) -> None:
    """All have the same account: another VM's token is refused, and one that names no VM."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1", "vm-2")
        lease = await mp.lease("r1", ssh_keys=[KEY])
        for vm in ("fleet/vm-2", "elsewhere/vm-1"):
            assert (await mp.report("vm-1", vm=vm, ssh=SSH))[0] == 404
            assert (await mp.report("vm-1", vm=vm, serves=lease["id"]))[0] == 404
        status, _ = await mp("POST", "machines/vm-1:report", {"version": "1"}, ACCOUNT)
        assert status == 404
        status, _ = await mp("POST", "machines/vm-1:report", {"version": "1"})
        assert status == 404
        assert "ssh" not in await mp.get(lease)


@pytest.mark.parametrize(
    "key",
    [
        'command="rm -rf /" ssh-ed25519 AAAA',
        "ssh-ed25519 AAAA\nssh-ed25519 BBBB",
        "ssh-ed25519 AAAA\n",
        "ssh-dss AAAA",
        "ssh-ed25519",
        "ssh-ed25519 " + "A" * 3000,
    ],
)
async def test_only_plain_public_keys_are_taken(tmp_path: Path, key: str) -> None:
    """A key becomes a line of a file: no options, and no second line."""
    async with fleet(tmp_path) as mp:
        body = {"request_id": "r", "duration": 60, "ssh_keys": [key]}
        assert (await mp.refused("POST", "leases", body)).startswith("400")


@pytest.mark.parametrize(
    "ssh",
    [
        {"address": "-oProxyCommand=x y"},
        {"address": "-F10.0.0.7"},
        {"login": "-l"},
        {"login": "root;"},
        {"port": 0},
        {"host_keys": []},
        {"host_keys": ["ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"]},
    ],
)
async def test_what_a_machine_says_of_its_ssh_server_is_plain(
    tmp_path: Path, ssh: dict[str, Any]
) -> None:
    """A lessee's computer uses it in a command."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1")
        assert (await mp.report("vm-1", ssh=SSH | ssh))[0] == 400


async def test_the_lessee_of_a_preempted_machine_is_told_within_5_s_and_its_lease_ends(
    tmp_path: Path,
) -> None:
    """As PREEMPTED, 30 s later: until then the machine is theirs. A free one is not leased."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1", "vm-2")
        loop, told = asyncio.get_running_loop(), list[tuple[float, MachineTrouble]]()
        wanted = NewLease(request_id="r1", duration=3600, count=2)
        token = FixedToken(await mp.place.token("ann@example.com"))

        async def work(client: LeaseClient) -> None:
            async with leased(client, wanted, troubled=lambda one: told.append((loop.time(), one))):
                await asyncio.sleep(21)
                await mp.report("vm-1", preempted=True)
                await asyncio.sleep(100)  # the other machine is still there
                await mp.report("vm-2", preempted=True)
                await asyncio.sleep(3600)

        begun = loop.time()
        async with connected(mp.service.url, token) as client:
            with pytest.raises(LeasePreemptedError, match=r"vm-1: .*; vm-2: .*\(preemption\)"):
                await work(client)
            assert 150 <= loop.time() - begun < 155
            assert [(one.machine, one.preempted) for _, one in told] == [
                ("vm-1", True),
                ("vm-2", True),
            ]
            for (at, _), reported in zip(told, (21, 121), strict=True):
                assert at - begun - reported < 5
            [lost] = (await client.leases()).leases
        assert (lost.state, lost.ended) == ("ended", "PREEMPTED")
        assert 'leases_ended_total{reason="PREEMPTED"} 1.0' in await mp.metrics()
        await mp.add_vm("vm-3")
        await mp.report("vm-3", preempted=True)
        waits = await mp.lease("r2")
        assert waits["state"] == "pending"
        [shown] = (await mp.ok("GET", "machines"))["machines"]
        assert "leasable" not in shown


async def test_who_waits_for_news_of_a_lease_hears_when_it_changes(tmp_path: Path) -> None:
    """Not sooner; and at once where what they know is old, or the process stops."""
    async with fleet(tmp_path) as mp:
        await mp.add_vm("vm-1")
        lease = await mp.lease("r1")
        loop = asyncio.get_running_loop()

        async def look(after: str, wait: int) -> tuple[float, Any]:
            begun = loop.time()
            path = f"leases/{lease['id']}?after={after}&wait={wait}"
            found = await mp.ok("GET", path)
            return loop.time() - begun, found

        waited, same = await look(lease["version"], 20)
        assert (round(waited), same["version"]) == (20, lease["version"])
        assert (await look("older", 20))[0] < 1
        waiting = asyncio.create_task(look(lease["version"], 50))
        await asyncio.sleep(5)
        await mp.ok("POST", f"leases/{lease['id']}:extend", {"duration": 9000})
        await asyncio.sleep(5)
        await mp.ok("POST", f"leases/{lease['id']}:release")
        waited, ended = await waiting
        assert (10 <= waited < 12, ended["state"]) == (True, "ended")
        assert (await mp("GET", f"leases/{lease['id']}?wait=56"))[0] == 400
