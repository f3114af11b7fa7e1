"""catalog-instances: every running machine of an active group is in the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gce_backend.actions.accounts import machine_account
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    BackendError,
    HostnameReuseError,
    InvalidRequestError,
    RemoteError,
)
from gce_backend.clients.machine_provider import (
    Addition,
    CatalogEntry,
    CatalogError,
    CatalogMachine,
)
from gce_backend.configuration.types import TemplateConfig
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey
from gce_backend.model.machine_token import KEY_ATTRIBUTE, instance_token
from gce_backend.rules.catalog_entry import Shape, dimensions, policies
from gce_backend.rules.cataloging import added, adding, is_catalogable
from gce_backend.rules.facets import Facet

BROKER = "machine-provider"
REUSED = "the catalog has this host name under another key"
LANES = 2
"""Batches that are worked on at the same time: one is sent while the other is stored."""
ENOUGH_SECONDS = 30.0
"""Seconds after which a run begins no batch: another run goes on at once."""
MAX_DIVISIONS = 64
"""Refused calls of one batch: enough for four bad machines among 250, and a bound for the rest."""


async def run(context: Context) -> Outcome:
    """For each batch: stores the intent, adds the machines, stores the outcome.

    Raises:
        RemoteError: the store could not be reached.
    """
    if context.paused:
        return Outcome(facts={"paused": 1})
    if context.conditions.blocked(BROKER):
        return Outcome(again_after=context.conditions.wait(BROKER))
    problems: list[str] = []
    machines = await _machines(context, problems)
    await _leave_out_refused(context, machines, problems)
    if not machines:
        return Outcome(problems=tuple(problems), again_after=_next_try(context))
    context.broker()  # its address must be known before anything is stored
    adder = _Adder(context, machines, problems)
    async with asyncio.TaskGroup() as group:
        for number in range(LANES):
            group.create_task(adder.work(), name=f"{context.job}: lane {number}")
    if adder.error is not None:
        raise adder.error
    changed = sum(state is CatalogState.CATALOGED for state in adder.news.values())
    return Outcome(
        changed=changed,
        again_after=0.0 if adder.goes_on else _next_try(context),
        facts={"cataloged": changed, "tried": adder.tried},
        problems=tuple(problems),
    )


class _Common(NamedTuple):
    """What the catalog is told of all machines of a group.

    Attributes:
        account: the service account that they subscribe with.
    """

    template: TemplateConfig
    shape: Shape
    disk_gb: int
    account: str

    def entry(self, context: Context, key: MachineKey, gce_id: int) -> CatalogMachine:
        """What the catalog is told of one machine: made when it is sent, not before."""
        return CatalogMachine(
            dimensions(self.template, key.name, self.shape, self.disk_gb),
            policies(
                self.account,
                instance_token(context.project, key),
                gce_id,
                context.project,
                context.settings.pubsub.topic,
                require_agent=self.template.require_agent,
            ),
        )


class _Adder:
    """Adds the machines of one run, batch by batch.

    Lanes work at the same time: while the Machine Provider has one lane's batch, another lane
    stores what became of its last batch, and the intent to send the next one. One call is under way
    at a time.

    Args:
        machines: what to add, and what it has in common with its group.
        problems: takes what failed.

    Attributes:
        news: what has become known of catalog entries.
        tried: how many machines were sent.
        error: what ended the work of a lane; the others begin no batch after it.
    """

    def __init__(
        self, context: Context, machines: Mapping[MachineKey, _Common], problems: list[str]
    ) -> None:
        self.news: dict[MachineKey, CatalogState] = {}
        self.tried = 0
        self.error: BackendError | None = None
        self._context = context
        self._machines = machines
        self._problems = problems
        self._waiting = list(machines)
        self._most = context.settings.machine_provider.batch_size
        self._size = min(context.memory.catalog.batch or self._most, self._most)
        self._calling = asyncio.Lock()
        self._enough = context.clock.monotonic() + ENOUGH_SECONDS

    @property
    def goes_on(self) -> bool:
        """Whether there is more to add that nothing stands in the way of."""
        return bool(self._waiting) and self._can_go_on()

    async def work(self) -> None:
        """One lane."""
        try:
            await self._work()
        except BackendError as error:
            self.error = error

    async def _work(self) -> None:
        memory = self._context.memory.catalog
        while self.goes_on and self._context.clock.monotonic() < self._enough:
            size = self._size
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            # Halved before the call: after a run that hits its deadline, the next one tries fewer.
            memory.batch = max(1, size // 2)
            now = self._context.clock.stamp()
            await self._context.fleet.change([Change(key, _sent(now)) for key in batch])
            memory.adding.update(batch)
            try:
                await self._add(batch)
            finally:
                memory.adding.difference_update(batch)
            if self._can_go_on():
                self._size = memory.batch = min(self._most, size * 2)

    def _can_go_on(self) -> bool:
        return self.error is None and not self._context.conditions.blocked(BROKER)

    def _note_answer(self, failure: RemoteError | None) -> None:
        """Notes whether the Machine Provider has answered, before another lane calls."""
        if failure is None:
            self._context.conditions.clear(BROKER)
        else:
            self._context.conditions.fail(BROKER, failure)
            self._problems.append(str(failure))

    async def _add(self, keys: Sequence[MachineKey]) -> None:
        """Adds a batch; stores and reports what is then known of the entries.

        If a whole batch is refused, each half is sent separately, down to single machines; at most
        `MAX_DIVISIONS` calls of a batch are refused.
        """
        context, refused = self._context, 0
        batches, rising = [keys], dict[MachineKey, float | None]()
        while batches:
            async with self._calling:
                if not self._can_go_on():
                    break
                # What was reclaimed, drained, deleted or paused in the meantime is left out.
                batch = [key for key in batches.pop() if _may_add(context, key)]
                if not batch:
                    continue
                if not refused:
                    self.tried += len(batch)
                rising |= {key: context.fleet.instances[key].rising_since for key in batch}
                machines = {
                    key: self._machines[key].entry(context, key, gce_id)
                    for key in batch
                    if (gce_id := context.fleet.instances[key].gce_id) is not None
                }
                additions = await context.broker().add_machines(list(machines.values()))
                failure = additions[0].failure
                if isinstance(failure, InvalidRequestError) and refused < MAX_DIVISIONS:
                    refused += 1
                    if len(batch) == 1:
                        _note_refused(context, batch[0], str(failure), self._problems)
                    else:
                        middle = len(batch) // 2
                        batches += [batch[middle:], batch[:middle]]
                    continue
                self._note_answer(failure)
            news = await _store(context, machines, additions, self._problems)
            self.news |= news
            for key, state in news.items():
                if state is CatalogState.CATALOGED:
                    _tell(context, key, rising[key])
            if failure is not None:
                break


def _concerns(context: Context, key: Key) -> bool:
    if isinstance(key, GroupKey):
        return context.fleet.is_active(key) and any(
            _concerns(context, child)
            for child, _ in context.fleet.having(Facet.UNCATALOGED, group=key)
        )
    instance = context.fleet.instances.get(key) if isinstance(key, MachineKey) else None
    if instance is None or not isinstance(key, MachineKey):
        return False
    member = context.memory.seen.member(key)
    return context.fleet.is_active(key.group) and is_catalogable(instance, member)


def _topics(context: Context, _topic: str) -> bool:
    """The Machine Provider concerns this job while there is a machine to add."""
    return any(_concerns(context, key) for key, _ in context.fleet.active_managers())


async def _store(
    context: Context,
    machines: dict[MachineKey, CatalogMachine],
    additions: Sequence[Addition],
    problems: list[str],
) -> dict[MachineKey, CatalogState]:
    """Stores the Machine Provider's answer to one batch."""
    answers = dict(zip(machines, additions, strict=True))
    news = {key: CatalogState.CATALOGED for key, addition in answers.items() if addition.added}
    for key in news:
        context.conditions.clear(key)
    await context.fleet.change([Change(key, _became(state)) for key, state in news.items()])
    for key, addition in answers.items():
        _note_failure(context, key, addition, problems)
    reused = [key for key, it in answers.items() if it.error == CatalogError.HOSTNAME_REUSE]

    async def judge(key: MachineKey) -> Result:
        news[key] = await _judge_reuse(context, key, machines[key])
        return Result.CHANGED

    judged = await act_on_each(context, reused, judge)
    problems += judged.problems
    return news


def _note_refused(context: Context, key: MachineKey, error: str, problems: list[str]) -> None:
    """Notes that the Machine Provider refuses a machine as its template describes it."""
    message = f"The Machine Provider refuses machines of template {key.base_name}: {error}"
    context.conditions.back_off(key, "Refused", message)
    problems.append(f"{key}: {message}")


async def _machines(context: Context, problems: list[str]) -> dict[MachineKey, _Common]:
    """The machines to add now, by their entity's key."""
    found: dict[MachineKey, _Common] = {}
    for manager, _ in context.fleet.active_managers():
        if context.is_paused(manager):
            continue
        keys = [
            key
            for key, instance in context.fleet.having(Facet.UNCATALOGED, group=manager)
            if instance.gce_id is not None
            and is_catalogable(instance, context.memory.seen.member(key))
            and not context.conditions.blocked(key)
        ]
        if not keys or context.conditions.blocked(manager):
            continue
        try:
            found |= dict.fromkeys(keys, await _describe(context, manager, keys[0]))
        except BackendError as error:
            context.conditions.fail(manager, error)
            problems.append(f"{manager}: {error}")
        else:
            context.conditions.clear(manager)
    return found


async def _leave_out_refused(
    context: Context, machines: dict[MachineKey, _Common], problems: list[str]
) -> None:
    """Leaves out machines whose host name the catalog still holds for another: nothing is stored.

    A machine that was refused before is looked up first.
    """
    refused = [
        key for key in machines if context.fleet.instances[key].catalog is CatalogState.REFUSED
    ]
    free: set[MachineKey] = set()

    async def look(key: MachineKey) -> Result:
        entry = await context.broker().get(key.name)
        token = instance_token(context.project, key)
        if isinstance(entry, CatalogEntry) and entry.attributes.get(KEY_ATTRIBUTE) != token:
            raise HostnameReuseError(REUSED)
        free.add(key)
        return Result.NOTHING

    looked = await act_on_each(context, refused, look)
    problems += looked.problems
    for key in refused:
        if key not in free:
            del machines[key]


async def _describe(context: Context, manager: GroupKey, member: MachineKey) -> _Common:
    template = context.fleet.revision_of(manager).template
    shape = await context.sizes.shape(template, manager.zone)
    disk_gb = await context.sizes.disk_gb(template)
    return _Common(template, shape, disk_gb, await machine_account(context, member))


def _note_failure(
    context: Context, key: MachineKey, addition: Addition, problems: list[str]
) -> None:
    """Notes why a machine was not added, where its entry is nobody's yet."""
    if addition.error not in {None, CatalogError.HOSTNAME_REUSE}:
        message = f"The Machine Provider refused it: {addition.error}"
        context.conditions.back_off(key, "Refused", message)
        problems.append(f"{key}: {message}")


async def _judge_reuse(context: Context, key: MachineKey, machine: CatalogMachine) -> CatalogState:
    """HOSTNAME_REUSE is success only when the entry carries our key and the VM's numeric id.

    The entry of an earlier VM of the same name is removed, unless somebody holds it.

    Raises:
        RemoteError: the owner of the entry could not be determined.
        HostnameReuseError: it is not ours, or the catalog does not say whose it is.
    """
    entry = await context.broker().get(machine.hostname)
    if not isinstance(entry, CatalogEntry):
        raise HostnameReuseError(
            "the catalog holds this host name, and does not say for which machine"
        )
    token = instance_token(context.project, key)
    if entry.is_of(token, context.fleet.instances[key].gce_id):
        await context.fleet.change([Change(key, _became(CatalogState.CATALOGED))])
        return CatalogState.CATALOGED
    if entry.attributes.get(KEY_ATTRIBUTE) == token:
        await context.broker().delete_machine(machine.hostname)
        raise HostnameReuseError("the catalog had the entry of an earlier VM of this name")
    await context.fleet.change([Change(key, _became(CatalogState.REFUSED))])
    context.log.error(
        "instance.refused",
        **key.log_fields,
        reason="HOSTNAME_REUSE",
    )
    raise HostnameReuseError(REUSED)


def _next_try(context: Context) -> float | None:
    """Seconds until the first machine that backs off may be tried again."""
    conditions = context.conditions
    waits = [conditions.wait(condition.subject) for condition in conditions.mine()]
    return min((wait for wait in waits if wait), default=None)


def _may_add(context: Context, key: MachineKey) -> bool:
    instance = context.fleet.instances.get(key)
    if instance is None or instance.gce_id is None or context.is_paused(key):
        return False
    if key in context.memory.catalog.removing:
        return False
    wanted = is_catalogable(instance, context.memory.seen.member(key))
    return wanted and instance.catalog is CatalogState.ADDING


def _sent(now: UnixSeconds) -> Apply[Instance]:
    return when_present(lambda instance: adding(instance, now))


def _became(state: CatalogState) -> Apply[Instance]:
    return when_present(lambda instance: added(instance, state))


def _tell(context: Context, key: MachineKey, rising_since: float | None) -> None:
    context.log.info(
        "instance.cataloged",
        **key.log_fields,
    )
    if rising_since is not None:  # not one that comes back
        context.metrics.cataloged(key.base_name, context.clock.elapsed(rising_since))


JOB = Job(
    name="catalog-instances",
    run=run,
    timeout=120.0,
    wakes=("remove-cataloged-instances",),
    concerns=_concerns,
    topics=_topics,
)
