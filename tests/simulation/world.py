"""A simulated world: an embedded cloud, daemons as processes of their own, users, operators."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import aiohttp
import msgspec

from gce_backend.clients.compute.call_budget import CallBudget, Priority, Quota, Room
from gce_backend.clients.datastore.terms import EPOCH as TERM
from gce_backend.clients.datastore.terms import KIND as LEADERSHIP
from gce_backend.daemon import daemon
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.daemon.local import local_settings, prepare
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import INNER_HEADERS, CloudOptions
from gce_backend.localcloud.compute.rows import VmRow
from gce_backend.localcloud.datastore.keys import parse_key
from gce_backend.localcloud.pubsub.service import Subscription
from gce_backend.machine_provider import wire
from gce_backend.machine_provider.catalog import Catalog
from gce_backend.machine_provider.entities import lease_path
from gce_backend.model.entities import Daemons, StoreIdentity
from gce_backend.rules.ownership import STORE_LABEL
from gce_backend.settings.settings import (
    ComputeSettings,
    DeletionSettings,
    HttpSettings,
    JobSettings,
    MachineProviderSettings,
    Secret,
    Settings,
    StoreSettings,
)
from simulation.chance import EPOCH
from simulation.direct import ShortWay, short
from simulation.faults import Disturbances
from simulation.loop import PROCESS, Process, SimulatedLoop
from simulation.network import MemoryConnector, Request
from simulation.nodes import Host, Node, ProviderNode, WorldClock
from simulation.oracle import Oracle
from simulation.pools import TOGETHER, TYPES, ZONES, Maxima, Pool, draw, owner_of
from simulation.providers import Providers
from support.fleet_harness import PROJECT
from support.simulation import ProcessClock
from support.watch import BY_HAND

TOKEN = "simulated"
MP_NAMESPACE = "machine-provider"
USERS = ("ada@example.com", "ben@example.com", "eve@example.com")
OFFERED = frozenset({"NEW", "AVAILABLE", "LEASED"})
STRANGERS_SYSTEM: Final = "OSX"
"""The os_family of a machine of somebody else's backend: ours are LINUX."""
CAP_COUNT, CAP_SHARE, CAP_WINDOW = 8, 0.5, 600.0


class Shape(msgspec.Struct, frozen=True):
    """What a world is made of.

    Attributes:
        daemons: how many work on one store.
        machines: how many the configuration asks for at first.
        budget: calls a minute and quota group.
        resync: how often daemons read all entities and list all groups, in seconds.
        election: whether one of the daemons leads, and the others stand by.
        providers: how many processes of the Machine Provider there are; one works.
        drawn: whether chance draws the fields of the configuration from the beginning.
    """

    daemons: int = 1
    machines: int = 10
    budget: int = 1400
    resync: float = 600.0
    election: bool = False
    providers: int = 1
    drawn: bool = False


TERM_NAME = parse_key({"path": [{"kind": kind, "name": name} for kind, name in TERM]}, PROJECT).name

LOGS = "GCE_BACKEND_SIMULATION_LOGS"
"""Variable that names the file to which the daemons' logs are appended."""


class DaemonLog:
    """A daemon's log: nobody reads it unless LOGS names a file, to which lines are appended.

    Args:
        node: whose.
        now: the simulated time in seconds.
        bound: fields of every line.
    """

    def __init__(self, node: str, now: Callable[[], float], **bound: Any) -> None:
        self._node = node
        self._now = now
        self._bound = bound
        self._path = os.environ.get(LOGS)

    def bind(self, **fields: Any) -> DaemonLog:
        """The same log with more fields."""
        if not self._path:
            return self
        return DaemonLog(self._node, self._now, **self._bound, **fields)

    def __getattr__(self, level: str) -> Callable[..., None]:
        found = partial(self._write, level) if self._path else _nothing
        setattr(self, level, found)  # asked for once
        return found

    def _write(self, level: str, event: str = "", *_: Any, **fields: Any) -> None:
        line = f"{self._now():12.3f}  {self._node} {level:7} {event} {self._bound | fields}\n"
        with Path(self._path or os.devnull).open("a", encoding="utf-8") as file:
            file.write(line)


def _nothing(*_: Any, **__: Any) -> None:
    pass


class World:
    """All of it.

    Args:
        loop: the loop that it runs on.
        seed: names all chance in it.
        shape: what it is made of.
        folder: an empty folder for the configuration.

    Attributes:
        story: what happened, a line each.
        pools: what the configuration says, by template.
        nodes: where daemons run.
        providers: the Machine Provider.
        oracle: the judge.
        disturbances: what is wrong with calls.
        contradicted: the host names whose known leases the Machine Provider denies, as told.
        changes: how often the configuration was written.
        pauses: how many pauses of operators last.
        approvals: how often an operator approved a configuration.
        guests: where daemons with a store of their own run, or ran.
        leased_by: who made a request, and the Machine Provider's name of it.
    """

    def __init__(self, loop: SimulatedLoop, seed: str, shape: Shape, folder: Path) -> None:
        self.loop = loop
        self.context = copy_context()  # of no process
        self.seed = seed
        self.shape = shape
        self.story: list[str] = []
        self.clock = WorldClock(loop)
        self.config_dir = folder
        options = CloudOptions(config_dir=folder, calls_per_minute=1500, dispatch_seconds=1.0)
        self._cloud_process = Process("cloud")
        self.cloud = embedded_cloud(None, self.clock, options)
        self.services: dict[str, Any] = {s.name: s for s in self.cloud._services}
        self.providers = Providers(loop, seed, self.cloud, folder, shape.providers)
        self.disturbances = Disturbances(self.cloud, self.note, loop.time)
        self.oracle = Oracle(
            self.cloud,
            now=self.clock.now,
            time=loop.time,
            note=self.note,
            cap=lambda size: max(CAP_COUNT, int(size * CAP_SHARE)),
            window=CAP_WINDOW,
            budget=shape.budget,
            denier=MP_NAMESPACE,
            processes=self._at_work,
        )
        self.disturbances.asked = self.oracle.asked
        if shape.election:
            self.disturbances.sent = self._judge_sender
        self.disturbances.trespassed = lambda group: self.oracle.fail(
            "S1", f"a daemon with another store changes group {group}"
        )
        self.guests: list[Node] = []
        self.strangers: set[str] = set()
        self._maxima = Maxima()
        self._names: set[str] = set()
        self.contradicted: set[str] = set()
        self.oracle.strangers = self.strangers
        self.stolen: set[str] = set()
        self.oracle.made = self._made
        self.oracle.late_additions = self.disturbances.late_additions
        self.oracle.late_deletions = self.disturbances.late_deletions
        self.oracle.late_growths = self.disturbances.late_growths
        self.oracle.late_calls = self.disturbances.late_calls
        self.pools = self._first_pools()
        self.nodes = [
            Node(f"d{number}", WorldClock(loop)) for number in range(1, shape.daemons + 1)
        ]
        self.starts = 0
        self.leases = 0
        self.leased_by: dict[str, tuple[str, str]] = {}
        self.slow_addition = 0.0
        self.lost: dict[str, Any] = {}
        self.backups: dict[str, tuple[float, list[tuple[str, Any]]]] = {}
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.graveyard: list[Any] = []
        self.watchers: list[asyncio.Task[None]] = []
        self.patches = contextlib.ExitStack()
        self.wanted: list[str] = []
        self.approved: list[str] = []
        self.changes = self.pauses = self.approvals = 0
        self.on_step: Callable[[World, Node], Callable[[Process, asyncio.Handle], None]] | None
        self.on_step = None
        self._loose: list[asyncio.Task[Any]] = []
        self._subscription: dict[str, Any] | None = None
        self.settings = Settings()
        self.session: aiohttp.ClientSession
        self._token = ""
        self._remember_messages()

    def _at_work(self) -> tuple[int, int]:
        """How many daemons have begun to work until now, and how many work."""
        up, guests = (sum(node.is_up for node in nodes) for nodes in (self.nodes, self.guests))
        if self.shape.election:
            return self._epoch() + len(self.guests), min(up, 1) + guests
        return self.starts, up + guests

    def _epoch(self) -> int:
        """The number of the present term."""
        row = self.services["datastore"]._storage.get(TERM_NAME)
        return 0 if row is None else int(row.properties["epoch"]["integerValue"])

    def _judge_sender(self, request: Request) -> None:
        """S4: only the daemon of the present term sends what has an effect."""
        if request.verb == "GET" or not request.path.startswith(("/compute/", "/_ah/")):
            return
        [node] = [node for node in self.nodes if node.name == request.client]
        leadership = node.daemon.leadership if node.daemon is not None else None
        term = leadership.term if leadership is not None else None
        if term is None or term.epoch != self._epoch():
            what = f"{request.verb} {request.path}"
            self.oracle.fail("S4", f"{request.client} does not lead now, and sends {what}")

    def note(self, text: str) -> None:
        """Adds a line to the story."""
        self.story.append(f"{self.loop.time():12.3f}  {text}")

    def _first_pools(self) -> dict[str, Pool]:
        first, second = divmod(self.shape.machines, 2)
        pool = Pool(TYPES[0], {ZONES[0]: first + second, ZONES[1]: max(first, 1)})
        if self.shape.drawn:
            self.note(f"linux has {draw(pool, random.Random(f'{self.seed} pools'), EPOCH)}")
        return {"linux": pool}

    def _slow_down(self) -> None:
        """The catalog takes `slow_addition` seconds for each machine that is added."""
        added = Catalog.add

        async def add(catalog: Catalog, backend: str, requests: Sequence[Any]) -> Any:
            if self.slow_addition:
                self.disturbances.met(49)
                await asyncio.sleep(self.slow_addition * len(requests))
            return await added(catalog, backend, requests)

        self.patches.enter_context(mock.patch.object(Catalog, "add", add))

    def _look_less_often(self) -> None:
        """A daemon looks every five seconds how late its loop is: a second is much of the time."""
        self.patches.enter_context(mock.patch.object(daemon, "LAG_INTERVAL_SECONDS", 5.0))

    def _watch_budgets(self) -> None:
        """Row 50 is met where the part of a budget that metadata may use is used up."""
        room, met = CallBudget.room, self.disturbances.met

        def looked(budget: CallBudget, quota: Quota, priority: Priority) -> Room:
            found = room(budget, quota, priority)
            if not found.calls and budget.remaining(quota):
                met(50)
            return found

        self.patches.enter_context(mock.patch.object(CallBudget, "room", looked))

    def _remember_messages(self) -> None:
        pubsub = self.services["pubsub"]
        deliver = pubsub._deliver

        def remembered(topic: str, message: dict[str, Any]) -> str:
            if topic.endswith("/machine-provider"):
                self.messages.append((topic, message))
            number: str = deliver(topic, message)
            return number

        pubsub._deliver = remembered

    # Life

    async def start(self) -> None:
        """Starts cloud and daemons."""
        with self._cloud_process.entered():
            url = await self.cloud.start()
        way = ShortWay(self.loop.network, self.cloud, self._cloud_process.context())
        self.patches.enter_context(short(way))
        connector = MemoryConnector(self.loop.network, "hand")
        self.session = aiohttp.ClientSession(connector=connector)
        self._slow_down()
        self._watch_budgets()
        self._look_less_often()
        self.settings = self._settings(url)
        self.providers.prepare(self.settings)
        for provider in self.providers.nodes:
            await self.providers.start(provider)
        self.write()
        await self.prepare_store(self.settings)
        name = f"projects/{PROJECT}/subscriptions/machine-provider"
        self._subscription = self.services["pubsub"]._subscription_json(name)
        for node in self.nodes:
            await self.start_daemon(node)
        self.watchers.append(asyncio.create_task(self._watch_queue()))

    async def _watch_queue(self) -> None:
        """The judge of the queue looks as long as the world lasts."""
        before = -1
        while True:
            struck = self.disturbances.strikes()
            quiet = struck == before and self.disturbances.is_quiet_now
            works = all(host.is_awake for host in self.hosts)
            works = works and any(node.is_ready for node in self.providers.nodes)
            works = works and not any(node.clock.offset for node in self.providers.nodes)
            self.oracle.queue.look(quiet=quiet and works)
            before = struck
            await asyncio.sleep(20.0)

    def _settings(self, url: str) -> Settings:
        shape = self.shape
        base = Settings(
            http=HttpSettings(port=0, token=Secret(TOKEN)),
            compute=ComputeSettings(calls_per_minute=shape.budget),
            store=StoreSettings(resync_seconds=shape.resync, leader_election=shape.election),
            # The daemon takes what the Machine Provider refuses: the event `odd_template`.
            machine_provider=MachineProviderSettings(extra_dimensions=("linux_flavor:FEDORA",)),
            deletion=DeletionSettings(
                window_seconds=CAP_WINDOW,
                reclaimed_count=CAP_COUNT // 2,
                reclaimed_share=CAP_SHARE / 2,
                permitted_count=CAP_COUNT // 2,
                permitted_share=CAP_SHARE / 2,
                unconfirmed_count=2,
                tombstone_seconds=900.0,
            ),
            jobs={"import-config": JobSettings(cron="*/20 * * * * *")},
        )
        return local_settings(base, url, PROJECT, self.config_dir)

    def write(self) -> None:
        """Writes the configuration that `pools` says."""
        self.changes += 1
        for name, pool in self.pools.items():
            self._maxima.note(name, pool, self.loop.time())
        texts = [pool.texts(name) for name, pool in self.pools.items()]
        for place, name in enumerate(("templates.cfg", "managers.cfg")):
            (self.config_dir / name).write_text("".join(text[place] for text in texts))

    def _made(self, made: VmRow) -> None:
        """There is a VM more."""
        group = made.zone, made.group.rpartition("/")[2]
        self.oracle.vms[made.id].elsewhere = group in self.disturbances.made_elsewhere
        if made.name not in self._names:  # else somebody recreates a VM: there are no more of them
            self._judge_maximum(made)
        self._names.add(made.name)

    def _judge_maximum(self, made: VmRow) -> None:
        """D: all revisions together never have more VMs than their manager's maximum.

        Of several daemons, none of which leads, each knows late what the others do in other zones.
        """
        name = owner_of(made.name, self.pools)
        alone = self.shape.election or self.shape.daemons == 1
        for zone in (made.zone, TOGETHER) if alone else (made.zone,):
            limit = self._maxima.limit(name, zone, self.loop.time())
            there = sum(
                zone in {row.zone, TOGETHER}
                and owner_of(row.name, self.pools) == name
                and self._counts(row)
                for row in self.compute_store.vms.values()
            )
            if made.group and there > limit:
                where = zone or "together"
                text = f"{where}: there are {there} VMs of {name}, and {limit:g} is the maximum"
                self.later(self._unless_held(text))

    def _counts(self, row: VmRow) -> bool:
        """Whether a VM counts for the maximum of a group of ours."""
        vm = self.oracle.vms.get(row.id)
        if not row.group or vm is None or vm.doomed is not None or self._is_anothers(row):
            return False
        return not self.oracle.is_made_unknowingly(row)

    async def _unless_held(self, text: str) -> None:
        """A configuration that waits for approval leaves the old maximum in force."""
        control = await self.act("/api/control")
        if control is not None and not control.get("held_revision"):
            self.oracle.fail("D", text)

    async def start_daemon(self, node: Node, settings: Settings | None = None) -> None:
        """Starts a daemon; like a new process, it knows only what the store holds."""
        if node.is_up:
            return
        self.starts += 1
        process = Process(node.name)
        process.on_step = self.on_step(self, node) if self.on_step is not None else None
        with process.entered():
            node.daemon = Daemon(
                settings or self.settings,
                clock=ProcessClock(node.clock),
                rng=random.Random(f"{self.seed} daemon {self.starts}"),
                log=DaemonLog(node.name, self.loop.time),
                connector=lambda: MemoryConnector(self.loop.network, node.name),
            )
            node.process = process
            await node.daemon.start()
        self.watchers.append(asyncio.create_task(self._watch(node.daemon, process)))

    async def _watch(self, daemon: Daemon, process: Process) -> None:
        """A daemon ends when it is told to, and never by itself."""
        try:
            await daemon.wait()
        except Exception as error:  # noqa: BLE001  # whatever a defect raises
            if not process.dead:
                self.oracle.fail("L1", f"{process.name} ended by itself: {error!r}")

    @property
    def hosts(self) -> list[Host]:
        """Where daemons run, and the Machine Provider."""
        return [*self.nodes, *self.providers.nodes]

    async def start_on(self, host: Host) -> None:
        """Starts what belongs there, unless it runs."""
        if isinstance(host, Node):
            await self.start_daemon(host)
        elif isinstance(host, ProviderNode):
            await self.providers.start(host)

    def kill(self, node: Host) -> None:
        """Ends a program where it stands, as kill -9 does."""
        if node.process is None or node.process.dead:
            return
        node.process.dead = True
        # What is collected would run its `finally` blocks: the dead do nothing.
        self.graveyard.append((node.program, list(node.process.tasks.values())))
        if isinstance(node, ProviderNode):
            self.providers.ended(node)
        self.loop.network.cut(node.name)
        for key, listener in list(self.loop.network.listeners.items()):
            if listener.context.run(_process_name) == node.name:
                del self.loop.network.listeners[key]

    async def stop(self, node: Host) -> None:
        """Ends a program as SIGTERM does."""
        if not node.is_up or node.program is None or node.process is None:
            return
        with node.process.entered():
            task = asyncio.create_task(node.program.stop(), name="stop")
        await asyncio.wait([task], timeout=60.0)
        self.kill(node)

    async def act(self, path: str, body: Any = None) -> Any:
        """An order to the first daemon that takes it, or that leads; None when none does."""
        for node in sorted(self.nodes, key=lambda node: not node.leads):
            if not node.is_up or node.daemon is None or node.process is None:
                continue
            if node.process.paused:
                continue
            headers = {"Authorization": f"Bearer {TOKEN}"}
            url = node.daemon.url + path
            verb = "GET" if body is None else "POST"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                timeout = aiohttp.ClientTimeout(total=20)
                async with self.session.request(
                    verb, url, json=body, headers=headers, timeout=timeout
                ) as response:
                    found = await response.json()
                    if response.status == 200:
                        return found
        return None

    # Others' hands

    async def by_hand(self, verb: str, path: str, body: Any = None) -> Any:
        """A call to Compute by somebody else, whom no fault strikes.

        Args:
            verb: the HTTP verb.
            path: behind the project.
            body: a JSON value.
        """
        metadata = self.services["metadata"]
        if not metadata.is_valid(self._token):
            self._token = metadata._issue("hand", self.cloud.own_account)[0]
        headers = {"Authorization": f"Bearer {self._token}", **BY_HAND, **INNER_HEADERS}
        url = f"{self.cloud.base_url}/compute/v1/projects/{PROJECT}/{path}"
        async with self.session.request(verb, url, json=body, headers=headers) as response:
            return await response.json()

    async def happen(self, name: str, what: str) -> bool:
        """Whether something of the embedded cloud's has happened to a VM, e.g. `power-off`."""
        url = f"{self.cloud.base_url}/_localcloud/vms/{name}/{what}"
        async with self.session.post(url) as response:
            return response.status == 200

    def _token_of(self, user: str) -> str:
        """An access token of a user."""
        metadata = self.services["metadata"]
        return str(metadata.access_token("openid email", user)["access_token"])

    async def lease(
        self, request: str, seconds: int | None, *, user: str = USERS[0], **terms: Any
    ) -> str:
        """Somebody asks for machines; returns a host name, "" when there is none yet.

        Args:
            request: the user's name for it.
            seconds: for how long; None is without an end.
            user: who asks.
            terms: what else the request says, e.g. `count`.
        """
        lease = lease_path(user, request)[0][1]
        self.oracle.requests[lease], self.leased_by[request] = request, (user, lease)
        end = {"without_end": True} if seconds is None else {"duration": seconds}
        wanted = {"request_id": request, "dimensions": {"os_family": "LINUX"}, **end, **terms}
        answer = await self.providers.call("leases.create", self._token_of(user), wanted)
        machines = (answer or {}).get("machines", ())
        return str(machines[0]) if machines else ""

    async def call(self, method: str, user: str, body: dict[str, Any]) -> Any:
        """What the Machine Provider answers to a user; None when it cannot, or refuses."""
        return await self.providers.call(method, self._token_of(user), body)

    async def release(self, request: str) -> None:
        """Somebody gives a machine back, or waits for none any more."""
        requester, lease = self.leased_by[request]
        user = self.oracle.queue.user_of(lease) or requester
        if await self.call("leases.release", user, {"id": lease}):
            self.oracle.queue.given_up(lease)
        self.oracle.forget(request)

    async def release_everything(self) -> None:
        """Everybody gives back what he has, also who had forgotten it."""
        leased = [e.lease for e in self.oracle.entries.values() if e.state == "LEASED"]
        known = [self.oracle.requests[lease] for lease in leased if lease in self.oracle.requests]
        for request in dict.fromkeys([*self.wanted, *known]):
            await self.release(request)
        self.wanted.clear()

    async def take_out_strangers(self) -> None:
        """The owner of a stranger's machine takes it out of the catalog, once a daemon tells of it.

        As long as its entry is there, the daemon keeps what has its name.
        """
        if not self.stolen:
            return
        told = str((await self.act("/api/fleet") or {}).get("conditions", ""))
        for name in sorted(self.stolen):
            if name in told and await self.providers.ask(partial(_take_out, name)):
                self.stolen.discard(name)
                self.note(f"the stranger's machine named {name} is taken out of the catalog")

    # Backups

    def back_up(self, namespace: str) -> None:
        """Copies all entities of a namespace of Datastore."""
        rows = self.services["datastore"]._storage._rows
        kept = [
            (name, row)
            for name, row in rows.items()
            if row.key["partitionId"].get("namespaceId", "") == namespace
        ]
        self.backups[namespace] = self.loop.time(), kept

    def restore(self, namespace: str) -> bool:
        """Puts a namespace back to its backup; False when there is none."""
        backup = self.backups.get(namespace)
        if backup is None:
            return False
        at, kept = backup
        storage = self.services["datastore"]._storage
        present = {
            name
            for name, row in storage._rows.items()
            if row.key["partitionId"].get("namespaceId", "") == namespace
        }
        version = storage.next_version(self.clock.now())
        writes: dict[str, tuple[Any, Any]] = {
            name: (parse_key(storage.get(name).key, PROJECT), None) for name in present
        }
        for name, row in kept:
            again = msgspec.structs.replace(row, version=version)
            writes[name] = (parse_key(row.key, PROJECT), again)
        self.oracle.restoring = True
        try:
            storage.apply(version, writes)
        finally:
            self.oracle.restoring = False
        self.oracle.restored(namespace, at)
        if namespace != MP_NAMESPACE:
            self._maxima.restored(at, self.loop.time())
        alive = {row.name for row in self.vms()}
        # Nobody can find what the Machine Provider alone remembers: its protocol has no list.
        self.strangers.update(name for name in self.oracle.entries if name not in alive)
        return True

    # What is

    def vms(self) -> list[Any]:
        """The VMs that exist, with their rows."""
        compute = self.services["compute"]
        compute._timetable.advance(self.clock.now())
        return [row for row in compute._store.vms.values() if row.status]

    def groups(self) -> list[Any]:
        """The groups that exist."""
        return list(self.services["compute"]._store.groups.values())

    @property
    def compute_store(self) -> Any:
        """The embedded Compute Engine's rows."""
        return self.services["compute"]._store

    @property
    def entities(self) -> dict[str, Any]:
        """The entities of the daemons' store, by their names."""
        rows = self.services["datastore"]._storage._rows
        return {
            name: row
            for name, row in rows.items()
            if not row.key["partitionId"].get("namespaceId", "")
        }

    # What events need

    def later(self, work: Any) -> None:
        """Starts something that nobody waits for."""
        self._loose.append(asyncio.create_task(work))

    async def prepare_store(self, settings: Settings) -> None:
        """Makes a store ready for a daemon."""
        clients = Clients(
            settings,
            self.clock,
            random.Random(0),
            Metrics(),
            connector=lambda: MemoryConnector(self.loop.network, "setup"),
        )
        try:
            failed = await prepare(
                Store(clients.datastore(PROJECT)),
                clients.pubsub(PROJECT),
                settings,
                self.cloud.base_url,
            )
        finally:
            await clients.close()
        if failed:
            self.note(f"not prepared: {failed[0].what}")

    def put_back(self) -> None:
        """An operator restores lost entities that others below them still need."""
        storage = self.services["datastore"]._storage
        for name, row in self.lost.items():
            path = row.key["path"]
            needed = any(found.key["path"][: len(path)] == path for found in self.entities.values())
            if needed and storage.get(name) is None:
                version = storage.next_version(self.clock.now())
                again = msgspec.structs.replace(row, version=version)
                storage.apply(version, {name: (parse_key(row.key, PROJECT), again)})
                self.note(f"an operator puts {path[-1]['kind']} {path[-1]['name']} back")

    def mend_subscription(self, resource: dict[str, Any] | None = None) -> None:
        """Makes the subscription and its topic again, if they are gone."""
        pubsub = self.services["pubsub"]
        name = f"projects/{PROJECT}/subscriptions/machine-provider"
        topic = f"projects/{PROJECT}/topics/machine-provider"
        self._subscription = resource or self._subscription
        if topic not in pubsub._topics:
            pubsub._topics[topic] = {"name": topic}
        if pubsub._live(name) is None and self._subscription is not None:
            made = {**self._subscription, "topic": topic}
            pubsub._subscriptions[name] = Subscription(made, self.clock.now())
            pubsub._by_topic[topic].add(name)
            pubsub._deliveries.open(name)

    # Whether all is as it should be

    def misses(self) -> list[str]:
        """What keeps the world from being as its configuration says."""
        found = []
        rows = self.vms()
        entries = self.oracle.entries
        named: set[str] = set()
        ours = [row for row in rows if row.group and not self._is_anothers(row)]
        for name, pool in self.pools.items():
            mine = [row for row in ours if owner_of(row.name, self.pools) == name]
            for zones, minimum in pool.parts():
                there = [row for row in mine if row.zone in zones]
                named.update(row.name for row in there)
                if not pool.flavor:
                    found += self._misses_of(name, pool, zones, minimum, there)
        left = [row.name for row in ours if row.name not in named and not self._is_kept(row.name)]
        if left:
            found.append(f"{len(left)} VMs, and none is wanted: {sorted(left)[:3]}")
        # An entry of a stranger's daemon is the stranger's affair.
        theirs = {vm.name for vm in self.oracle.vms.values() if vm.elsewhere}
        offered = {name for name, entry in entries.items() if entry.state in OFFERED}
        offered -= self.strangers | theirs
        phantoms = sorted(offered - {row.name for row in rows})
        if phantoms:
            found.append(f"the catalog offers machines that do not exist: {phantoms[:3]}")
        dead = sorted(
            row.name
            for row in rows
            if row.status not in {"RUNNING", "PROVISIONING", "STAGING"}
            and row.name in offered
            and not self._is_kept(row.name)  # the catalog denies a lease that the daemon knows
        )
        if dead:
            found.append(f"the catalog offers machines that do not run: {dead[:3]}")
        return found

    def _is_anothers(self, row: VmRow) -> bool:
        vm = self.oracle.vms[row.id]
        return vm.foreign or vm.elsewhere

    def _misses_of(
        self, name: str, pool: Pool, zones: tuple[str, ...], minimum: int, rows: list[Any]
    ) -> list[str]:
        """What a manager's machines lack, or have too many of, when nobody holds one."""
        # The daemon knows of a lease that a restored Machine Provider does not: it is kept.
        kept = {row.name for row in rows if self._is_kept(row.name)}
        have = [row for row in rows if row.status == "RUNNING" and row.name not in kept]
        entries = self.oracle.entries
        ready = [
            row for row in have if row.name in entries and entries[row.name].state == "AVAILABLE"
        ]
        sizes = pool.sizes(minimum, self.clock.now())
        # Of those that are kept, only the present revision's take the place of others.
        same = self._of_present_revision(pool, kept, have, rows)
        least = sizes.wanted(len(kept), 0)
        most = max(least, sizes.wanted(same, len(kept) - same))
        where = f"{name} in {', '.join(zones)}"
        if len(ready) < least:
            return [f"{where}: {len(ready)} of {least} can be leased"]
        if len(have) > most and pool.fields.get("surplus_seconds") != -1:
            return [f"{where}: {len(have)} VMs, and {most} are needed"]
        return []

    def _of_present_revision(
        self, pool: Pool, kept: set[str], have: list[Any], rows: list[Any]
    ) -> int:
        """How many of those that are kept are of the present revision.

        Their templates say so. Where those of several could be it, by another image of a family, it
        is that of the machines that nobody holds.
        """
        store = self.compute_store
        made_from = {row.name: store.groups[row.group].template for row in rows}
        could_be = {
            template
            for template in made_from.values()
            if pool.is_described_by(store.templates[template].properties)
        }
        present = could_be & {made_from[row.name] for row in have} or could_be
        return sum(made_from[name] in present for name in kept)

    def asked_in_vain(self) -> str:
        """Whom the fleet should grow for, as its maximum allows; "" when nobody has to wait."""
        asked = sum(one.count for one in self.oracle.queue.requests.values() if one.waits)
        room = 0
        for name, pool in self.pools.items():
            for zones, minimum in pool.parts():
                maximum = pool.sizes(minimum, self.clock.now()).maximum
                if maximum is not None and not pool.flavor:
                    room += max(0, maximum - self._busy(name, zones))
        return f"{asked} machines are asked for, and {room} can be had" if 0 < asked <= room else ""

    def _busy(self, name: str, zones: tuple[str, ...]) -> int:
        """VMs of a manager that cannot be leased, and keep others from being made."""
        entries = self.oracle.entries
        return sum(
            row.zone in zones
            and bool(row.group)
            and owner_of(row.name, self.pools) == name
            and (
                self._is_kept(row.name)
                or row.status != "RUNNING"
                or (row.name in entries and entries[row.name].state == "LEASED")
            )
            for row in self.vms()
        )

    def _is_kept(self, name: str) -> bool:
        """Whether the daemon may keep a machine for a lease that the Machine Provider denies."""
        until = self.oracle.remembered.get(name, 0.0)
        if name in self.contradicted:  # the word of the lease's end was lost
            until = self.oracle.given_back.get(name, until)
        return until is not None and until > self.clock.now()

    async def look_at_conditions(self) -> None:
        """What the daemon tells of leases that the Machine Provider denies."""
        conditions = (await self.act("/api/fleet") or {}).get("conditions", ())
        told = [str(one) for one in conditions if "LeaseContradicted" in str(one)]
        names = self.oracle.given_back
        self.contradicted = {name for name in names if any(name in text for text in told)}

    async def deletions_held(self) -> float:
        """How many deletions the caps hold back, as a daemon tells; infinity when none answers."""
        control = await self.act("/api/control")
        return float("inf") if control is None else sum(control["deletions_held"].values())

    def arrived(self) -> bool:
        """Whether every machine that the configuration wants can be leased."""
        return not self.misses()

    def written(self) -> dict[str, Any]:
        """The daemons' entities: what changed between two looks is in `difference`."""
        signs = [LEADERSHIP]  # of life: a leader gives them always, the others when they are many
        if sum(node.is_up for node in self.nodes) > 1:
            signs.append(Daemons.KIND)
        return {
            name: row.properties
            for name, row in self.entities.items()
            if row.key["path"][-1]["kind"] not in signs
        }

    @staticmethod
    def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        """What was written between two looks, in words."""
        found = []
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            if old == new:
                continue
            what = "removed" if new is None else "made"
            if old is not None and new is not None:
                what = ", ".join(sorted(k for k in old | new if old.get(k) != new.get(k)))
            path = [part[3] for part in msgspec.json.decode(name)[2]]
            found.append(f"{'/'.join(path)}: {what}")
        return found

    async def judge_tracking(self) -> None:
        """S2: what exists is known to the store, or reported."""
        known = {row.key["path"][-1].get("name", "") for row in self.entities.values()}
        fleet = await self.act("/api/fleet") or {}
        told = str(fleet.get("conditions", ""))
        for row in self.vms():
            if row.id and self.oracle.vms[row.id].elsewhere:
                continue
            if row.name in known or row.name in told or await self._carries_anothers_mark(row):
                continue
            self.oracle.fail("S2", f"vm {row.name} is neither tracked nor reported")

    async def _carries_anothers_mark(self, row: VmRow) -> bool:
        """Whether a VM is made of the template of a daemon with another store, whoever made it."""
        vm = await self.by_hand("GET", f"zones/{row.zone}/instances/{row.name}")
        store = vm.get("labels", {}).get(STORE_LABEL, "")
        kept = [
            one
            for one in self.entities.values()
            if one.key["path"][-1]["kind"] == StoreIdentity.KIND
        ]
        own = {one.properties["id"]["stringValue"] for one in kept}
        return bool(store and own) and store not in own


async def _take_out(name: str, broker: Any) -> bool:
    """Whether an entry that a stranger made is gone; one that the daemon made stays."""
    entry = await broker.catalog.get("GCE", name)
    if entry is None or entry.dimensions.os_family != STRANGERS_SYSTEM:
        return True
    wanted = wire.DeleteRequest(dimensions=wire.Dimensions(backend="GCE", hostname=name))
    return (await broker.catalog.delete("GCE", [wanted]))[0].error is None


def _process_name() -> str:
    process = PROCESS.get()
    return process.name if process is not None else ""


@contextlib.asynccontextmanager
async def world(
    loop: SimulatedLoop,
    seed: str,
    shape: Shape,
    *,
    on_step: Callable[[World, Node], Callable[[Process, asyncio.Handle], None]] | None = None,
) -> AsyncIterator[World]:
    """A world that has begun; `on_step` makes what is told of each step of a daemon's process."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-"))
    try:
        made = World(loop, seed, shape, folder)
        made.on_step = on_step
        loop.network.harm = made.disturbances
        with made.patches:
            await made.start()
            yield made
            await made.session.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
