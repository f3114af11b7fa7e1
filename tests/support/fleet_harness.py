"""A daemon and an embedded cloud in one simulated world, driven and observed over HTTP.

Use it for any test of a job or a story of several; time is simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.datastore.client import Datastore
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.daemon.local import local_settings
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.gce_client import ComputeClient
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.rules.ownership import Mark
from gce_backend.settings.settings import HttpSettings, JobSettings, Secret, Settings
from gce_backend.setup.addresses import configure
from gce_backend.setup.messaging import provision_messages
from simulation.direct import ShortWay, short
from simulation.network import Harmless, Request
from support.simulation import ProcessClock, VirtualClock, VirtualTimeLoop
from support.watch import BY_HAND

PROJECT = "local-project"
CONTROL_TOKEN = "let-me-operate-it"
CONFIG_CRON = "*/10 * * * * *"
"""When a world's daemon looks at its configuration in simulated time.

Every two seconds, as a local run does, would be most of what an idle hour costs; a roll-out begins
a few seconds later this way.
"""
_MOMENT = 1e-9
"""Seconds that pass only when nothing else is left to do at the present time."""
START = 1_800_000_017.25
"""The Unix seconds at which a world begins: its cron jobs come in the same order in each run."""
ZONE = "us-central1-a"
OTHER_ZONE = "europe-west1-b"


def template(base_name: str = "linux", **fields: str | int) -> str:
    """A template of templates.cfg; `fields` override or add scalar fields."""
    values: dict[str, str | int] = {
        "base_name": base_name,
        "project": PROJECT,
        "machine_type": "e2-small",
        "image_name": "debian-12",
        "disk_size_gb": 20,
        **fields,
    }
    lines = [f"  {key}: {msgspec.json.encode(value).decode()}" for key, value in values.items()]
    scope = "https://www.googleapis.com/auth/pubsub"
    account = f'  service_accounts {{ name: "default" scopes: "{scope}" }}'
    return "\n".join(["templates {", *lines, account, '  dimensions: "os_family:LINUX"', "}\n"])


def manager(
    base_name: str = "linux",
    zone: str = ZONE,
    minimum: int = 3,
    maximum: int | None = None,
    **fields: int,
) -> str:
    """A manager of managers.cfg; `fields` adds scalar fields."""
    if maximum is not None:
        fields = {"maximum_size": maximum, **fields}
    more = "".join(f" {name}: {value}" for name, value in fields.items())
    return (
        f'managers {{ template_base_name: "{base_name}" zone: "{zone}" '
        f"minimum_size: {minimum}{more} }}\n"
    )


class World:
    """The daemon and the cloud.

    Attributes:
        cloud: the embedded cloud.
        daemon: the daemon that runs now.
        clock: the simulated time of both.
        config_dir: where templates.cfg and managers.cfg lie.
    """

    def __init__(
        self, cloud: Cloud, clock: VirtualClock, config_dir: Path, session: aiohttp.ClientSession
    ) -> None:
        self.cloud = cloud
        self.clock = clock
        self.config_dir = config_dir
        self.session = session
        self.settings = Settings()
        self._seed = 0
        self.daemon: Daemon
        self.daemon_clock: ProcessClock
        self._token = ""

    def write_config(self, templates: str, managers: str) -> None:
        """Replaces the configuration."""
        (self.config_dir / "templates.cfg").write_text(templates)
        (self.config_dir / "managers.cfg").write_text(managers)

    async def start_daemon(self, *, ahead: float = 0.0) -> None:
        """Starts a daemon; like a new process, it knows only what the store holds.

        Args:
            ahead: seconds by which its clock is ahead.
        """
        self._seed += 1
        self.daemon_clock = ProcessClock(self.clock)
        self.daemon_clock.ahead = ahead
        self.daemon = Daemon(self.settings, clock=self.daemon_clock, rng=random.Random(self._seed))
        await self.daemon.start()

    @contextlib.asynccontextmanager
    async def fleet(self, settings: Settings | None = None) -> AsyncIterator[Fleet]:
        """The stored entities, read by somebody else.

        Args:
            settings: of the daemon whose store it is; by default of this world's.
        """
        used = settings or self.settings
        clients = Clients(used, self.clock, random.Random(0), Metrics())
        try:
            fleet = Fleet(Store(clients.datastore(PROJECT)), clock=self.clock)
            await fleet.load()
            yield fleet
        finally:
            await clients.close()

    @contextlib.asynccontextmanager
    async def datastore(self) -> AsyncIterator[Datastore]:
        """The store's client, for what somebody writes by hand."""
        clients = Clients(self.settings, self.clock, random.Random(0), Metrics())
        try:
            yield clients.datastore(PROJECT)
        finally:
            await clients.close()

    @contextlib.asynccontextmanager
    async def compute_client(self) -> AsyncIterator[ComputeClient]:
        """Compute's client, for what commands do."""
        clients = Clients(self.settings, self.clock, random.Random(0), Metrics())
        try:
            yield clients.compute(CallBudget(self.clock, dict.fromkeys(QuotaGroup, 10_000)))
        finally:
            await clients.close()

    async def mark(self) -> Mark:
        """What the daemon marks with at Compute; its store gets an id if it has none."""
        async with self.fleet() as fleet:
            return Mark(self.settings.owner, await fleet.identify("0123456789ab"))

    async def crash_daemon(self) -> None:
        """Ends the daemon where it stands."""
        await self.daemon.abort()

    async def restart_daemon(self) -> None:
        """Crashes the daemon and starts another one."""
        await self.crash_daemon()
        await self.start_daemon()

    async def get(self, path: str) -> Any:
        """A JSON document of the daemon."""
        async with self.session.get(self.daemon.url + path) as response:
            return msgspec.json.decode(await response.read())

    async def act(self, path: str, body: Any = None, token: str = CONTROL_TOKEN) -> int:
        """A POST to the daemon that acts; returns the status."""
        headers = {"Authorization": f"Bearer {token}"}
        url = self.daemon.url + path
        # On a connection of its own: one that was idle may be closed by the daemon at this moment.
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=body, headers=headers) as response,
        ):
            return response.status

    async def machines(self, template: str | None = None) -> list[dict[str, Any]]:
        """The machines that the daemon shows, each with `template`, `revision` and `zone`."""
        fleet = await self.get("/api/fleet")
        return [
            {
                **instance,
                "template": shown["base_name"],
                "revision": revision["revision"],
                "zone": group["zone"],
            }
            for shown in fleet.get("templates", ())
            for revision in shown["revisions"]
            for group in revision["managers"]
            for instance in group["instances"]
            if template in {None, shown["base_name"]}
        ]

    async def states(self, template: str | None = None) -> Counter[str]:
        """How many machines are in which state."""
        return Counter(machine["state"] for machine in await self.machines(template))

    async def cloud_state(self, *services: str) -> dict[str, Any]:
        """What exists in the cloud, by service; of these services alone, if some are named.

        It is read in memory, because most of what a world is asked is this; what is under way
        arrives first.
        """
        await asyncio.sleep(_MOMENT)
        state: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.cloud.state(services)))
        return state

    async def _existing(self, kind: str) -> dict[str, dict[str, Any]]:
        projects = (await self.cloud_state("compute"))["compute"]["projects"]
        found: dict[str, dict[str, Any]] = projects.get(PROJECT, {}).get(kind, {})
        return found

    async def vms(self) -> dict[str, dict[str, Any]]:
        """The VMs that exist, by name."""
        return await self._existing("instances")

    async def groups(self) -> dict[str, dict[str, Any]]:
        """The groups that exist, by `zone/name`."""
        return await self._existing("groups")

    async def catalog(self) -> dict[str, str]:
        """The machines that the Machine Provider has, by host name, and their states there."""
        state = await self.cloud_state("machine_provider")
        found: dict[str, str] = state["machine_provider"].get("catalog", {})
        return found

    async def calls(self) -> Counter[str]:
        """Calls since the last reset, by method."""
        async with self.session.get(f"{self.cloud.base_url}/_localcloud/calls") as response:
            return Counter(await response.json())

    async def reset_calls(self) -> None:
        """Counts calls from 0 again."""
        async with self.session.delete(f"{self.cloud.base_url}/_localcloud/calls"):
            pass

    async def inject(self, method: str, **fields: Any) -> None:
        """Injects a fault."""
        fault = {"method": method, **fields}
        url = f"{self.cloud.base_url}/_localcloud/faults"
        async with self.session.post(url, json=fault) as response:
            assert response.status == 200, await response.text()

    async def fired(self) -> int:
        """How often the faults in force have struck, all together."""
        async with self.session.get(f"{self.cloud.base_url}/_localcloud/faults") as response:
            return sum(fault.get("fired", 0) for fault in await response.json())

    async def clear_faults(self) -> None:
        """Ends all faults."""
        async with self.session.delete(f"{self.cloud.base_url}/_localcloud/faults"):
            pass

    async def call(self, verb: str, path: str, body: Any = None) -> Any:
        """An authenticated call to the cloud, as somebody else would make it: the JSON answer."""
        if not self._token:
            url = "/computeMetadata/v1/instance/service-accounts/default/token"
            headers = {"Metadata-Flavor": "Google"}
            async with self.session.get(self.cloud.base_url + url, headers=headers) as response:
                self._token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {self._token}", **BY_HAND}
        url = self.cloud.base_url + path
        async with self.session.request(verb, url, json=body, headers=headers) as response:
            if response.status != 401:
                return await response.json()
        self._token = ""  # it has expired, or was taken back
        return await self.call(verb, path, body)

    async def compute(self, verb: str, path: str, body: Any = None) -> Any:
        """A call to Compute by somebody else; `path` begins behind the project."""
        return await self.call(verb, f"/compute/v1/projects/{PROJECT}/{path}", body)

    async def broker(self, method: str, body: Any) -> Any:
        """A call to the Machine Provider, e.g. `machine_provider.lease`."""
        api, name = method.split(".")
        return await self.call("POST", f"/_ah/api/{api}/v1/{name}", body)

    async def lease(self, request_id: str = "r1", duration: int = 3600, **dimensions: Any) -> str:
        """Leases a machine, and waits until the daemon knows; returns its host name."""
        wanted = {"os_family": "LINUX", **dimensions}
        request = {"request_id": request_id, "duration": duration, "dimensions": wanted}
        hostname = ""

        async def fulfilled() -> bool:
            nonlocal hostname
            answer = await self.broker("machine_provider.lease", request)
            hostname = answer.get("hostname", "")
            return bool(hostname)

        await self.until(fulfilled)
        await self.until(lambda: self.is_in(hostname, "leased"))
        return hostname

    async def release(self, request_id: str = "r1") -> Any:
        """Ends a lease, however often that takes: a clock that is wrong may refuse a token."""
        answer: Any = {}

        async def answered() -> bool:
            nonlocal answer
            answer = await self.broker("machine_provider.release", {"request_id": request_id})
            return not isinstance(answer.get("error"), dict)

        await self.until(answered)
        return answer

    async def is_in(self, name: str, *states: str) -> bool:
        """Whether a machine is in one of these states."""
        return any(m["name"] == name and m["state"] in states for m in await self.machines())

    async def until(
        self,
        condition: Callable[[], Awaitable[bool]],
        within: float = 600.0,
        every: float | None = None,
    ) -> float:
        """Lets simulated time pass until something holds; returns the seconds it took.

        Args:
            condition: what shall hold.
            within: how many seconds that may take.
            every: how many seconds are between two looks; by default half a second, and more where
                much time may pass.
        """
        every = max(0.5, within / 1200) if every is None else every
        start = self.clock.monotonic()
        while not await condition():
            if self.clock.monotonic() - start > within:
                detail = msgspec.json.encode(
                    {"states": await self.states(), "fleet": await self.get("/api/fleet")}
                )
                raise AssertionError(f"not within {within} s: {detail.decode()[:4000]}")
            await asyncio.sleep(every)
        return self.clock.monotonic() - start

    async def until_states(
        self, within: float = 600.0, every: float | None = None, **wanted: int
    ) -> float:
        """Lets time pass until exactly these machines are there (`_` for `-`; no deleted ones)."""
        counts = {state.replace("_", "-"): count for state, count in wanted.items() if count}

        async def reached() -> bool:
            states = await self.states()
            states.pop("deleted", None)
            return dict(states) == counts

        return await self.until(reached, within, every)

    async def is_loaded(self) -> bool:
        """Whether the daemon has read its entities."""
        return self.daemon.context is not None

    async def has_vms(self, number: int) -> bool:
        """Whether there are so many VMs."""
        return len(await self.vms()) == number

    async def has_fired(self) -> bool:
        """Whether an injected fault has struck."""
        return await self.fired() >= 1

    def jump(self, seconds: float) -> None:
        """Sets the wall clock ahead, or back; monotonic time goes on as before."""
        self.clock.epoch += seconds

    async def lacks(self, name: str) -> bool:
        """Whether a VM is gone."""
        return name not in await self.vms()

    async def has_no_vms(self) -> bool:
        """Whether all VMs are gone."""
        return not await self.vms()

    async def shows_minimum(self, minimum: int, template: str = "linux") -> bool:
        """Whether the daemon shows a manager of this template with this minimum size."""
        return any(
            group["minimum_size"] == minimum
            for shown in (await self.get("/api/fleet")).get("templates", ())
            if shown["base_name"] == template
            for revision in shown["revisions"]
            for group in revision["managers"]
        )

    async def pass_time(self, seconds: float) -> None:
        """Lets simulated time pass."""
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def world(
    tmp_path: Path,
    *,
    templates: str | None = None,
    managers: str | None = None,
    options: CloudOptions | None = None,
    settings: Settings | None = None,
    state: Path | None = None,
    crons: Mapping[str, str] | None = None,
    start: bool = True,
    epoch: float = START,
) -> AsyncIterator[World]:
    """A running world; its configuration is one template with one manager of three machines.

    Args:
        tmp_path: where the configuration is written.
        templates: templates.cfg.
        managers: managers.cfg.
        options: how the cloud behaves; by default without latencies.
        settings: the daemon's settings; endpoints and configuration source are filled in.
        state: the cloud's state file.
        crons: jobs' cron expressions; see CONFIG_CRON for import-config.
        start: whether to start the daemon.
        epoch: the wall-clock time at the beginning, Unix seconds.
    """
    clock = VirtualClock(epoch)
    config_dir = tmp_path / "config"
    config_dir.mkdir(exist_ok=True)
    given = options or CloudOptions().instant()
    cloud = embedded_cloud(state, clock, msgspec.structs.replace(given, config_dir=config_dir))
    url = await cloud.start()
    session = aiohttp.ClientSession()
    made = World(cloud, clock, config_dir, session)
    made.write_config(templates or template(), managers or manager())
    base = settings or Settings()
    http = HttpSettings(port=0, token=Secret(CONTROL_TOKEN))
    simulated = isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    imports = JobSettings(cron=CONFIG_CRON if simulated else "* * * * * *")
    jobs = {name: JobSettings(cron=cron) for name, cron in (crons or {}).items()}
    jobs = {"import-config": imports, **base.jobs, **jobs}
    base = msgspec.structs.replace(base, http=http, jobs=jobs)
    made.settings = local_settings(base, url, PROJECT, config_dir)
    try:
        with _short_way(cloud):
            await prepare(made, made.settings)
            if start:
                await made.start_daemon()
            yield made
        assert composite_indexes(cloud) == []  # nobody declares any at Google's
    finally:
        if hasattr(made, "daemon"):
            await made.daemon.abort()
        await session.close()
        await cloud.close()


class _Whole(Harmless):
    """Says which requests are answered whole, whatever faults the cloud has."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def is_quiet(self, request: Request) -> bool:
        """Whether no fault breaks a connection."""
        del request
        return all(
            fault.kind not in {"drop", "late"} or fault.is_spent
            for fault in self._cloud.faults.injected
        )


@contextlib.contextmanager
def _short_way(cloud: Cloud) -> Iterator[None]:
    """In simulated time, what clients ask the cloud goes straight to its handlers."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        yield
        return
    assert cloud._runner is not None
    *referee, _ = cloud._runner.app.middlewares
    way = ShortWay(
        loop.network_of(_Whole(cloud)),
        cloud,
        copy_context(),
        connector=aiohttp.TCPConnector,
        middlewares=referee,
    )
    with short(way):
        yield


def composite_indexes(cloud: Cloud) -> list[str]:
    """The composite indexes that queries have needed."""
    (datastore,) = (service for service in cloud._services if service.name == "datastore")
    needed: list[str] = datastore.state()["composite_indexes"]
    return needed


async def prepare(made: World, settings: Settings) -> None:
    """What `run --local` does before it starts a daemon with these settings."""
    clients = Clients(settings, made.clock, random.Random(0), Metrics())
    try:
        await configure(
            Fleet(Store(clients.datastore(PROJECT)), clock=made.clock),
            config_set="services/gce-backend",
            config_service=made.cloud.base_url,
            machine_provider=made.cloud.base_url,
        )
        async for step in provision_messages(clients.pubsub(PROJECT), settings):
            assert step.ok, step
    finally:
        await clients.close()
