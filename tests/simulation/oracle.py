"""Judges what happens, knowing nothing of the code under test: only what the world itself does.

It sees every VM's life in the embedded Compute Engine, every entry and lease of the Machine
Provider in the embedded Datastore, and what the simulation's own hands do. A promise is a method
that calls `fail`.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute.rows import GroupRow, VmRow
from gce_backend.localcloud.datastore.storage import StorageChange
from simulation.queue_judge import LEASES, QueueJudge
from support.watch import BY_HAND

MACHINES = "CatalogMachineEntry"
STORM = 90
"""Calls in a minute that are too many for one VM or group, from each daemon."""


BELIEVED_SECONDS = 600.0
"""For how long the Machine Provider must deny a lease without an end before it is believed."""


class Violation(msgspec.Struct, frozen=True):
    """A broken promise: which, at which simulated second, and what happened."""

    promise: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.3f} s: {self.text}"


class Held(msgspec.Struct):
    """Somebody holds a VM.

    Attributes:
        request: the lease request.
        vm: the VM's numeric id; "" when there was none under the name.
        until: when it ends, Unix seconds; None when it has no end.
        since: when it began, simulated seconds.
        told: whether the Machine Provider published it, so that the daemon can know.
        forgotten: the stores that have lost the lease, for an older backup or a removed entity, and
            since when.
    """

    request: str
    vm: str
    until: float | None
    since: float
    told: bool = False
    forgotten: dict[str, float] = msgspec.field(default_factory=dict)


class Vm(msgspec.Struct):
    """A VM's life.

    Attributes:
        name: its name.
        group: the key of its group.
        foreign: whether it is a member of a group that somebody else made.
        elsewhere: whether a daemon with a store of its own made its group.
        made: since when it exists, simulated seconds.
        doomed: since when it is being destroyed, simulated seconds.
        offered: when it last entered the catalog.
        permitted: when the Machine Provider last let go of it: reclaimed, or taken out.
    """

    name: str
    group: str
    foreign: bool = False
    made: float = 0.0
    doomed: float | None = None
    offered: float | None = None
    permitted: float | None = None
    elsewhere: bool = False


OPERATORS: Final = {"X-Operator": "yes"}
"""The headers of an operator's calls, which no daemon's budget counts."""


class Entry(msgspec.Struct):
    """A machine's entry as it is stored; `addition` is unique to the call that added it."""

    state: str
    addition: str
    lease: str
    until: float | None


class Oracle:
    """Watches one world.

    Args:
        cloud: the embedded cloud.
        now: the true wall clock.
        time: simulated seconds.
        note: told of what happens, for the story.
        cap: deletions that a window may have, given the largest fleet in it.
        window: the window's length in seconds.
        budget: calls to Compute Engine in a minute, by quota group, of a process.
        denier: the Machine Provider's namespace.
        processes: how many daemons have been started until now, and how many run.

    Attributes:
        violations: the promises that were broken.
        vms: all VMs that ever were, by numeric id.
        held: who holds which host name.
        entries: the catalog, by host name.
        by_hand: what somebody else destroys, and so not the daemon: VMs' ids and groups' keys.
        strangers: host names whose entries are not the daemon's affair.
        foreign: the keys of groups that somebody else made, as long as they stand.
        late_additions: when a late add_machines reached the Machine Provider, by host name.
        late_deletions: when the late deletion of a group was sent, by the group's zone and name.
        restores: when the daemons' store was put back to a backup, simulated seconds.
        denials: since when faults let the Machine Provider deny what it knows, a time for each.
        remembered: when leases end that one restored store has forgotten, by host name.
        given_back: when leases would have ended that were given back before, by host name.
        requests: the users' names of lease requests, by the Machine Provider's.
        seen: how often things were seen that prove that a fault fired.
        queue: the judge of the Machine Provider's queue.
        made: told of each new VM that is not of somebody else's group.
    """

    def __init__(
        self,
        cloud: Cloud,
        *,
        now: Callable[[], float],
        time: Callable[[], float],
        note: Callable[[str], None],
        cap: Callable[[int], int],
        window: float,
        budget: int,
        processes: Callable[[], tuple[int, int]],
        denier: str,
    ) -> None:
        self.violations: list[Violation] = []
        self.vms: dict[str, Vm] = {}
        self.held: dict[str, Held] = {}
        self.entries: dict[str, Entry] = {}
        self.by_hand: set[str] = set()
        self.late_additions: dict[str, float] = {}
        self.late_deletions: dict[str, float] = {}
        self.late_growths: dict[str, float] = {}
        self.late_calls: list[float] = []
        self.restores: list[float] = []
        self.denials: list[float] = []
        self.remembered: dict[str, float | None] = {}
        self.given_back: dict[str, float] = {}
        self.foreign: set[str] = set()
        self.strangers: set[str] = set()
        self.seen: Counter[str] = Counter()
        self.requests: dict[str, str] = {}
        self.restoring = False
        self._now, self._time, self._note = now, time, note
        self._cap, self._window, self._budget = cap, window, budget
        self._processes = processes
        self.denier = denier
        self._deleted: deque[float] = deque()
        self._sizes: deque[tuple[float, int]] = deque()
        self._alive: dict[str, str] = {}  # host name to VM id
        self._minute = -1
        self._calls: Counter[Any] = Counter()
        self._calls_before = 0  # processes that had ended before the minute
        self._storm_minute = -1
        self._storm_before = 0
        self._storm: Counter[str] = Counter()
        self.queue = QueueJudge(self.fail, time, now)
        self.made: Callable[[VmRow], None] = lambda _: None
        self._watch(cloud)

    def _watch(self, cloud: Cloud) -> None:
        services = {service.name: service for service in cloud._services}
        compute: Any = services["compute"]
        datastore: Any = services["datastore"]
        pubsub: Any = services["pubsub"]
        store = compute._store
        put_vm, drop_vm, drop_group = store.put_vm, store.drop_vm, store.drop_group

        def put(row: VmRow) -> None:
            before = store.vms.get(row.key)
            put_vm(row)
            self._changed(before, row)

        def drop(row: VmRow) -> None:
            before = store.vms.get(row.key)
            drop_vm(row)
            self._changed(before, None)

        def group_gone(row: GroupRow) -> None:
            drop_group(row)
            self.by_hand.discard(row.key)
            self.foreign.discard(row.key)

        store.put_vm, store.drop_vm, store.drop_group = put, drop, group_gone
        apply = datastore._storage.apply

        def applied(version: int, writes: Any) -> list[StorageChange]:
            changes: list[StorageChange] = apply(version, writes)
            for change in changes:
                kind, _, _, name = change.key.path[-1]
                if kind == MACHINES:
                    self._entry(change)
                elif kind == LEASES:
                    record, restoring = _record(change.after), self.restoring
                    self.queue.request_changed(name, record, restoring=restoring)
            return changes

        datastore._storage.apply = applied
        deliver = pubsub._deliver

        def delivered(topic: str, message: dict[str, Any]) -> str:
            self._published(message)
            number: str = deliver(topic, message)
            return number

        pubsub._deliver = delivered
        enter, charge = compute._enter, compute._quota.charge
        by_hand = False

        def entered(call: Call) -> None:
            nonlocal by_hand
            headers = call.request.headers
            by_hand = any(
                headers.get(name) == value for name, value in (BY_HAND | OPERATORS).items()
            )
            enter(call)

        def charged(project: str, metric: Any, now: float, limit: int) -> None:
            if not by_hand:
                self._call(metric, now)
            charge(project, metric, now, limit)

        compute._enter, compute._quota.charge = entered, charged

    def fail(self, promise: str, text: str) -> None:
        """A promise was broken."""
        self.violations.append(Violation(promise, self._time(), text))
        self._note(f"VIOLATION {promise}: {text}")

    def entity_removed(self, name: str) -> None:
        """Somebody removed a machine's entity: its daemons know of no lease until they ask."""
        if name in self.held:
            self._forget(name, self.held[name], "")

    def _forget(self, name: str, held: Held, namespace: str) -> None:
        """A store has lost a lease; when both have, no promise is possible."""
        held.forgotten.setdefault(namespace, self._time())
        if len(held.forgotten) > 1:
            del self.held[name]
            self._note(f"nobody remembers {held.request}: {name}")

    def restored(self, namespace: str, backup: float) -> None:
        """A store was put back to a backup of that simulated second.

        A lease that is younger than the backups of both stores is known to nobody: no promise
        is possible.
        """
        if namespace != self.denier:
            self.restores.append(self._time())
        else:
            self.queue.restored()
        for name, held in list(self.held.items()):
            if held.since > backup:
                self._forget(name, held, namespace)
                self.remembered[name] = held.until
            elif namespace == self.denier and name in self.entries:
                self._prolonged(name, self.entries[name])  # what was later is forgotten

    # VMs

    def _changed(self, before: VmRow | None, after: VmRow | None) -> None:
        if before is not None and before.id and (after is None or after.id != before.id):
            self._destroyed(before, "gone")
            if self._alive.get(before.name) == before.id:
                del self._alive[before.name]
        if after is None or not after.id:
            return
        if after.id not in self.vms:
            foreign = after.group in self.foreign
            self.vms[after.id] = Vm(after.name, after.group, foreign, self._time())
            self._alive[after.name] = after.id
            self._note(f"vm {after.name} is made (id {after.id[-6:]})")
            if not foreign:
                self.made(after)
        status = before.status if before is not None and before.id == after.id else ""
        if after.status != status and after.status in {"RUNNING", "TERMINATED", "SUSPENDED"}:
            self._note(f"vm {after.name} is {after.status}")
        begun = after.action == "RECREATING" and after.status == "STOPPING"
        if (after.action == "DELETING" and after.status) or begun:
            self._destroyed(after, after.action)
        elif not after.status and status:
            self._destroyed(after, "lost")

    def _destroyed(self, row: VmRow, how: str) -> None:
        vm = self.vms[row.id]
        if vm.doomed is not None:
            return
        vm.doomed = self._time()
        by_hand = row.id in self.by_hand or row.group in self.by_hand
        self._note(f"vm {row.name} is destroyed ({how}{', by hand' if by_hand else ''})")
        if not by_hand:
            self._judge_destruction(row, vm)
            self._judge_rate()

    def _judge_destruction(self, row: VmRow, vm: Vm) -> None:
        """S1: nobody holds it, and the Machine Provider let go of it."""
        if vm.foreign:
            self.fail("S1", f"a stranger's VM is destroyed: {row.name}")
            return
        if self._is_forgotten(row, vm):
            self._note(f"nobody remembers that the group of {row.name} was to be deleted")
            return
        held = self.holder(row.name)
        if held is not None and held.vm == row.id:
            self.fail("S1", f"{row.name} is destroyed, and {held.request} holds it")
            return
        entry = self.entries.get(row.name)
        if (
            row.name in self.strangers
            or entry is None
            or entry.state not in {"NEW", "AVAILABLE", "LEASED"}
        ):
            return
        late = self.late_additions.get(row.name, float("-inf"))
        added = vm.offered if vm.offered is not None else float("-inf")
        if vm.offered is None:
            return  # the entry is of an earlier VM of that name
        if self.denials:
            return  # row 30: the Machine Provider denies that it offers it; the caps judge that
        if vm.permitted is None or (vm.permitted < added and late < vm.permitted):
            self.fail("S1", f"{row.name} is destroyed, and the catalog offers it ({entry.state})")

    def _is_forgotten(self, row: VmRow, vm: Vm) -> bool:
        """Whether its group is deleted by a call that a restored store does not know of.

        docs/deploy.md has operators keep the fleet paused until such calls have taken effect.
        """
        sent = self.late_deletions.get(row.group.partition("/")[2])
        return sent is not None and any(sent < at <= vm.made for at in self.restores)

    def is_made_unknowingly(self, row: VmRow) -> bool:
        """Whether it is made by a late call that a restored store does not know of.

        The maximum cannot count it until it is there. docs/deploy.md has operators wait for such
        calls, too.
        """
        calls = (self.late_growths.get(name) for name in (row.name, row.group.partition("/")[2]))
        made = self.vms[row.id].made
        return any(sent < at <= made for sent in calls if sent is not None for at in self.restores)

    def _judge_rate(self) -> None:
        """S5: deletions in a window stay under the cap."""
        now = self._time()
        self._deleted.append(now)
        size = sum(1 for vm in self._alive.values() if vm)
        self._sizes.append((now, size))
        while self._deleted[0] <= now - self._window:
            self._deleted.popleft()
        while self._sizes[0][0] <= now - self._window:
            self._sizes.popleft()
        largest = max(size for _, size in self._sizes)
        if len(self._deleted) > self._cap(largest + len(self._deleted)):
            self.fail("S5", f"{len(self._deleted)} deletions within {self._window:g} s")

    def vm_of(self, name: str) -> str | None:
        """The id of the VM that has this name now."""
        return self._alive.get(name)

    # The Machine Provider

    def holder(self, name: str) -> Held | None:
        """Who holds a machine now."""
        held = self.held.get(name)
        if held is None or (held.until is not None and held.until <= self._now()):
            return None
        forgotten = held.forgotten.get(self.denier, float("inf"))
        denied = min(forgotten, *self.denials, float("inf"))
        if held.until is None and self._time() - denied > BELIEVED_SECONDS:
            return None  # without an end, the Machine Provider's word counts in the long run
        return held

    def leases(self) -> set[str]:
        """The leases that the Machine Provider has stored, those that have ended left out."""
        now = self._now()
        return {
            f"{entry.lease} of {name}"
            for name, entry in self.entries.items()
            if entry.state == "LEASED" and (entry.until is None or entry.until > now)
        }

    def _entry(self, change: StorageChange) -> None:
        name = change.key.path[-1][3].partition(":")[2]
        record = _record(change.after)
        self.queue.machine_changed(name, record, restoring=self.restoring)
        before = self.entries.pop(name, None)
        if record is None:
            if not self.restoring and before is not None and before.state != "DELETED":
                self._let_go(name, "left the catalog")
            return
        entry = Entry(
            str(record.get("state", "NEW")),
            str(record.get("addition_id")),
            str(record.get("lease", "")),
            record.get("lease_expiration_ts"),
        )
        self.entries[name] = entry
        if self.restoring:
            return
        strange = name in self.strangers
        vm = None if strange else self.vms.get(self._alive.get(name, ""))
        if before is None or before.addition != entry.addition:
            if vm is not None:
                vm.offered = self._time()
                if vm.foreign:
                    self.fail("S1", f"a stranger's VM is offered: {name}")
            self._note(f"catalog {name} is added")
        elif before.state == entry.state:
            self._prolonged(name, entry)
            return
        self._moved(name, before, entry, vm)

    def _prolonged(self, name: str, entry: Entry) -> None:
        """A lease ends at another time: it was extended, or its machines are held."""
        held = self.held.get(name)
        if held is not None and held.request == self.requests.get(entry.lease):
            held.until = entry.until

    def _moved(self, name: str, before: Entry | None, entry: Entry, vm: Vm | None) -> None:
        self._note(f"catalog {name} is {entry.state}")
        if entry.state == "LEASED":
            held = self.holder(name)
            if held is not None and held.request != self.requests.get(entry.lease):
                self.seen["leased twice"] += 1
                if not held.forgotten and held.vm and held.vm == self._alive.get(name):
                    self.fail("S1", f"{name} is leased, and {held.request} holds it")
            request = self.requests.get(entry.lease, entry.lease)
            owner = "" if name in self.strangers else self._alive.get(name, "")
            self.held[name] = Held(request, owner, entry.until, self._time())
            if vm is None or vm.doomed is not None:
                self.seen["leased without a VM"] += 1
        elif entry.state in {"RECLAIMED", "DELETED"}:
            self._let_go(name, entry.state)
        if before is not None and before.state == "LEASED" and entry.state != "LEASED":
            self.held.pop(name, None)
            if before.until is not None:
                self.given_back[name] = before.until

    def _let_go(self, name: str, why: str) -> None:
        del why
        vm = self.vms.get(self._alive.get(name, ""))
        if vm is not None:
            vm.permitted = self._time()

    def forget(self, request: str) -> None:
        """A user gives back what the Machine Provider may not know of any more."""
        for name in [n for n, held in self.held.items() if held.request == request]:
            del self.held[name]

    def _published(self, message: dict[str, Any]) -> None:
        word = base64.b64decode(message.get("data", "")).decode("utf-8", "replace")
        name = message.get("attributes", {}).get("hostname", "")
        if word == "LEASED" and name in self.held:
            self.held[name].told = True

    # Calls

    def asked(self, subject: str) -> None:
        """Row 53: a subject that goes wrong for ever gets a few calls a minute."""
        minute = int(self._time() // 60)
        if minute != self._storm_minute:
            self._storm_minute = minute
            self._storm.clear()
            self._storm_before = self._gone()
        self._storm[subject] += 1
        most = STORM * max(1, self._processes()[0] - self._storm_before)
        if self._storm[subject] == most:
            self.fail("S4", f"{most} calls within a minute for {subject}")

    def _call(self, metric: Any, now: float) -> None:
        """S4: calls in a minute stay inside the budget of each process that ran in it.

        A call that the network delays, or repeats, was sent in another minute.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._calls.clear()
            self._calls_before = self._gone()
        self._calls[metric] += 1
        # One that has died made its calls, too.
        most = self._budget * max(1, self._processes()[0] - self._calls_before)
        late = sum(self._time() - 60.0 <= at <= self._time() for at in self.late_calls)
        if self._calls[metric] == most + late + 1:
            self.fail("S4", f"more than {most} calls of {metric.name} in a minute")

    def _gone(self) -> int:
        """How many processes have ended."""
        started, running = self._processes()
        return started - running


def _record(row: Any) -> dict[str, Any] | None:
    if row is None:
        return None
    text = row.properties.get("record", {}).get("stringValue", "{}")
    found: dict[str, Any] = msgspec.json.decode(text)
    return found
