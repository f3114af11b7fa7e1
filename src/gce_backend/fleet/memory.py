"""The daemon's memory between runs, which is not stored; after a restart it observes again.

Times are monotonic seconds. `model.observed` holds the observed resources of Compute.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.fleet.phantom_looks import PhantomLooks
from gce_backend.model.entities import InstanceGroupManager, Lease, Permit
from gce_backend.model.keys import GroupKey, Key, MachineKey, TemplateKey
from gce_backend.model.observed import Group, Member, RequestedMachines
from gce_backend.model.orders import Control, MachineOrder
from gce_backend.rules.cataloging import Contradiction
from gce_backend.rules.sightings import LesseeNews
from gce_backend.rules.strays import Marked
from gce_backend.rules.surplus import SizeHistory
from gce_backend.rules.zones import ZoneTrouble


class Suspect(NamedTuple):
    """A resource with our mark and without an entity.

    Attributes:
        since: when it was first found, monotonic seconds.
        gce_id: a VM's numeric id; None of what is known by its name.
    """

    since: float
    gce_id: int | None


class ToldNews(NamedTuple):
    """What a lessee was told.

    Attributes:
        news: what.
        lease: whose lease.
        at: when, monotonic seconds.
    """

    news: LesseeNews
    lease: Lease | None
    at: float


@dataclass(slots=True)
class SeenAtCompute:
    """What was last seen at Compute, and since when.

    Attributes:
        groups: by their manager's key.
        unlisted: groups missing from a complete list of groups, with the first time it missed them.
        gone: groups that two checks found missing, though the daemon did not delete them.
        vanished: VMs that neither their group nor Compute itself lists.
        doubted: groups with a VM that was not found: their members are listed at once.
        grown: when a group last grew.
        sizes: what size a group had and needed, for as long as its surplus must last.
        idle: when each group was last looked at, and its machines that could be leased then.
        pool_sizes: the size that each group of a pool should have now.
        zone_troubles: groups of pools whose zone cannot make machines.
        empty_since: drained groups that were found empty.
        suspects: resources with our mark and without an entity, by kind and project, then by name.
        marked: templates and groups with this store's own mark, as last listed: by kind and
            project, then by the entity that they were made for, then by numeric id.
        marked_beside: the entities of these groups, by kind and project, then by template and zone.
        stray_since: when each of those that an entity can adopt was first found, by kind and
            project, then by numeric id.
        next_template_look: when the instance templates are listed again.
        next_abandoned_look: when a VM that its group does not list is checked again, and the
            pause before that.
        asked_preempted: VMs that Compute was asked about whether it took them back, with when they
            had stopped and vanished by then.
        next_stopped_look: when a project's stopped VMs are listed again.
        next_full_look: when a project's VMs are listed again.
    """

    groups: dict[GroupKey, Group] = field(default_factory=dict)
    unlisted: dict[GroupKey, float] = field(default_factory=dict)
    gone: set[GroupKey] = field(default_factory=set)
    vanished: set[MachineKey] = field(default_factory=set)
    doubted: set[GroupKey] = field(default_factory=set)
    grown: dict[GroupKey, float] = field(default_factory=dict)
    sizes: dict[GroupKey, SizeHistory] = field(default_factory=dict)
    idle: dict[GroupKey, tuple[float, int]] = field(default_factory=dict)
    pool_sizes: dict[GroupKey, int] = field(default_factory=dict)
    zone_troubles: dict[GroupKey, ZoneTrouble] = field(default_factory=dict)
    empty_since: dict[GroupKey, float] = field(default_factory=dict)
    suspects: dict[str, dict[str, Suspect]] = field(default_factory=dict)
    marked: dict[str, dict[Key, dict[int, Marked]]] = field(default_factory=dict)
    marked_beside: dict[str, Mapping[tuple[TemplateKey, str], list[GroupKey]]] = field(
        default_factory=dict
    )
    stray_since: dict[str, dict[int, float]] = field(default_factory=dict)
    next_template_look: float = float("-inf")
    next_abandoned_look: dict[MachineKey, tuple[float, float]] = field(default_factory=dict)
    asked_preempted: dict[MachineKey, tuple[float | None, float | None]] = field(
        default_factory=dict
    )
    next_stopped_look: dict[str, float] = field(default_factory=dict)
    next_full_look: dict[str, float] = field(default_factory=dict)

    def forget(self, managers: Mapping[GroupKey, InstanceGroupManager]) -> None:
        """Forgets the groups whose managers are not among these.

        What was listed of a group that another daemon has deleted is forgotten with the link to it.
        """
        known = (self.unlisted, self.grown, self.sizes, self.zone_troubles, self.idle)
        for seen in known:
            for key in [key for key in seen if key not in managers]:
                seen.pop(key, None)
        for key in tuple(self.groups):
            if key not in managers or managers[key].url is None:
                del self.groups[key]
        self.gone &= set(managers)
        self.doubted &= set(managers)

    def forget_marked(self, key: Key, gce_id: int | None) -> None:
        """Forgets a template or group that is proven gone."""
        for listed in self.marked.values():
            if gce_id is not None and key in listed:
                listed[key].pop(gce_id, None)

    def member(self, instance: MachineKey) -> Member | None:
        """A VM as its group last listed it; None when it was not listed or never looked at."""
        group = self.groups.get(instance.group)
        return group.members.get(instance.name) if group is not None else None


@dataclass(frozen=True, slots=True)
class HeldDeletions:
    """The deletions that the caps hold back from a job.

    Attributes:
        permits: how many, by permit.
        paced: those of them that a roll-out waits for, by permit.
        templates: the templates of these roll-outs, sorted.
    """

    permits: Counter[Permit] = field(default_factory=Counter)
    paced: Counter[Permit] = field(default_factory=Counter)
    templates: tuple[str, ...] = ()

    def total(self) -> int:
        """How many the caps hold back."""
        return self.permits.total()


class SeenTombstone(NamedTuple):
    """A tombstone that has been seen.

    Attributes:
        since: when it was first seen, monotonic seconds.
        number: its number in the picture.
        key: whose it is.
    """

    since: float
    number: int
    key: MachineKey


@dataclass(slots=True)
class DeletionMemory:
    """Facts about deletions that are not stored.

    Attributes:
        held: what the caps hold back, by job.
        tombstones: those that were seen, the oldest first.
        removed: the number of the last one that was removed.
    """

    held: dict[str, HeldDeletions] = field(default_factory=dict)
    tombstones: deque[SeenTombstone] = field(default_factory=deque)
    removed: int = 0

    def held_by_permit(self) -> Counter[Permit]:
        """How many deletions the caps hold back in this process; every permit is there."""
        total: Counter[Permit] = Counter(dict.fromkeys(Permit, 0))
        for held in self.held.values():
            total.update(held.permits)
        return total

    def paced_by_permit(self) -> Counter[Permit]:
        """How many of them a roll-out waits for."""
        total: Counter[Permit] = Counter()
        for held in self.held.values():
            total.update(held.paced)
        return total


class AgentReports:
    """Which machines wait for their agents, as the catalog has said; by group, where they do."""

    def __init__(self) -> None:
        self._up: set[MachineKey] = set()
        self._waiting: defaultdict[GroupKey, set[MachineKey]] = defaultdict(set)

    def note(self, machine: MachineKey, *, waits: bool) -> None:
        """Notes whether a machine waits for its agent."""
        self.forget(machine)
        if waits:
            self._waiting[machine.group].add(machine)
        else:
            self._up.add(machine)

    def forget(self, machine: MachineKey) -> None:
        """Forgets a machine that is gone."""
        self._up.discard(machine)
        if machine.group in self._waiting:
            self._waiting[machine.group].discard(machine)
            if not self._waiting[machine.group]:
                del self._waiting[machine.group]

    def is_up(self, machine: MachineKey) -> bool:
        """Whether the catalog has said that a machine does not wait for its agent."""
        return machine in self._up

    def waits(self, machine: MachineKey) -> bool:
        """Whether a machine waits for its agent."""
        return machine in self._waiting.get(machine.group, ())

    def waiting(self, group: GroupKey) -> Collection[MachineKey]:
        """The machines of a group that wait for their agents."""
        return tuple(self._waiting.get(group, ()))


@dataclass(slots=True)
class CatalogMemory:
    """Calls under way at the Machine Provider, and facts about its answers.

    Attributes:
        adding: instances whose add_machine is under way in this process.
        removing: instances whose delete_machine is under way in this process.
        batch: machines in the next add_machines call; None when it was never too slow.
        unannounced: cataloged machines without a SUBSCRIBED: when each was first seen, or long
            ago if the catalog has said that the machine can be leased.
        next_question: when to ask the catalog about each of them again.
        agents: which machines wait for their agents, as the catalog has said.
        contradicted: leased machines whose lease the catalog denies.
        phantoms: when the entries of deleted machines are looked for.
        news: what lessees of machines were told about their VMs.
    """

    adding: set[MachineKey] = field(default_factory=set)
    removing: set[MachineKey] = field(default_factory=set)
    batch: int | None = None
    unannounced: dict[MachineKey, float] = field(default_factory=dict)
    next_question: dict[MachineKey, float] = field(default_factory=dict)
    agents: AgentReports = field(default_factory=AgentReports)
    contradicted: dict[MachineKey, Contradiction] = field(default_factory=dict)
    phantoms: PhantomLooks = field(default_factory=PhantomLooks)
    news: dict[MachineKey, ToldNews] = field(default_factory=dict)


@dataclass(slots=True)
class DemandMemory:
    """What requests at the Machine Provider wait for, and who serves them.

    Attributes:
        version: of the last answer; "" when there is none.
        requests: what is waited for.
        since: when that was read, Unix seconds.
        shares: the waiting machines that each group is to serve, and how many of its machines were
            leased then: later leases serve them.
        unserved: waiting machines that no group can serve.
    """

    version: str = ""
    requests: tuple[RequestedMachines, ...] = ()
    since: UnixSeconds = 0.0
    shares: Mapping[GroupKey, tuple[int, int]] = field(default_factory=dict)
    unserved: int = 0

    def waiting(self, group: GroupKey, leased: int) -> int:
        """Waiting machines that a group is still to serve.

        Args:
            leased: its leased machines now.
        """
        share, before = self.shares.get(group, (0, 0))
        return max(0, share - max(0, leased - before))


class FamilyLook(NamedTuple):
    """The last look at an image family.

    Attributes:
        again_at: when it is looked at again, monotonic seconds.
        error: why its newest image could not be looked up; None when it could.
    """

    again_at: float
    error: BackendError | None = None


@dataclass(slots=True)
class Memory:
    """All of it.

    Attributes:
        seen: what was last seen at Compute.
        deletions: what the caps on deletions count.
        catalog: what is under way at the Machine Provider.
        demand: what requests at the Machine Provider wait for.
        hourly_prices: about what a machine of a type costs in an hour; None when that is not known.
        operations: operations that have not ended, by link: when each was first looked at.
        heard: operators' orders about machines that the daemon has read.
        heard_of_many: the time of the last order about many machines that it has read.
        store_id: the id of the store, once it was read or created.
        confirmed_revision: the configuration in force, if the config service served it when it was
            last asked; "" if it did not, or serves what is not in force.
        processed_revision: the configuration that the entities of all templates match.
        default_accounts: the address of each project's default service account.
        family_looks: the last looks at image families, by `PROJECT/FAMILY`.
    """

    seen: SeenAtCompute = field(default_factory=SeenAtCompute)
    deletions: DeletionMemory = field(default_factory=DeletionMemory)
    catalog: CatalogMemory = field(default_factory=CatalogMemory)
    demand: DemandMemory = field(default_factory=DemandMemory)
    hourly_prices: dict[str, float | None] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    heard: frozenset[MachineOrder] = frozenset()
    heard_of_many: float = 0.0
    store_id: str = ""
    confirmed_revision: str = ""
    processed_revision: str = ""
    default_accounts: dict[str, str] = field(default_factory=dict)
    family_looks: dict[str, FamilyLook] = field(default_factory=dict)

    def hear(self, control: Control) -> None:
        """Takes orders as read: all entities were read after these orders were given."""
        self.heard = frozenset(control.machine_orders)
        self.heard_of_many = control.machines_ordered
