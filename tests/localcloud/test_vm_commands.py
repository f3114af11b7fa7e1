"""What runs on VMs: a process for each, with a metadata server that knows its VM."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest

from gce_backend.base.clock import SystemClock
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.compute import ComputeService
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.tables import Tables
from gce_backend.localcloud.vm_commands import VmCommands
from localcloud.compute_world import GROUPS, INSTANCES, ZONE, World
from support.cloud_harness import FLAVOR
from support.patience import PATIENCE
from support.simulation import VirtualClock

pytestmark = pytest.mark.real_time

PROGRAM = """
import json, os, pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
booted = pathlib.Path("boots")
booted.write_text(booted.read_text() + "+" if booted.exists() else "+")
print("booted", flush=True)
pathlib.Path("new").write_text(json.dumps({**os.environ, "pids": [os.getpid(), child.pid]}))
pathlib.Path("new").rename("seen")
child.wait()
"""
ACCOUNT = "worker@fleet-1.iam.gserviceaccount.com"


class Vms:
    """A cloud whose VMs run something, and one VM in a group.

    Attributes:
        name: the VM's name.
        id: its id.
    """

    def __init__(self, at: World, session: aiohttp.ClientSession, directory: Path) -> None:
        self.at = at
        self.session = session
        self.directory = directory
        self.name = self.id = ""

    @property
    def disk(self) -> Path:
        """The VM's directory."""
        return self.directory / f"{self.name}-{self.id}"

    async def create(self) -> dict[str, Any]:
        """A VM that has booted; returns what its process has seen."""
        await self.at.template(
            serviceAccounts=[{"email": ACCOUNT, "scopes": ["scope-1"]}],
            metadata={"items": [{"key": "color", "value": "red"}]},
        )
        await self.at.group(size=1)
        await self.at.stable()
        [member] = await self.at.members()
        self.name = member["name"]
        self.id = (await self.at.get(f"{INSTANCES}/{self.name}"))["id"]
        return await self.seen()

    async def seen(self) -> dict[str, Any]:
        """What the VM's process has found in its environment, and its process ids."""
        await until((self.disk / "seen").exists)
        found: dict[str, Any] = msgspec.json.decode((self.disk / "seen").read_bytes())
        return found

    async def get(self, host: str, path: str, **headers: str) -> tuple[int, str]:
        """Asks the VM's metadata server."""
        url = f"http://{host}/computeMetadata/v1/{path}"
        async with self.session.get(url, headers=headers or FLAVOR) as response:
            return response.status, await response.text()


async def until(condition: Callable[[], object]) -> None:
    """Waits in real time."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (files and processes set no event)
            await asyncio.sleep(0.02)


def alive(pids: list[int]) -> list[int]:
    """Which of these processes run."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"):
                found.append(pid)
    return found


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *command: str) -> AsyncIterator[Vms]:
    """A cloud without latencies in which each VM runs a command."""
    options = msgspec.structs.replace(
        CloudOptions().instant(),
        authenticate=False,
        vm_command=command or (sys.executable, "-c", PROGRAM),
        vm_directory=tmp_path / "vms",
    )
    cloud = Cloud(Tables(None), SystemClock(), options)
    metadata, compute = MetadataService(cloud), ComputeService(cloud)
    cloud.add(metadata, compute, VmCommands(cloud, compute, metadata))
    await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            at = World(cloud, session, VirtualClock())
            yield Vms(at, session, tmp_path / "vms")
    finally:
        await cloud.close()


async def test_a_process_runs_while_its_vm_does_and_ends_with_all_it_started(
    tmp_path: Path,
) -> None:
    """The VM's directory outlives a stop, and goes with the VM."""
    async with running(tmp_path) as vms:
        first = await vms.create()
        assert len(alive(first["pids"])) == 2
        assert (vms.disk / "console.log").read_text() == "booted\n"
        (vms.disk / "seen").unlink()
        vm = f"{INSTANCES}/{vms.name}"
        await vms.at.done(await vms.at.post(f"{vm}/stop"))
        await until(lambda: not alive(first["pids"]))
        await vms.at.done(await vms.at.post(f"{vm}/start"))
        second = await vms.seen()
        assert (vms.disk / "boots").read_text() == "++"
        url = f"zones/{ZONE}/instances/{vms.name}"
        await vms.at.done(await vms.at.post(f"{vm}/stop"))
        await until(lambda: not alive(second["pids"]))
        await vms.at.post(f"{GROUPS}/workers/deleteInstances", {"instances": [url]})
        await until(lambda: not vms.disk.exists())


async def test_a_process_ends_with_the_cloud(tmp_path: Path) -> None:
    """And its directory stays for the next time."""
    async with running(tmp_path) as vms:
        seen = await vms.create()
    await until(lambda: not alive(seen["pids"]))
    assert (vms.disk / "boots").exists()
    async with running(tmp_path):  # in which there is no such VM
        await until(lambda: not vms.disk.exists())


async def test_a_vm_finds_itself_in_its_metadata(tmp_path: Path) -> None:
    """Name, id, zone, metadata, and tokens of its own account that name it."""
    async with running(tmp_path) as vms:
        host = (await vms.create())["GCE_METADATA_HOST"]
        assert await vms.get(host, "instance/name") == (200, vms.name)
        assert await vms.get(host, "instance/id") == (200, vms.id)
        assert (await vms.get(host, "instance/zone"))[1].endswith(f"/zones/{ZONE}")
        assert await vms.get(host, "instance/attributes/color") == (200, "red")
        assert (await vms.get(host, "instance/attributes/"))[1].splitlines()[:1] == ["color"]
        assert (await vms.get(host, "instance/attributes/size"))[0] == 404
        assert (await vms.get(host, "instance/name", Accept="text/plain"))[0] == 403
        account = "instance/service-accounts/default"
        assert await vms.get(host, f"{account}/email") == (200, ACCOUNT)
        status, text = await vms.get(host, f"{account}/token")
        token = msgspec.json.decode(text)["access_token"]
        form = {"access_token": token}
        async with vms.session.post(f"{vms.at.cloud.base_url}/tokeninfo", data=form) as answer:
            info = await answer.json()
        assert (status, info["email"], info["scope"]) == (200, ACCOUNT, "scope-1")
        status, text = await vms.get(host, f"{account}/identity?audience=a&format=full")
        claims = jwt.decode(text, options={"verify_signature": False})
        assert (claims["aud"], claims["email"]) == ("a", ACCOUNT)
        assert claims["google"]["compute_engine"]["instance_name"] == vms.name
        assert (await vms.get(host, f"{account}/identity"))[0] == 400
        assert (await vms.get(host, "instance/service-accounts/other/token"))[0] == 404


async def test_a_vm_waits_for_a_change_of_its_metadata(tmp_path: Path) -> None:
    """As its agent waits for its subscription; a wait that is over answers what there is."""
    async with running(tmp_path) as vms:
        host = (await vms.create())["GCE_METADATA_HOST"]
        key = "instance/attributes/pubsub_subscription?wait_for_change=true"
        assert (await vms.get(host, f"{key}&timeout_sec=0"))[0] == 404
        waiting = asyncio.create_task(vms.get(host, key))
        vm = await vms.at.get(f"{INSTANCES}/{vms.name}")
        items = [*vm["metadata"]["items"], {"key": "pubsub_subscription", "value": "mine"}]
        changed = {"fingerprint": vm["metadata"]["fingerprint"], "items": items}
        await vms.at.post(f"{INSTANCES}/{vms.name}/setMetadata", changed)
        async with asyncio.timeout(PATIENCE):
            assert await waiting == (200, "mine")


async def test_a_command_that_cannot_run_or_ends_leaves_the_cloud_as_it_is(
    tmp_path: Path,
) -> None:
    """The VM runs on; the state shows the exit code."""
    async with running(tmp_path, "/does/not/exist") as vms:
        await vms.at.template()
        await vms.at.group(size=1)
        await vms.at.stable()
        await until(lambda: vms.directory.exists() and list(vms.directory.iterdir()))
    async with running(tmp_path, sys.executable, "-c", "raise SystemExit(3)") as vms:
        await vms.at.template()
        await vms.at.group(size=1)
        await vms.at.stable()
        [member] = await vms.at.members()

        def state() -> Any:
            return vms.at.cloud._services[2].state().get(member["name"], {}).get("exit_code")

        await until(lambda: state() == 3)
        assert (await vms.at.get(f"{INSTANCES}/{member['name']}"))["status"] == "RUNNING"
