"""The in-memory picture of all entities, and the only way to change them.

The picture is loaded once and kept current by the daemon's own writes, so that a quiet minute reads
nothing. A change is a function from an entity to its new value: it is computed from the picture,
written with the version that it was computed from, and computed again from a fresh read when
somebody else was faster or the outcome of the write is unknown. Such a function must therefore be
idempotent: applied to its own result it changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from gce_backend.base.cause import current_cause
from gce_backend.base.clock import Clock, SystemClock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    AbortedError,
    AlreadyExistsError,
    BackendError,
    ContentionError,
    CorruptEntityError,
    MissingEntityError,
    NotFoundError,
    TransientError,
)
from gce_backend.fleet.age_index import AgeIndex
from gce_backend.fleet.facet_index import FacetIndex
from gce_backend.fleet.history_writer import Chronicler
from gce_backend.fleet.store import KINDS, Decision, Store, Stored, Write
from gce_backend.fleet.tombstones import Tombstones
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
    ConfigServiceAddress,
    DeletionWindow,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    MachineProviderAddress,
    SetAsideMessage,
    StoredConfiguration,
    StoreIdentity,
)
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey, TemplateKey
from gce_backend.model.orders import Control
from gce_backend.rules.activation import is_active
from gce_backend.rules.compute_bodies import group_name_of, template_name_of
from gce_backend.rules.facets import Facet
from gce_backend.rules.history_pages import Transition

__all__ = ["Apply", "Change", "Decision", "Fleet", "when_present"]

WRITE_ATTEMPTS = 6
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two attempts to write while Datastore fails."""
BATCH = 497
"""Changes in a commit: with the page of history that tells of them, and the journal's two, as many
as Datastore takes."""
SLICE = 2000
"""Entities that are entered before the event loop runs other tasks."""
PAGE = 300
"""Entities in a page of a query, as Datastore makes them."""

E = TypeVar("E", bound=Entity)
K = TypeVar("K")
V = TypeVar("V")


Apply: TypeAlias = Callable[[E | None], E | None]
"""From an entity's present value to its new one; None is an absent one."""


class Change(NamedTuple, Generic[E]):
    """A change to one entity.

    Attributes:
        key: which one.
        apply: from the present value (None: absent) to the new one (None: delete). Idempotent; it
            returns its argument when nothing is to change, also when its reason no longer holds.
        cause: what makes it, for history; "" is what `cause.caused_by` says.
    """

    key: Key
    apply: Apply[E]
    cause: str = ""


class _Submitted:
    """The changes of one call of `Fleet.change`, and what came of them.

    Attributes:
        changes: not decided yet whether they change anything.
        cause: what makes them.
        who: who ordered that; "" for nobody.
        changed: the entities that they did change.
        error: why they could not be written.
        done: whether the two above are known.
    """

    def __init__(self, changes: Sequence[Change[Any]]) -> None:
        self.changes = changes
        self.cause, self.who = current_cause()
        self.changed: set[Key] = set()
        self.error: BaseException | None = None
        self.done = False


def when_present(apply: Callable[[E], E | None]) -> Apply[E]:
    """A change that leaves an absent entity absent."""

    def applied(entity: E | None) -> E | None:
        return None if entity is None else apply(entity)

    return applied


class _Picture(dict[Any, Any]):
    """The entities of one kind. Asking for one that is not there is a failure like others.

    So it spoils only what needs it, also when it vanishes while a job is at work on it.
    """

    def __missing__(self, key: Key) -> Any:
        raise MissingEntityError(
            f"the entity {key} is missing: it was removed during the work on it, or by hand"
        )


class Fleet:
    """The picture.

    Args:
        store: where the entities live.
        rng: spreads repeated writes, and names pages of history.
        clock: for history; by default the machine's.

    Attributes:
        templates: by key, like the others.
        revisions: by key.
        managers: by key.
        instances: by key.
        tombstones: which of them are of VMs that are proven gone, in order.
        set_aside: messages that could not be understood, by key.
    """

    def __init__(
        self, store: Store, rng: random.Random | None = None, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._rng = rng or random.Random()  # noqa: S311 -- spreads load, keeps no secret
        self._chronicler = Chronicler(clock or SystemClock(), self._rng)
        self._versions: dict[Key, int] = {}
        self._pictures: dict[str, _Picture] = {kind.KIND: _Picture() for kind in KINDS}
        self._children: defaultdict[Key, dict[Any, None]] = defaultdict(dict)
        self._beside: defaultdict[tuple[TemplateKey, str], dict[GroupKey, None]] = defaultdict(dict)
        self._facets = FacetIndex()
        self._ages = AgeIndex()
        self.tombstones = Tombstones()
        self._changes: dict[GroupKey, int] = {}
        self._numbers = count(1)
        self._writing = asyncio.Lock()
        self._submitted: list[_Submitted] = []
        self.templates: Mapping[TemplateKey, InstanceTemplate] = self._pictures[
            InstanceTemplate.KIND
        ]
        self.revisions: Mapping[RevisionKey, InstanceTemplateRevision] = self._pictures[
            InstanceTemplateRevision.KIND
        ]
        self.managers: Mapping[GroupKey, InstanceGroupManager] = self._pictures[
            InstanceGroupManager.KIND
        ]
        self.instances: Mapping[MachineKey, Instance] = self._pictures[Instance.KIND]
        self.set_aside: Mapping[Key, SetAsideMessage] = self._pictures[SetAsideMessage.KIND]

    @property
    def control(self) -> Control:
        """What an operator ordered."""
        return self._alone(CONTROL_KEY, Control())

    @property
    def configuration(self) -> StoredConfiguration:
        """The configuration in force; empty before the first import."""
        return self._alone(CONFIGURATION_KEY, StoredConfiguration())

    @property
    def config_settings(self) -> ConfigServiceAddress:
        """Where configuration is served; empty when the operator has not said."""
        return self._alone(CONFIG_SETTINGS_KEY, ConfigServiceAddress())

    @property
    def machine_provider(self) -> MachineProviderAddress:
        """Where the Machine Provider is; empty when the operator has not said."""
        return self._alone(MACHINE_PROVIDER_KEY, MachineProviderAddress())

    @property
    def identity(self) -> str:
        """The id of this store; "" while none is stored, or it cannot be understood."""
        return self._identity.id

    @property
    def projects(self) -> set[str]:
        """The projects in which something of ours may be: all that were ever named."""
        return {
            *self._identity.projects,
            *(one.template.project for one in self.revisions.values()),
        }

    @property
    def _identity(self) -> StoreIdentity:
        return self._alone(STORE_IDENTITY_KEY, StoreIdentity(id=""))

    async def identify(self, fresh: str) -> str:
        """Stores the id of this store, if it has none.

        Args:
            fresh: the id for a store without one.

        Returns:
            The id that is stored.

        Raises:
            RemoteError: Datastore could not be reached.
            CorruptEntityError: what is stored cannot be understood.
        """
        await self.order(
            [Change(STORE_IDENTITY_KEY, lambda known: known or StoreIdentity(id=fresh))]
        )
        return self.identity

    @property
    def deletion_window(self) -> DeletionWindow:
        """What the caps on deletions count, as last seen; other processes write it too."""
        return self._alone(DELETION_WINDOW_KEY, DeletionWindow())

    def _alone(self, key: Key, empty: E) -> E:
        """The entity of a kind that has only one; the empty one while it is not stored."""
        found: E | None = self._pictures[empty.KIND].get(key)
        return empty if found is None else found

    def get(self, key: Key) -> Entity | None:
        """An entity in the picture; None when there is none."""
        found: Entity | None = self._pictures[key.kind].get(key)
        return found

    def is_named(self, manager: GroupKey) -> bool:
        """Whether the configuration names this manager, and its revision is the active one."""
        return is_active(manager, self.get)

    def is_active(self, manager: GroupKey) -> bool:
        """Whether a manager's group is to be there: it is named, and is not being deleted.

        A group whose deletion has begun is deleted to its end, also when it is named again: until
        then nothing is cataloged in it, and it does not grow.
        """
        entity = self.managers.get(manager)
        return self.is_named(manager) and not (entity is not None and entity.is_deleting)

    def template_name(self, revision: RevisionKey) -> str:
        """The name of a revision's instance template at Compute, there now or to be made."""
        entity = self.revisions.get(revision)
        return template_name_of(revision, entity.generation if entity is not None else 0)

    def group_name(self, manager: GroupKey) -> str:
        """The name of a manager's group at Compute, there now or to be made."""
        entity = self.managers.get(manager)
        return group_name_of(manager, entity.generation if entity is not None else 0)

    def active_revisions(self) -> Iterator[tuple[RevisionKey, InstanceTemplateRevision]]:
        """The revisions that the configuration describes."""
        for template, entity in tuple(self.templates.items()):
            if entity.active is not None:
                key = template.child(entity.active)
                if key in self.revisions:
                    yield key, self.revisions[key]

    def active_managers(self) -> Iterator[tuple[GroupKey, InstanceGroupManager]]:
        """The managers that the configuration describes, but for groups that are being deleted."""
        for revision, entity in self.active_revisions():
            for zone in entity.active:
                key = revision.child(zone)
                if key in self.managers and not self.managers[key].is_deleting:
                    yield key, self.managers[key]

    def siblings(self, manager: GroupKey) -> Iterator[tuple[GroupKey, InstanceGroupManager]]:
        """The other revisions' managers of the same template and zone.

        Those whose revision is missing from the store are among them: their VMs are there.
        """
        for key in self.groups_in(manager.template, manager.zone):
            if key != manager:
                yield key, self.managers[key]

    def groups_in(self, template: TemplateKey, zone: str) -> tuple[GroupKey, ...]:
        """All revisions' managers of a template in a zone."""
        return tuple(self._beside.get((template, zone), ()))

    def revision_of(self, manager: GroupKey) -> InstanceTemplateRevision:
        """The revision that a manager is of.

        Raises:
            MissingEntityError: the store does not hold it, or it cannot be understood.
        """
        found = self.revisions.get(manager.revision)
        if found is None:
            raise MissingEntityError(
                f"the entity {manager.revision} is missing: its group's project is not known. "
                "Restore the entity, or delete the entities below it and their resources at Compute"
            )
        return found

    def instances_of(self, manager: GroupKey) -> Iterator[tuple[MachineKey, Instance]]:
        """A group's instances, without tombstones."""
        for key in tuple(self._children.get(manager, ())):
            yield key, self.instances[key]

    def living(self) -> Iterator[tuple[MachineKey, Instance]]:
        """The instances of all groups, without tombstones."""
        for key in tuple(self._children):
            if isinstance(key, GroupKey):
                yield from self.instances_of(key)

    def all_instances_of(self, manager: GroupKey) -> Iterator[tuple[MachineKey, Instance]]:
        """A group's instances, and its tombstones: of a busy group, these are many."""
        yield from self.instances_of(manager)
        yield from self.having(Facet.DELETED, group=manager)

    def having(
        self, *facets: Facet, group: GroupKey | None = None
    ) -> Iterator[tuple[MachineKey, Instance]]:
        """The machines that have one of the facets: of a group, or of all."""
        for key in tuple(self._facets.keys(facets, group)):
            if (instance := self.instances.get(key)) is not None:
                yield key, instance

    def count(self, facet: Facet, group: GroupKey | None = None) -> int:
        """How many machines have a facet: of a group, or of all."""
        return self._facets.count(facet, group)

    def leased(self, group: GroupKey, now: UnixSeconds) -> int:
        """How many leases of a group's machines run."""
        return self._facets.leased(group, now, self.instances)

    def by_age(
        self, group: GroupKey, *, newest_first: bool = False
    ) -> Iterator[tuple[MachineKey, Instance]]:
        """A group's machines that were ever listed, the one that was listed first comes first."""
        for key in self._ages.of(group, self.instances_of, newest_first=newest_first):
            if (instance := self.instances.get(key)) is not None:
                yield key, instance

    def size(self, group: GroupKey) -> int:
        """How many instances a group has, without tombstones."""
        return len(self._children.get(group, ()))

    def changes(self, group: GroupKey) -> int:
        """A number that grows with each change of one of a group's machines."""
        return self._changes.get(group, 0)

    def revisions_of(
        self, template: TemplateKey
    ) -> Iterator[tuple[RevisionKey, InstanceTemplateRevision]]:
        """A template's revisions."""
        for key in tuple(self._children.get(template, ())):
            yield key, self.revisions[key]

    def managers_of(self, revision: RevisionKey) -> Iterator[tuple[GroupKey, InstanceGroupManager]]:
        """A revision's groups."""
        for key in tuple(self._children.get(revision, ())):
            yield key, self.managers[key]

    async def load(self, kinds: Iterable[type[Entity]] = KINDS) -> None:
        """Reads every entity; what has vanished from the store vanishes from the picture.

        Args:
            kinds: of these kinds only.

        Raises:
            RemoteError: Datastore could not be read; the picture is as it was.
        """
        async with self._writing:
            for kind in kinds:
                found: dict[Key, Stored] = {}
                async for page in self._store.read_kind(kind.KIND):
                    found.update(page)
                for key in [key for key in self._pictures[kind.KIND] if key not in found]:
                    self._see(key, None)
                for number, (key, stored) in enumerate(found.items(), start=1):
                    self._see(key, stored)
                    if number % SLICE == 0:
                        await asyncio.sleep(0)

    @property
    def corrupt(self) -> Mapping[Key, str]:
        """Entities that cannot be understood, with what is wrong: left as they are.

        They are not in the picture, nor is what lies under them: nobody touches what they stand
        for until an operator has corrected them.
        """
        return self._store.corrupt

    @property
    def pages(self) -> int:
        """About how many pages a review reads."""
        return len(KINDS) + sum(len(picture) for picture in self._pictures.values()) // PAGE

    async def review(self) -> AsyncIterator[int]:
        """Compares every entity with the picture, a page at each step; gives how many differed.

        What differs is read again by its key, so that a page read a while ago never takes the place
        of what was written since.

        Raises:
            RemoteError: Datastore could not be read; the picture is as true as it was.
            CorruptEntityError: an entity cannot be understood.
        """
        for kind in KINDS:
            corrupt = {key for key in self.corrupt if key.kind == kind.KIND}
            unseen = self._pictures[kind.KIND].keys() | corrupt
            async for page in self._store.read_versions(kind.KIND):
                unseen -= page.keys()
                different = [key for key, at in page.items() if self._versions.get(key) != at]
                await self._look(different)
                yield len(different)
            await self._look(unseen & (self._pictures[kind.KIND].keys() | corrupt))

    async def _look(self, keys: Iterable[Key]) -> None:
        if wanted := list(keys):
            await self.refresh(wanted)

    async def refresh(self, keys: Iterable[Key]) -> None:
        """Reads these entities again: whatever destroys is decided on such a fresh look.

        Raises:
            RemoteError: Datastore could not be read; the picture is as it was.
        """
        async with self._writing:
            await self._refresh(keys)

    async def change(self, changes: Sequence[Change[Any]]) -> int:
        """Applies changes, many to a commit, each guarded by its entity's version.

        Changes that are submitted while a commit is under way go together into the next one.

        Returns:
            How many entities they changed.

        Raises:
            RemoteError: Datastore could not be reached.
            ContentionError: an entity changed under every attempt.
        """
        if not changes:
            return 0
        mine = _Submitted(changes)
        self._submitted.append(mine)
        try:
            async with self._writing:
                if not mine.done:
                    await self._write_submitted()
        finally:
            if mine in self._submitted:  # cancelled before anybody took it
                self._submitted.remove(mine)
        if mine.error is not None:
            raise mine.error
        return len(mine.changed)

    async def order(self, changes: Sequence[Change[Any]]) -> int:
        """Applies changes of an operator, who is to hear of what cannot be understood.

        Jobs pass such an entity over; an order that was passed over would look like one obeyed.

        Returns:
            How many entities they changed.

        Raises:
            RemoteError: Datastore could not be reached.
            ContentionError: an entity changed under every attempt.
            CorruptEntityError: one of the entities cannot be understood.
        """
        self._refuse_corrupt(changes)
        changed = await self.change(changes)
        self._refuse_corrupt(changes)  # it may have been found out only now
        return changed

    def _refuse_corrupt(self, changes: Sequence[Change[Any]]) -> None:
        for change in changes:
            if change.key in self.corrupt:
                raise CorruptEntityError(
                    f"the stored entity {change.key.kind} cannot be understood: correct it, or "
                    f"delete it, and give the order again ({self.corrupt[change.key]})"
                )

    async def _write_submitted(self) -> None:
        together, self._submitted = self._submitted, []
        try:
            await self._write(together)
        finally:  # cancelled: the others' changes are left to whoever writes next
            self._submitted = [one for one in together if not one.done] + self._submitted

    async def _write(self, together: Sequence[_Submitted]) -> None:
        """Writes what several have submitted; what is wrong with one must not fail the others."""
        try:
            changes = [(one, change) for one in together for change in one.changes]
            for start in range(0, len(changes), BATCH):
                await self._change(changes[start : start + BATCH])
        except Exception as error:  # noqa: BLE001  (raised where it was submitted)
            if len(together) > 1 and not isinstance(error, TransientError):
                for one in together:
                    await self._write([one])
                return
            for one in together:
                one.error = error
        for one in together:
            one.done = True

    async def transact(self, keys: Sequence[Key], decide: Decision) -> int:
        """Changes that must agree across entities, in one transaction.

        Args:
            keys: all that the decision depends on or changes.
            decide: from those that exist to the new value of each one that changes.

        Returns:
            How many entities were written.

        Raises:
            RemoteError: Datastore could not be reached, or aborted again and again.
        """
        async with self._writing:
            try:
                seen, written = await self._store.transact(keys, self._told(keys, decide))
            except BackendError:
                await self._refresh(keys)  # the outcome may be unknown
                raise
            for key in keys:  # also what was only read: it may be news
                self._see(key, seen[key])
        return len(written.intersection(keys))

    def _told(self, keys: Sequence[Key], decide: Decision) -> Decision:
        """A decision, and the pages of history that tell what it does."""
        cause = current_cause()

        def told(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
            news = decide(found)
            if not news:
                return news
            after = {**found, **news}

            def was(key: Key) -> Entity | None:
                return found.get(key) if key in read else self.get(key)

            def now(key: Key) -> Entity | None:
                return after.get(key) if key in read else self.get(key)

            steps = [Transition(key, found.get(key), after.get(key), *cause) for key in keys]
            managers = [key for key in keys if isinstance(key, GroupKey)]
            for manager in managers:  # named or not, so are its machines
                if is_active(manager, was) != is_active(manager, now):
                    machines = self.instances_of(manager)
                    steps += [
                        Transition(key, machine, machine, *cause) for key, machine in machines
                    ]
            return {**news, **self._chronicler.pages(steps, was, now)}

        read = frozenset(keys)
        return told

    async def _change(self, changes: Sequence[tuple[_Submitted, Change[Any]]]) -> None:
        for attempt in range(WRITE_ATTEMPTS):
            writes, steps = self._writes(changes)
            if not writes:
                return
            pages = self._chronicler.pages(steps, self.get, self.get)
            telling = [Write(key, page, None) for key, page in pages.items()]
            try:
                versions = await self._store.write([*writes, *telling])
            except (AbortedError, AlreadyExistsError, NotFoundError):
                await self._refresh(write.key for write in writes)
                continue
            except TransientError as error:
                delay = FIRST_PAUSE * 2.0**attempt * self._rng.uniform(0.5, 1.0)
                await asyncio.sleep(max(delay, min(error.retry_after or 0.0, LONGEST_PAUSE)))
                await self._refresh(write.key for write in writes)
                if attempt + 1 == WRITE_ATTEMPTS and self._writes(changes)[0]:
                    raise
                continue
            for write, version in zip(writes, versions, strict=False):
                self._see(write.key, Stored(write.entity, version) if write.entity else None)
        if writes := self._writes(changes)[0]:
            keys = ", ".join(str(write.key) for write in writes[:5])
            raise ContentionError(f"could not write in {WRITE_ATTEMPTS} attempts: {keys}")

    def _writes(
        self, changes: Sequence[tuple[_Submitted, Change[Any]]]
    ) -> tuple[list[Write], list[Transition]]:
        """What remains to be written, one write for each entity, and the steps that lead there."""
        news: dict[Key, Any] = {}
        steps: list[Transition] = []
        for submitted, (key, apply, cause) in changes:
            now = news[key] if key in news else self._pictures[key.kind].get(key)
            news[key] = new = apply(now)
            if new != now and key not in self.corrupt:
                submitted.changed.add(key)
                told = (cause or submitted.cause, submitted.who)
                steps.append(Transition(key, now, new, *told))
        writes = [
            Write(key, new, self._versions.get(key))
            for key, new in news.items()
            if new != self._pictures[key.kind].get(key) and key not in self.corrupt
        ]
        written = {write.key for write in writes}
        return writes, [step for step in steps if step.key in written]

    async def _refresh(self, keys: Iterable[Key]) -> None:
        wanted = list(keys)
        found = await self._store.read(wanted)
        for key in wanted:
            self._see(key, found.get(key))

    def _see(self, key: Key, stored: Stored | None) -> None:
        picture = self._pictures[key.kind]
        before = picture.get(key)
        if isinstance(key, MachineKey):
            self._changes[key.group] = next(self._numbers)
        elif stored is None and isinstance(key, GroupKey):
            self._changes.pop(key, None)
            self._ages.forget(key)
        if stored is None or not self.corrupt.keys().isdisjoint(key.lineage):
            picture.pop(key, None)
            self._versions.pop(key, None)
            if isinstance(key, MachineKey):
                self._facets.note(key, before, None)
                self._ages.note(key, before, None)
                self.tombstones.note(key, None)
            if key.parent is not None:
                _discard(self._children, key.parent, key)
            if isinstance(key, GroupKey):
                _discard(self._beside, (key.template, key.zone), key)
            return
        picture[key] = stored.entity
        self._versions[key] = stored.version
        if isinstance(key, MachineKey) and isinstance(stored.entity, Instance):
            self._facets.note(key, before, stored.entity)
            self._ages.note(key, before, stored.entity)
            if self.tombstones.note(key, stored.entity):
                _discard(self._children, key.group, key)
                return
        if key.parent is not None:
            self._children[key.parent][key] = None
        if isinstance(key, GroupKey):
            self._beside[key.template, key.zone][key] = None


def _discard(index: dict[K, dict[V, None]], at: K, key: V) -> None:
    found = index.get(at, {})
    found.pop(key, None)
    if not found:
        index.pop(at, None)
