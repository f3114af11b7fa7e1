"""A short life of a fleet, told again and again with one blow at another moment each time.

Use it for a test of a crash or a lost answer at a chosen moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault, Faults
from gce_backend.machine_provider.entities import OFFER_KIND
from gce_backend.machine_provider.trends import SAMPLE_KIND
from gce_backend.model.entities import Daemons
from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import World, template, world

Blow = Literal["crash", "stop", "lost"]
When = Literal["before", "after"]

OTHERS = ("machine_provider.machine_provider.", "metadata.")
"""What the tests themselves call."""
READS = (
    "get",
    "list",
    "aggregatedList",
    "listManagedInstances",
    "wait",
    "lookup",
    "runQuery",
    "pull",
)
OPTIONS = CloudOptions(
    operation_seconds=0.3, boot_seconds=1.0, delete_seconds=0.5, dispatch_seconds=0.1
)
SETTINGS = Settings(deletion=DeletionSettings(tombstone_seconds=5.0, window_seconds=5.0))
CRONS = {"import-config": "*/5 * * * * *", "cleanup-entities": "*/10 * * * * *"}
MACHINES = 3
KEPT = ("InstanceTemplate", "InstanceTemplateRevision", "InstanceGroupManager")
INBOX = "projects/local-project/subscriptions/machine-provider"


class OneBlow(Faults):
    """Cuts the connection of the daemon's n-th request, before or after its effect.

    Args:
        at: which request, counted from 1.
        when: before or after its effect.
        only: what is counted: one method, `*` for all, `!` for those that change something.
        deadly: nothing that the daemon sends gets through from then on, until `dead` is unset.
    """

    def __init__(self, at: int, when: When, *, only: str, deadly: bool) -> None:
        super().__init__()
        self.count = 0
        self.method = ""
        self.struck = asyncio.Event()
        self._at = at
        self._only = only
        self._deadly = deadly
        self._blow = Fault(method="-", kind="drop", when=when)
        self.add(self._blow)
        self.dead = False

    @property
    def dead(self) -> bool:
        """Whether nothing gets through; until it is unset."""
        return self._blow.times is None

    @dead.setter
    def dead(self, dead: bool) -> None:
        self._blow.times = None if dead else 1

    def strike(
        self, method: str, zone: str | None, *kinds: str, inner: bool = False
    ) -> list[Fault]:
        """The blow, when its moment has come; and nothing gets through to what is dead."""
        if inner or "drop" not in kinds or method.startswith(OTHERS):
            return super().strike(method, zone, *kinds, inner=inner)
        if self.dead:
            return [Fault(kind="drop", when="before")]
        if self._only == "!" and method.rpartition(".")[2] in READS:
            return []
        if self._only not in {"*", "!", method}:
            return []
        self.count += 1
        if self.count != self._at:
            return []
        self.method = method
        self._blow.fired += 1
        self.dead = self._deadly
        self.struck.set()
        return [self._blow]


async def live_with(
    tmp_path: Path, blow: Blow | None, at: int = 0, when: When = "after", only: str = "*"
) -> OneBlow:
    """Lives the life with one blow; what must hold at its end, and all along, is asserted.

    Args:
        tmp_path: for the configuration.
        blow: `crash` ends the daemon there and starts another; `stop` tells it to stop there, as
            SIGTERM does, and starts another; `lost` only loses that request or its answer.
        at: the request, counted from 1.
        when: before or after the request's effect.
        only: what is counted: one method, `*` for all, `!` for those that change something.
    """
    faults = OneBlow(at, when, only=only, deadly=blow == "crash")
    async with world(tmp_path, options=OPTIONS, settings=SETTINGS, crons=CRONS, start=False) as w:
        w.cloud.faults = faults
        await w.start_daemon()
        end = asyncio.create_task(end_and_start(w, faults, blow), name="blow")
        try:
            await Life(w).live()
        finally:
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)
        if blow is not None and not faults.struck.is_set():
            raise AssertionError(f"there was no request {at}: only {faults.count}")
        assert await w.fired() == (blow is not None)
    return faults


async def end_and_start(w: World, faults: OneBlow, blow: Blow | None) -> None:
    """Waits for the blow, then ends the daemon as the blow says, and starts another."""
    await faults.struck.wait()
    if blow == "crash":
        await w.crash_daemon()
    elif blow == "stop":
        await w.daemon.stop()
    if blow in {"crash", "stop"}:
        faults.dead = False
        await w.start_daemon()


class Life:
    """The life: a fleet rises, one machine is held all along, one replaced, the rest rolled."""

    def __init__(self, w: World) -> None:
        self._w = w
        self._held: tuple[str, str] | None = None

    async def live(self) -> None:
        """Lives it to its end."""
        w = self._w
        await self._until(self._has(available=MACHINES))
        held = await self._lease("held")
        self._held = held, (await w.vms())[held]["id"]
        freed = await self._lease("freed")
        await w.release("freed")
        await self._until(self._has(available=MACHINES - 1, leased=[held], without=[freed]))

        old = set(await w.vms())
        managers = (w.config_dir / "managers.cfg").read_text()
        w.write_config(template(machine_type="e2-medium"), managers)
        await self._until(self._has(available=MACHINES, leased=[held], without=old - {held}))
        self._held = None
        await w.release("held")
        await self._until(self._has(available=MACHINES, without=old))
        await self._until(self._is_tidy)
        await self._stands_still()

    async def _lease(self, request_id: str) -> str:
        wanted = {"os_family": "LINUX"}
        request = {"request_id": request_id, "duration": 20 * 86400, "dimensions": wanted}
        hostname = ""

        async def fulfilled() -> bool:
            nonlocal hostname
            answer = await self._w.broker("machine_provider.lease", request)
            hostname = answer.get("hostname", "")
            return bool(hostname)

        await self._until(fulfilled)
        return hostname

    def _has(
        self, available: int, leased: Sequence[str] = (), without: Sequence[str] | set[str] = ()
    ) -> Callable[[], Awaitable[bool]]:
        """Whether the catalog holds exactly this, and every machine in it exists."""

        async def has() -> bool:
            state = await self._w.cloud_state()
            catalog: dict[str, str] = state["machine_provider"].get("catalog", {})
            vms = _project(state).get("instances", {})
            free = [name for name, found in catalog.items() if found == "AVAILABLE"]
            return (
                len(free) == available
                and {name for name in catalog if name not in free} == set(leased)
                and catalog.keys() == vms.keys()
                and not vms.keys() & set(without)
            )

        return has

    async def _is_tidy(self) -> bool:
        """Nothing is left of the old revision, nothing was doubled, every message was worked on."""
        state = await self._w.cloud_state()
        project = _project(state)
        inbox = state["pubsub"]["subscriptions"][INBOX]
        return (
            len(project["instanceTemplates"]) == len(project["groups"]) == 1
            and [group["targetSize"] for group in project["groups"].values()] == [MACHINES]
            and len(project["instances"]) == len(project["disks"]) == MACHINES
            and inbox["unacknowledged"] == 0
            and all(state["datastore"]["entities"]["local-project"][kind] == 1 for kind in KEPT)
        )

    def _versions(self) -> dict[str, int]:
        """The versions of all entities but signs of life, charts and offers, which never end."""
        (store,) = (service for service in self._w.cloud._services if service.name == "datastore")
        rows: dict[str, Any] = store._storage._rows  # type: ignore[attr-defined]
        return {
            name: row.version
            for name, row in rows.items()
            if row.key["path"][-1]["kind"] not in {Daemons.KIND, SAMPLE_KIND, OFFER_KIND}
        }

    async def _stands_still(self) -> None:
        """Every VM has its entity, told of its subscription, and nothing is written any more."""
        w = self._w
        await w.until_states(cataloged=MACHINES)
        tracked = {m["name"] for m in await w.machines() if m["state"] == "cataloged"}
        assert tracked == set(await w.vms())
        await w.pass_time(30.0)
        written = self._versions()
        await w.pass_time(65.0)
        assert self._versions() == written, "it has arrived"
        fleet = await w.get("/api/fleet")
        assert not [found for found in fleet["conditions"] if found["reason"] == "Untracked"]

    async def _until(self, condition: Callable[[], Awaitable[bool]], within: float = 900.0) -> None:
        """Lets time pass until something holds; whoever is held must be there at every look."""
        start = self._w.clock.monotonic()
        while not await condition():
            if self._held is not None:
                name, gce_id = self._held
                found = (await self._w.vms()).get(name)
                assert found is not None, "a machine in use was destroyed"
                assert found["id"] == gce_id, "a machine in use was made anew"
            if self._w.clock.monotonic() - start > within:
                state = await self._w.cloud_state()
                seen = {"compute": state["compute"], "catalog": state["machine_provider"]}
                raise AssertionError(f"not within {within} s: {msgspec.json.encode(seen).decode()}")
            await asyncio.sleep(1.0)


def _project(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = state["compute"]["projects"].get("local-project", {})
    return found
