"""A Compute Engine to test: the embedded one behind HTTP, in simulated time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.compute import ComputeService
from gce_backend.localcloud.tables import Tables
from support.simulation import VirtualClock
from support.watch import BY_HAND

PROJECT = "fleet-1"
ZONE = "us-central1-a"
GROUPS = f"zones/{ZONE}/instanceGroupManagers"
INSTANCES = f"zones/{ZONE}/instances"
TEMPLATES = "global/instanceTemplates"
ROOT = "https://www.googleapis.com/compute/v1/"
EPOCH = 1_700_000_000.0 - 1_700_000_000.0 % 60
OPTIONS = CloudOptions(operation_seconds=1.0, boot_seconds=4.0, delete_seconds=2.0)


class Reply(NamedTuple):
    """An answer: HTTP status and JSON body."""

    status: int
    body: Any

    @property
    def reason(self) -> str:
        """An error's reason; "" when it is none."""
        return str(self.body["error"]["errors"][0]["reason"]) if self.status >= 400 else ""


class World:
    """A cloud with only Compute in it, and somebody with a token who talks to it."""

    def __init__(self, cloud: Cloud, session: aiohttp.ClientSession, clock: VirtualClock) -> None:
        self.cloud = cloud
        self.clock = clock
        self._session = session

    async def call(
        self, verb: str, path: str, body: Any = None, project: str = PROJECT, **query: str
    ) -> Reply:
        """Any method; `path` begins behind the project."""
        url = f"{self.cloud.base_url}/compute/v1/projects/{project}/{path}"
        async with self._session.request(verb, url, json=body, params=query) as response:
            return Reply(response.status, await response.json())

    async def get(self, path: str, **query: str) -> Any:
        """The body of a GET that must succeed."""
        reply = await self.call("GET", path, **query)
        assert reply.status == 200, reply
        return reply.body

    async def post(self, path: str, body: Any = None, **query: str) -> Any:
        """The body of a POST that must succeed."""
        reply = await self.call("POST", path, body, **query)
        assert reply.status == 200, reply
        return reply.body

    async def done(self, operation: Any) -> Any:
        """The operation, once it is done."""
        where = operation["selfLink"].removeprefix(f"{ROOT}projects/{PROJECT}/")
        ended = await self.post(f"{where}/wait")
        assert ended["status"] == "DONE", ended
        return ended

    async def template(self, name: str = "small", **properties: Any) -> Any:
        """Makes a template and waits for it."""
        body = template_body(name, **properties)
        return await self.done(await self.post(TEMPLATES, body))

    async def group(self, name: str = "workers", size: int = 2, **fields: Any) -> Any:
        """Makes a group of the template `small` and waits for it, not for its VMs."""
        return await self.done(await self.post(GROUPS, group_body(name, size, **fields)))

    async def members(self, name: str = "workers") -> list[Any]:
        """A group's managed instances, from all pages."""
        path = f"{GROUPS}/{name}/listManagedInstances"
        page = await self.post(path)
        found = list(page.get("managedInstances", []))
        while "nextPageToken" in page:
            page = await self.post(path, pageToken=page["nextPageToken"])
            found += page.get("managedInstances", [])
        return found

    async def stable(self, name: str = "workers") -> Any:
        """The group, once nothing is going on in it; asserts that this takes no hour."""
        for _ in range(3600):
            group = await self.get(f"{GROUPS}/{name}")
            if group["status"]["isStable"]:
                return group
            await asyncio.sleep(1)
        raise AssertionError(f"not stable: {group}")

    async def event(self, event: str, name: str, **query: str) -> int:
        """Lets something befall a VM; the HTTP status of the answer."""
        url = f"{self.cloud.base_url}/_localcloud/vms/{name}/{event}"
        async with self._session.post(url, params={"project": PROJECT, **query}) as response:
            return response.status

    async def later(self, seconds: float) -> None:
        """Lets simulated time pass."""
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def world(
    options: CloudOptions = OPTIONS, state: Path | None = None, epoch: float = EPOCH
) -> AsyncIterator[World]:
    """A running world; `state` is its state file."""
    clock = VirtualClock(epoch)
    cloud = Cloud(Tables(state), clock, options)
    cloud.add(ComputeService(cloud))
    cloud.authenticate_with(lambda _: True)
    await cloud.start()
    try:
        headers = {"Authorization": "Bearer a-token", **BY_HAND}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield World(cloud, session, clock)
    finally:
        await cloud.close()


def template_body(name: str = "small", **properties: Any) -> dict[str, Any]:
    """A valid instance template."""
    disk = {
        "boot": True,
        "autoDelete": True,
        "initializeParams": {
            "sourceImage": "projects/images-1/global/images/family/debian",
            "diskSizeGb": "20",
            "diskType": "pd-ssd",
        },
    }
    defaults = {
        "machineType": "n1-standard-2",
        "disks": [disk],
        "networkInterfaces": [
            {
                "network": "global/networks/default",
                "accessConfigs": [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}],
            }
        ],
        "metadata": {"items": [{"key": "role", "value": "worker"}]},
        "labels": {"owner": "tests"},
        "tags": {"items": ["internal"]},
        "serviceAccounts": [{"email": "vm@fleet-1.iam.gserviceaccount.com", "scopes": ["a"]}],
    }
    return {"name": name, "description": f"made {name}", "properties": defaults | properties}


def group_body(name: str = "workers", size: int = 2, **fields: Any) -> dict[str, Any]:
    """A valid group of the template `small` that does not repair."""
    defaults = {
        "name": name,
        "instanceTemplate": f"{ROOT}projects/{PROJECT}/global/instanceTemplates/small",
        "baseInstanceName": name,
        "targetSize": size,
        "listManagedInstancesResults": "PAGINATED",
        "instanceLifecyclePolicy": {"defaultActionOnFailure": "DO_NOTHING"},
    }
    return defaults | fields
