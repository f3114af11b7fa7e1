"""What the story sees and does, through public edges: cloud, Machine Provider, the daemon's API."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import msgspec

from gce_backend.base.errors import BackendError, TransientError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.machine_provider import LeaseRequest, MachineProviderClient
from gce_backend.demo import configuration
from gce_backend.demo.configuration import Template
from gce_backend.demo.show import Show
from gce_backend.machine_provider.client import LeaseClient
from gce_backend.machine_provider.lease_documents import LeaseDocument, NewLease
from gce_backend.machine_provider.wire import Dimensions

LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 90.0
MAX_REASONS = 12
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

T = TypeVar("T")


class DemoFailedError(BackendError):
    """Something is not as it must be; the message says what, and the fleet's reasons."""


class Vm(msgspec.Struct, frozen=True):
    """A VM: where it is, how it is, and its numeric id."""

    zone: str
    status: str
    id: str


class _Project(msgspec.Struct, frozen=True, rename="camel"):
    instance_templates: list[str] = []
    groups: dict[str, Any] = {}
    instances: dict[str, Vm] = {}
    disks: list[str] = []


class _Compute(msgspec.Struct, frozen=True):
    projects: dict[str, _Project] = {}


class _Datastore(msgspec.Struct, frozen=True):
    entities: dict[str, dict[str, int]] = {}


class _PubSub(msgspec.Struct, frozen=True):
    topics: list[str] = []
    subscriptions: dict[str, Any] = {}


class _Broker(msgspec.Struct, frozen=True):
    catalog: dict[str, str] = {}


class _State(msgspec.Struct, frozen=True):
    """`GET /_localcloud/state`."""

    compute: _Compute
    datastore: _Datastore
    pubsub: _PubSub
    machine_provider: _Broker


_STATE = msgspec.json.Decoder(_State)


class Picture(NamedTuple):
    """Everything that there is at one moment.

    Attributes:
        vms: by name.
        groups: names, as `zone/name`.
        templates: names of instance templates.
        disks: names.
        catalog: the Machine Provider's state of each machine, by host name.
        entities: the daemon's entities, by kind.
        channels: names of topics and subscriptions.
        fleet: the daemon's `/api/fleet`; None while it does not answer.
        jobs: its `/api/jobs`; None while it does not answer.
    """

    vms: Mapping[str, Vm]
    groups: frozenset[str]
    templates: frozenset[str]
    disks: frozenset[str]
    catalog: Mapping[str, str]
    entities: Mapping[str, int]
    channels: frozenset[str]
    fleet: Mapping[str, Any] | None
    jobs: Mapping[str, Any] | None

    def of(self, template: Template, zone: str | None = None) -> dict[str, Vm]:
        """A template's VMs."""
        return {
            name: vm
            for name, vm in self.vms.items()
            if name.startswith(f"{template.base_name}-") and zone in {None, vm.zone}
        }

    def leasable(self, template: Template, zone: str) -> int:
        """How many running machines somebody holds, or could get at this moment."""
        return sum(
            vm.status == "RUNNING" and self.catalog.get(name) in {"AVAILABLE", "LEASED"}
            for name, vm in self.of(template, zone).items()
        )

    def shown(self) -> Iterator[dict[str, Any]]:
        """The machines that the daemon shows."""
        for template in (self.fleet or {}).get("templates", ()):
            for revision in template["revisions"]:
                for group in revision["managers"]:
                    yield from group["instances"]

    def counts(self) -> dict[str, int]:
        """What people want to see at a glance."""
        states = Counter(self.catalog.values())
        return {
            "templates": len(self.templates),
            "groups": len(self.groups),
            "VMs": len(self.vms),
            "can be leased": states["AVAILABLE"],
            "leased": states["LEASED"],
        }

    def reasons(self) -> list[str]:
        """Why the fleet is as it is, in the daemon's words."""
        if self.fleet is None:
            return ["the daemon does not answer"]
        conditions = [
            f"{found['subject']}: {found['reason']}: {found['message']}"
            for found in self.fleet["conditions"]
        ]
        failed = [
            f"the job {job['name']} failed: {job['last']['error']}"
            for job in (self.jobs or {}).get("jobs", ())
            if job["last"] and job["last"]["error"]
        ]
        machines = [f"{m['name']} is {m['state']}: {m['reason']}" for m in self.shown()]
        return [*failed, *conditions, *machines][:MAX_REASONS]


Check = Callable[[Picture], Iterable[str]]
"""What is not yet as it must be, in words; nothing when all is well."""


class Stage:
    """Sees and acts.

    Args:
        cloud_url: where the embedded cloud listens.
        fleet_url: where the daemon listens now; asked anew for each request.
        project: the project of everything.
        config_dir: where the daemon reads templates.cfg and managers.cfg.
        token: what the daemon's orders must carry.
        show: what people see.
        patience: seconds that a step may take.
    """

    def __init__(
        self,
        *,
        cloud_url: str,
        fleet_url: Callable[[], str],
        project: str,
        config_dir: Path,
        token: str,
        show: Show,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.project = project
        self.show = show
        self._cloud_url = cloud_url
        self._fleet_url = fleet_url
        self._config_dir = config_dir
        self._token = token
        self._patience = patience

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0))
        self._tokens = TokenSource(
            self._session, metadata_root=self._cloud_url, scopes=SCOPES, metadata_only=True
        )
        self._broker = MachineProviderClient(
            session=self._session, tokens=self._tokens, instance_url=self._cloud_url
        )
        self._leases = LeaseClient(self._session, self._cloud_url, self._tokens)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tokens.close()
        await self._session.close()

    def configure(self, *templates: Template) -> None:
        """Replaces the configuration."""
        configuration.write(self._config_dir, self.project, templates)

    async def look(self) -> Picture:
        """What there is now.

        Raises:
            DemoFailedError: the cloud does not answer.
        """
        try:
            async with self._session.get(f"{self._cloud_url}/_localcloud/state") as response:
                state = _STATE.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            message = f"the embedded cloud does not answer: {type(error).__name__}"
            raise DemoFailedError(message) from None
        project = state.compute.projects.get(self.project, _Project())
        picture = Picture(
            vms=project.instances,
            groups=frozenset(project.groups),
            templates=frozenset(project.instance_templates),
            disks=frozenset(project.disks),
            catalog=state.machine_provider.catalog,
            entities=state.datastore.entities.get(self.project, {}),
            channels=frozenset((*state.pubsub.topics, *state.pubsub.subscriptions)),
            fleet=await self._ask("GET", "/api/fleet"),
            jobs=await self._ask("GET", "/api/jobs"),
        )
        self.show.see(picture.counts())
        return picture

    async def until(self, what: str, check: Check) -> Picture:
        """Waits until all is as it must be.

        Args:
            what: what is waited for, for people.
            check: tells what is lacking.

        Raises:
            DemoFailedError: not within the patience.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            picture = await self.look()
            lacking = list(check(picture))
            if not lacking:
                return picture
            if asyncio.get_running_loop().time() > deadline:
                raise failure(f"{what}: not within {self._patience:g} s", lacking, picture)
            await asyncio.sleep(LOOK_SECONDS)

    @contextlib.asynccontextmanager
    async def watching(
        self, measure: Callable[[Picture], Mapping[str, int]]
    ) -> AsyncIterator[dict[str, int]]:
        """Measures again and again while the block lasts; gives the lowest values seen."""
        lowest = dict(measure(await self.look()))

        async def watch() -> None:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for name, value in measure(await self.look()).items():
                    lowest[name] = min(lowest[name], value)

        watcher = asyncio.create_task(watch(), name="demo.watch")
        try:
            yield lowest
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    async def lease(self, request_id: str, template: Template) -> str:
        """Leases a machine of a template; returns its host name."""
        request = LeaseRequest(
            request_id=request_id,
            dimensions={"os_family": "LINUX", "os_version": template.os_version},
            indefinite=True,
        )

        async def ask() -> str | None:
            answer = await self._broker.lease(request)
            if answer.error or answer.state == "DENIED":
                message = f"the lease {request_id} was refused: {answer.error or answer.state}"
                raise DemoFailedError(message)
            return answer.hostname

        return await self.insist(f"the lease {request_id}", ask)

    async def release(self, request_id: str) -> None:
        """Gives a machine back."""

        async def ask() -> bool:
            answer = await self._broker.release(request_id)
            if answer.error not in {None, "ALREADY_RECLAIMED", "TRANSIENT_ERROR"}:
                raise DemoFailedError(f"the release of {request_id} was refused: {answer.error}")
            return answer.error != "TRANSIENT_ERROR"

        await self.insist(f"the release of {request_id}", ask)

    async def request(self, request_id: str, template: Template, count: int) -> LeaseDocument:
        """Requests machines of a template as a job does; returns the lease as it is then."""
        dimensions = Dimensions(os_family="LINUX", os_version=template.os_version)
        wanted = NewLease(
            request_id=request_id, dimensions=dimensions, count=count, without_end=True
        )
        return await self.insist(f"the request {request_id}", lambda: self._leases.create(wanted))

    async def granted(self, lease: str) -> LeaseDocument:
        """A lease once it has its machines."""

        async def ask() -> LeaseDocument | None:
            found = await self._leases.get(lease)
            return found if found.state == "active" else None

        return await self.insist(f"the machines of the lease {lease}", ask)

    async def give_back(self, lease: str) -> None:
        """Gives all machines of a lease back."""
        await self.insist(f"the release of {lease}", lambda: self._leases.release(lease))

    async def metadata(self, name: str, vm: Vm) -> dict[str, str]:
        """A VM's metadata; {} when it is not there."""
        path = f"/compute/v1/projects/{self.project}/zones/{vm.zone}/instances/{name}"
        headers = {"Authorization": f"Bearer {await self._tokens.get()}"}
        async with self._session.get(self._cloud_url + path, headers=headers) as response:
            found = await response.json()
        return {item["key"]: item["value"] for item in found.get("metadata", {}).get("items", ())}

    async def held_revision(self) -> str:
        """The configuration that waits for an operator's word."""

        async def ask() -> str | None:
            control = await self._ask("GET", "/api/control")
            return control["held_revision"] if control else None

        return await self.insist("a configuration that is held", ask)

    async def approve(self, revision: str) -> None:
        """Approves what is held."""

        async def ask() -> bool:
            return await self._ask("POST", "/api/approve", {"revision": revision}) is not None

        await self.insist("the approval", ask)

    async def insist(self, what: str, ask: Callable[[], Awaitable[T | None]]) -> T:
        """Asks until there is an answer that is not empty.

        Args:
            what: what is asked for, for people.
            ask: asks once.

        Raises:
            DemoFailedError: not within the patience.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            with contextlib.suppress(TransientError):
                if answer := await ask():
                    return answer
            if asyncio.get_running_loop().time() > deadline:
                raise failure(f"{what}: not within {self._patience:g} s", [], await self.look())
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self, verb: str, path: str, body: object = None) -> Any:
        """The daemon's answer; None while it has none."""
        headers = {"Authorization": f"Bearer {self._token}"} if verb == "POST" else {}
        url = self._fleet_url()
        if not url:
            return None
        try:
            async with self._session.request(
                verb, url + path, json=body, headers=headers
            ) as response:
                return await response.json() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None


def failure(message: str, lacking: Iterable[str], picture: Picture) -> DemoFailedError:
    """What went wrong, what was lacking, and the fleet's reasons."""
    lines = [
        message,
        *(f"  {text}" for text in lacking),
        "What the daemon says:",
        *(f"  {text}" for text in picture.reasons()),
    ]
    return DemoFailedError("\n".join(lines))
