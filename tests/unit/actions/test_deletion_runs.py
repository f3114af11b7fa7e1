"""actions.deletion, one run at a time: what it asks, stores, requests, logs and returns.

All cases share one world. Its clock stands still, and its VMs exist only here.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace as replace_context
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gce_backend.actions.broker_turns import BROKER
from gce_backend.actions.deletion import abandoned_message, delete
from gce_backend.actions.deletion_budget import CAP, IsWanted
from gce_backend.actions.fan_out import LOOK_AGAIN
from gce_backend.actions.identity import known_mark
from gce_backend.actions.permit_check import LEASED, TOGETHER_SECONDS
from gce_backend.base.errors import (
    BackendError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    TransientError,
)
from gce_backend.clients.compute.types import CompleteListing, ComputeInstance
from gce_backend.clients.machine_provider import CatalogDeletion, CatalogError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome
from gce_backend.fleet.conditions import Conditions, Subject
from gce_backend.fleet.memory import HeldDeletions
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import (
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    Begun,
    CatalogState,
    Deletion,
    DeletionWindow,
    Entity,
    Instance,
    Lease,
    PendingDeletion,
    Permit,
)
from gce_backend.model.keys import Key, MachineKey
from gce_backend.model.observed import Group, Member
from gce_backend.model.orders import Control, Pause
from gce_backend.rules.ownership import OWNER_LABEL, STORE_LABEL
from gce_backend.settings.settings import DeletionSettings
from support.deletions import metric, settings
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, world
from support.machines import CATALOGED
from support.trial import StandingClock, acting_alone

NOW = 1_800_001_000.0
ASKED = ("fetch-instances",)
"""The job that is woken where Compute was asked to delete something."""
NO_ANSWER = TransientError("compute.any", "It is out of order.", status=503)
RECLAIMED = replace(CATALOGED, pending_deletion=PendingDeletion("", NOW - 60))
ASKED_LATELY = replace(
    RECLAIMED, deletion=Deletion(Permit.RECLAIMED, NOW - 600, NOW - 10, "earlier")
)
DUE_AGAIN = replace(RECLAIMED, deletion=Deletion(Permit.RECLAIMED, NOW - 600, NOW - 300, "earlier"))
UNLISTED = replace(ASKED_LATELY, missing_since=NOW - 30)
ABANDONED = replace(DUE_AGAIN, missing_since=NOW - 300, abandoned_since=NOW - 200)
TOMBSTONE = replace(
    UNLISTED, deletion=Deletion(Permit.RECLAIMED, NOW, NOW, "earlier", confirmed=NOW)
)


class Services:
    """Compute Engine and the Machine Provider: notes what a run asks of them about machines.

    Attributes:
        asked: the machines that the Machine Provider is asked about.
        answer: its answer; None: the machine was in the catalog, and has been removed.
        silent: whether it does not answer.
        looked: the VMs that Compute Engine is asked about one by one.
        listings: how often it is asked about many.
        vms: those that exist.
        grouped: the calls of deleteInstances, all arguments.
        direct: the calls of instances.delete, all arguments.
        failure: how both fail; None: they do not.
        meanwhile: what happens during the first `ask`, `store`, `look` or `call`.
    """

    def __init__(self, compute: object) -> None:
        self._compute = compute
        self.forget()

    def forget(self) -> None:
        """Begins again."""
        self.asked: list[str] = []
        self.answer: str | None = None
        self.silent = False
        self.looked: list[str] = []
        self.listings = 0
        self.vms: dict[str, ComputeInstance] = {}
        self.grouped: list[tuple[object, ...]] = []
        self.direct: list[tuple[object, ...]] = []
        self.failure: BackendError | None = None
        self.meanwhile: dict[str, Callable[[], Awaitable[None]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compute, name)

    async def pass_(self, what: str) -> None:
        """Lets happen what happens meanwhile."""
        happens = self.meanwhile.pop(what, None)
        if happens is not None:
            await happens()

    async def delete_machine(self, hostname: str, _: object = None) -> CatalogDeletion:
        """Notes the question."""
        self.asked.append(hostname)
        await self.pass_("ask")
        if self.silent:
            raise NO_ANSWER
        return CatalogDeletion(hostname, self.answer)

    async def get_instance(self, project: str, zone: str, name: str) -> ComputeInstance:
        """One of those that exist."""
        assert (project, zone in {ZONE, OTHER_ZONE}) == (PROJECT, True)
        self.looked.append(name)
        await self.pass_("look")
        if name not in self.vms:
            raise NotFoundError("compute.instances.get", "There is none.", status=404)
        return self.vms[name]

    async def list_instances(self, *_: object, whole: bool) -> CompleteListing[ComputeInstance]:
        """All that exist."""
        assert whole
        self.listings += 1
        return CompleteListing(tuple(self.vms.values()))

    async def delete_instances(
        self, *where: object, request_id: object, skip_invalid: object
    ) -> None:
        """Notes the call."""
        assert len(where) == 4
        self.grouped.append((*where, request_id, skip_invalid))
        await self.pass_("call")
        if self.failure is not None:
            raise self.failure

    async def delete_instance(
        self, project: object, zone: object, name: object, *, request_id: object
    ) -> None:
        """Notes the call."""
        self.direct.append((project, zone, name, request_id))
        if self.failure is not None:
            raise self.failure


def wants(key: MachineKey, instance: Instance) -> bool:
    """All that are reclaimed, but for those that are called to be kept."""
    return instance.pending_deletion is not None and not key.name.startswith("kept")


class Trial:
    """A context in which only single runs of deletions act.

    Attributes:
        w: the world around it.
        patch: for what else is to be replaced.
        context: what a run gets.
        clock: its clock.
        services: what it calls.
        group: a group that exists at Compute Engine.
        other: another one, in another zone.
        transacted: of each transaction the entities that it reads, and how many it writes.
    """

    def __init__(self, w: World, context: Context, patch: pytest.MonkeyPatch) -> None:
        self.w = w
        self.patch = patch
        self.clock = StandingClock(NOW)
        self.services = Services(context.compute)
        self.context = replace_context(
            context,
            clock=self.clock,
            conditions=Conditions(self.clock, random.Random(1), context.job),
            compute=cast("Any", self.services),
            broker=lambda: cast("Any", self.services),
        )
        self.group = next(key for key in context.fleet.managers if key.zone == ZONE)
        self.other = next(key for key in context.fleet.managers if key.zone == OTHER_ZONE)
        self.transacted: list[tuple[Sequence[Key], int]] = []
        self._transact = context.fleet.transact

        async def noted(keys: Sequence[Key], decide: Any) -> int:
            written = await self._transact(keys, decide)
            self.transacted.append((keys, written))
            await self.services.pass_("store")
            return written

        patch.setattr(context.fleet, "transact", noted)

    def keys(self, *names: str) -> list[MachineKey]:
        """Machines of the first group."""
        return [self.group.child(name) for name in names]

    async def begin(
        self, machines: Mapping[MachineKey, Instance], *, begun: int | None = None
    ) -> None:
        """The store holds exactly these machines, and their groups list all that are not missing.

        Args:
            machines: by key.
            begun: deletions that the caps count already; None: nothing is stored of them.
        """
        fleet, seen = self.context.fleet, self.context.memory.seen
        self.clock.time = NOW
        window = None
        if begun is not None:
            window = DeletionWindow((Begun(NOW - 1, {Permit.RECLAIMED: begun}),))
        keys = dict.fromkeys([*fleet.instances, *machines])
        news = [_becomes(key, machines.get(key)) for key in keys]
        await fleet.change([*news, _becomes(DELETION_WINDOW_KEY, window)])
        for condition in self.context.conditions.mine():
            self.context.conditions.clear(condition.subject)
        self.services.forget()
        self.transacted.clear()
        for group in (self.group, self.other):
            members = {
                key.name: Member(key.name, it.gce_id, "RUNNING", "NONE")
                for key, it in machines.items()
                if key.group == group and it.missing_since is None
            }
            seen.groups[group] = Group(len(members), True, "", 0.0, members, 1.0, True)
        seen.gone = set()
        seen.next_abandoned_look.clear()

    async def run(self, wanted: IsWanted = wants) -> tuple[Outcome, list[dict[str, str]]]:
        """One run: its outcome, and what it logs about VMs."""
        with capture_logs() as logs:
            outcome = await delete(self.context, wanted)
        names = ("event", "instance", "template", "zone", "gce_id", "permit")
        lines = [line for line in logs if line["event"].startswith("instance.")]
        return outcome, [{name: line[name] for name in names} for line in lines]

    def now(self, key: MachineKey) -> Instance:
        """A machine's entity."""
        return self.context.fleet.instances[key]

    def deletion(self, key: MachineKey) -> Deletion:
        """A machine's deletion, which must have begun."""
        found = self.now(key).deletion
        assert found is not None
        return found

    def named(self) -> list[object]:
        """The VMs that deleteInstances names, by call."""
        return [names for _, _, _, names, *_ in self.services.grouped]

    def vm(self, key: MachineKey, **labels: str) -> None:
        """The VM of a machine exists, with our mark or with these labels."""
        mark = known_mark(self.context)
        found = labels or {OWNER_LABEL: mark.owner, STORE_LABEL: mark.store}
        self.services.vms[key.name] = ComputeInstance(
            name=key.name, id=7, zone=f"zones/{key.zone}", labels=found
        )

    @asynccontextmanager
    async def elsewhere(self) -> AsyncIterator[Callable[..., Awaitable[int]]]:
        """Another process on the same store: its way to change entities."""
        async with self.w.fleet() as fleet:
            yield fleet.change


def _becomes(key: Key, entity: Entity | None) -> Change[Any]:
    return Change(key, lambda _: entity)


def _line(event: str, key: MachineKey, gce_id: str = "7", permit: str = "reclaimed") -> Any:
    return {"event": event, **key.log_fields, "gce_id": gce_id, "permit": permit}


DELETED, REQUESTED = "instance.deleted", "instance.deletion_requested"


async def what_begins(t: Trial) -> None:
    """One call and one transaction for all of a group."""
    first, second, kept = t.keys("first", "second", "kept")
    await t.begin(dict.fromkeys((first, second, kept), RECLAIMED))
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    deletion = t.deletion(first)
    assert deletion == Deletion(Permit.RECLAIMED, NOW, NOW, deletion.request_id)
    assert deletion.unsent is False
    assert deletion.request_id
    name = t.context.fleet.group_name(t.group)
    names = [first.name, second.name]
    assert t.services.grouped == [(PROJECT, ZONE, name, names, deletion.request_id, True)]
    assert t.services.asked == names
    assert t.transacted == [([DELETION_WINDOW_KEY, first, second], 3)]
    for key in (first, second):
        assert (t.deletion(key), t.now(key).catalog) == (deletion, CatalogState.REMOVED)
    assert t.now(kept) == RECLAIMED
    assert t.context.fleet.deletion_window.begun == (Begun(NOW, {Permit.RECLAIMED: 2}),)
    assert logs == [_line(REQUESTED, first), _line(REQUESTED, second)]
    assert t.context.memory.deletions.held[t.context.job] == HeldDeletions()


async def what_is_counted(t: Trial) -> None:
    """What other runs have begun stays counted, and what one cap holds back is told."""
    first, second, third = t.keys("first", "second", "third")
    await t.begin(dict.fromkeys((first, second, third), RECLAIMED), begun=1)
    outcome, _ = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1, "held": 2}, wakes=ASKED)
    assert t.named() == [[first.name]]
    assert t.context.fleet.deletion_window.begun == (Begun(NOW - 1, {Permit.RECLAIMED: 2}),)
    assert t.context.memory.deletions.held[t.context.job].permits == {Permit.RECLAIMED: 2}
    assert t.context.conditions.reason(CAP) == "DeletionCap"


async def what_is_repeated(t: Trial) -> None:
    """It counts no second time, keeps when it began, and has a request id of its own."""
    due, lately, kept = t.keys("due", "lately", "kept")
    await t.begin({due: DUE_AGAIN, lately: ASKED_LATELY, kept: DUE_AGAIN}, begun=1)
    t.services.answer = CatalogError.ENTRY_NOT_FOUND
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    again = t.deletion(due)
    assert again == Deletion(Permit.RECLAIMED, NOW - 600, NOW, again.request_id)
    assert again.request_id != "earlier"
    assert t.now(due).catalog is CatalogState.CATALOGED
    assert (t.now(lately), t.now(kept)) == (ASKED_LATELY, DUE_AGAIN)
    assert (t.services.asked, t.named()) == ([due.name], [[due.name]])
    assert t.services.looked == []
    assert t.transacted == [([DELETION_WINDOW_KEY, due], 1)]
    assert t.context.fleet.deletion_window.begun == (Begun(NOW - 1, {Permit.RECLAIMED: 1}),)
    assert logs == [_line(REQUESTED, due)]


async def what_is_confirmed(t: Trial) -> None:
    """What is gone is confirmed, what else is due is requested; another job's is left to it."""
    gone, first, kept = t.keys("gone", "first", "kept")
    await t.begin({gone: UNLISTED, first: RECLAIMED, kept: UNLISTED})
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=2, facts={"changed": 1, "confirmed": 1}, wakes=ASKED)
    assert t.deletion(gone).confirmed == NOW
    assert t.now(kept) == UNLISTED
    measured = "gce_backend_machine_reclaimed_to_deleted_seconds"
    assert await metric(t.w, f'{measured}_count{{template="linux"}}') == 1
    assert await metric(t.w, f'{measured}_sum{{template="linux"}}') == 60
    assert (t.services.looked, t.named()) == ([gone.name], [[first.name]])
    assert logs == [_line(DELETED, gone), _line(REQUESTED, first)]


async def what_goes_on_while_paused(t: Trial) -> None:
    """What is gone is confirmed; nothing is requested. A pause of one zone is of that alone."""
    gone, first = t.keys("gone", "first")
    elsewhere = t.other.child("elsewhere")
    await t.begin({gone: UNLISTED, first: RECLAIMED})
    still = replace_context(t.context, settings=replace(t.context.settings, actuate=False))
    assert await delete(still, wants) == Outcome(changed=1, facts={"paused": 1, "confirmed": 1})
    assert t.deletion(gone).confirmed == NOW
    assert (t.services.asked, t.services.grouped) == ([], [])
    await t.begin({gone: DUE_AGAIN, first: RECLAIMED, elsewhere: RECLAIMED})
    paused = Control(pauses=(Pause(zone=ZONE),))
    await t.context.fleet.change([_becomes(CONTROL_KEY, paused)])
    outcome, _ = await t.run()
    await t.context.fleet.change([_becomes(CONTROL_KEY, None)])
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    assert t.services.asked == [elsewhere.name]


async def what_many_gone_cost(t: Trial) -> None:
    """One list."""
    keys = t.keys(*(f"gone{number}" for number in range(10)))
    await t.begin(dict.fromkeys(keys, UNLISTED))
    outcome, _ = await t.run()
    assert outcome == Outcome(changed=10, facts={"confirmed": 10})
    assert (t.services.looked, t.services.listings) == ([], 1)


async def when_a_run_is_wanted_again(t: Trial) -> None:
    """Soon for a VM that exists although no list shows it; no sooner than it may be tried."""
    (one,) = t.keys("one")
    await t.begin({one: UNLISTED})
    t.vm(one)
    assert (await t.run())[0] == Outcome(again_after=LOOK_AGAIN)
    t.context.conditions.back_off(one, "Unavailable", "", retry_after=40.0)
    assert (await t.run())[0] == Outcome(again_after=40.0)
    t.clock.time += 15
    assert (await t.run())[0] == Outcome(again_after=25.0)
    for known in (ASKED_LATELY, replace(ABANDONED, deletion=ASKED_LATELY.deletion)):
        await t.begin({one: known})
        assert (await t.run())[0] == Outcome()
    await t.begin({one: replace(RECLAIMED, missing_since=NOW - 30)})
    assert (await t.run())[0] == Outcome(again_after=LOOK_AGAIN)
    assert t.deletion(one).unsent is True
    assert t.services.grouped == []


async def what_is_no_longer_wanted(t: Trial) -> None:
    """As the entities above say now; or as the answer of the Machine Provider makes it."""
    (one,) = t.keys("one")
    await t.begin({one: RECLAIMED})

    def while_cataloged(_: MachineKey, instance: Instance) -> bool:
        return instance.catalog is not CatalogState.REMOVED

    assert (await t.run(while_cataloged))[0] == Outcome()
    assert t.services.asked == [one.name]
    assert (t.now(one).catalog, t.now(one).deletion) == (CatalogState.REMOVED, None)
    assert t.context.fleet.deletion_window == DeletionWindow()
    known = t.context.fleet.managers[t.group]

    def while_known(key: MachineKey, _: Instance) -> bool:
        return t.context.fleet.managers[key.group] == known

    await t.begin({one: RECLAIMED})
    async with t.elsewhere() as change:
        await change([_becomes(t.group, replace(known, minimum_size=0))])
        assert (await t.run(while_known))[0] == Outcome()
        assert t.services.asked == []
        await t.context.fleet.change([_becomes(t.group, known)])


async def what_another_process_begins_meanwhile(t: Trial) -> None:
    """It takes a place under the cap; what was removed from the catalog is stored as removed."""
    first, second = t.keys("first", "second")
    await t.begin(dict.fromkeys((first, second), RECLAIMED))
    taken = DeletionWindow((Begun(NOW, {Permit.RECLAIMED: 1}),))
    async with t.elsewhere() as change:

        async def begins() -> None:
            await change([_becomes(DELETION_WINDOW_KEY, taken)])

        t.services.meanwhile["ask"] = begins
        outcome, _ = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    assert t.named() == [[first.name]]
    assert [t.now(key).catalog for key in (first, second)] == [CatalogState.REMOVED] * 2
    assert (t.deletion(first).asked, t.now(second).deletion) == (NOW, None)
    assert t.context.fleet.deletion_window.begun == (Begun(NOW, {Permit.RECLAIMED: 2}),)


async def what_an_unclear_answer_of_the_store_does(t: Trial) -> None:
    """What was stored all the same is requested; otherwise the run fails, and nothing is."""
    (one,) = t.keys("one")
    usual = t.context.fleet.transact
    for stored in (True, False):
        await t.begin({one: RECLAIMED})

        async def unclear(keys: Sequence[Key], decide: Any, stored: bool = stored) -> int:
            if stored:
                await usual(keys, decide)
            raise NO_ANSWER

        t.patch.setattr(t.context.fleet, "transact", unclear)
        if stored:
            assert (await t.run())[0] == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
        else:
            with pytest.raises(TransientError):
                await t.run()
        assert t.named() == ([[one.name]] if stored else [])
        t.patch.setattr(t.context.fleet, "transact", usual)


async def what_a_slow_machine_provider_makes_of_a_run(t: Trial) -> None:
    """Two rounds, whose outcomes are counted together."""
    first, second = t.keys("first", "second")
    await t.begin(dict.fromkeys((first, second), RECLAIMED))

    async def slowly() -> None:
        t.clock.time += TOGETHER_SECONDS

    t.services.meanwhile["ask"] = slowly
    outcome, _ = await t.run()
    assert outcome == Outcome(changed=2, facts={"changed": 2}, wakes=ASKED)
    assert t.named() == [[first.name], [second.name]]


async def what_a_silent_machine_provider_does(t: Trial) -> None:
    """It is asked no second question, and nothing is requested."""
    first, second = t.keys("first", "second")
    await t.begin(dict.fromkeys((first, second), RECLAIMED))
    t.services.silent = True
    outcome, _ = await t.run()
    assert outcome == Outcome(again_after=LOOK_AGAIN, problems=(f"{first}: {NO_ANSWER}",))
    assert (t.services.asked, t.services.grouped) == ([first.name], [])


async def what_is_listed_again_while_its_deletion_is_stored(t: Trial) -> None:
    """The store says that no call names it: none does."""
    (one,) = t.keys("one")
    await t.begin({one: replace(RECLAIMED, missing_since=NOW - 30)})
    seen = t.context.memory.seen.groups

    async def listed() -> None:
        members = {one.name: Member(one.name, 7, "RUNNING", "NONE")}
        seen[t.group] = replace(seen[t.group], members=members)

    t.services.meanwhile["store"] = listed
    assert (await t.run())[0] == Outcome()
    assert t.deletion(one).unsent is True
    assert t.services.grouped == []


async def what_a_failed_call_does(t: Trial) -> None:
    """The group backs off, unasked; after that, all is requested again at once."""
    (one,) = t.keys("one")
    await t.begin({one: RECLAIMED})
    t.services.failure = NO_ANSWER
    outcome, logs = await t.run()
    wait = t.context.conditions.wait(t.group)
    assert wait
    problems = (f"{t.group}: {NO_ANSWER}",)
    assert outcome == Outcome(again_after=wait, facts={"failed": 1}, problems=problems)
    assert logs == []
    t.services.asked.clear()
    assert (await t.run())[0] == Outcome(again_after=wait)
    assert t.services.asked == []
    t.clock.time += wait
    t.services.failure = None
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    assert (len(t.named()), logs) == (2, [_line(REQUESTED, one)])
    lost = MalformedResponseError("compute.any", "It is no JSON.", status=200)
    for failure in (lost, TransientError("compute.any", "No answer came.")):
        await t.begin({one: RECLAIMED})
        t.services.failure = failure
        outcome, logs = await t.run()
        assert outcome.facts == {"failed": 1}
        assert logs == [_line(REQUESTED, one)]


async def what_vanishes_from_the_store_meanwhile(t: Trial) -> None:
    """The run goes on: what it has requested is logged with what is left to tell."""
    first, second = t.keys("first", "second")
    await t.begin(dict.fromkeys((first, second), RECLAIMED))

    async def vanishes() -> None:
        await t.context.fleet.change([_becomes(first, None), _becomes(second, RECLAIMED)])

    t.services.meanwhile["call"] = vanishes
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    assert logs == [_line(REQUESTED, first, "", ""), _line(REQUESTED, second, "7", "")]
    await t.begin({first: UNLISTED, second: RECLAIMED})
    t.services.meanwhile["look"] = vanishes
    assert (await t.run())[0] == Outcome(changed=1, facts={"changed": 1}, wakes=ASKED)
    assert t.named() == [[second.name]]


async def what_is_deleted_directly(t: Trial) -> None:
    """What was abandoned, in whatever group, if it carries our mark; and no group is asked."""
    here, there = t.group.child("here"), t.other.child("there")
    await t.begin(dict.fromkeys((here, there), ABANDONED), begun=2)
    t.vm(here)
    t.vm(there)
    outcome, logs = await t.run()
    assert outcome == Outcome(changed=2, wakes=ASKED)
    asked = [(PROJECT, key.zone, key.name, t.deletion(key).request_id) for key in (here, there)]
    assert t.services.direct == asked
    assert t.services.looked == [here.name, there.name]
    assert [t.deletion(key).asked for key in (here, there)] == [NOW, NOW]
    assert (t.services.grouped, logs) == ([], [_line(REQUESTED, here), _line(REQUESTED, there)])
    await t.begin({here: ABANDONED})
    assert (await t.run())[0] == Outcome()
    assert t.services.direct == [], "it is gone"
    mark = known_mark(t.context)
    for labels in ({"any": "thing"}, {OWNER_LABEL: mark.owner, STORE_LABEL: "another"}):
        await t.begin({here: ABANDONED})
        t.vm(here, **labels)
        assert (await t.run())[0] == Outcome()
        assert t.services.direct == []
    for error in (PermissionDeniedError, NotFoundError):
        await t.begin({here: ABANDONED})
        t.vm(here)
        t.services.failure = error("compute.any", "It is refused.", status=403)
        assert (await t.run())[0] == Outcome()
        assert len(t.services.direct) == 1
    for pause, ago, times in ((600.0, 300, 0), (5.0, 300, 1), (5.0, 60, 0)):
        deletion = Deletion(Permit.RECLAIMED, NOW - 600, NOW - ago, "earlier")
        await t.begin({here: replace(ABANDONED, deletion=deletion)})
        t.vm(here)
        t.context.memory.seen.next_abandoned_look[here] = (NOW, pause)
        await t.run()
        assert len(t.services.direct) == times, "no sooner than its next check"
    await t.begin({here: ABANDONED})
    t.vm(here)
    seen = t.context.memory.seen.groups
    seen[t.group] = replace(seen[t.group], listed=None)
    await t.run()
    assert (len(t.services.direct), t.services.grouped) == (1, [])
    await t.begin({here: replace(DUE_AGAIN, missing_since=NOW - 30)})
    t.vm(here)
    await t.run()
    assert t.deletion(here).asked == NOW
    assert (t.services.direct, t.services.grouped) == ([], []), "a name that is no member's"


async def what_counts_as_listed(t: Trial) -> None:
    """A member of its id or without VM; without a look, all that a group that exists has."""
    (one,) = t.keys("one")
    fleet, seen = t.context.fleet, t.context.memory.seen
    known = fleet.managers[t.group]

    async def is_listed(gce_id: int | None) -> bool:
        await t.begin({one: UNLISTED})
        member = Member(one.name, gce_id, "", "NONE")
        seen.groups[t.group] = replace(seen.groups[t.group], members={one.name: member})
        await t.run()
        return not t.services.looked

    assert [await is_listed(gce_id) for gce_id in (7, None, 8)] == [True, True, False]
    for manager_then, gone in ((known, False), (replace(known, url=None), True), (None, True)):
        await t.begin({one: UNLISTED})
        del seen.groups[t.group]
        await fleet.change([_becomes(t.group, manager_then)])
        await t.run()
        await fleet.change([_becomes(t.group, known)])
        assert bool(t.services.looked) is gone


async def how_long_a_condition_lasts(t: Trial) -> None:
    """While its machine, or one of its group, is to be deleted; or is kept, and leased."""
    wanted, kept, gone, unknown = t.keys("wanted", "kept", "gone", "unknown")
    leased = replace(CATALOGED, lease=Lease(NOW - 10, NOW + 10))
    endless, ended = Lease(NOW - 10, None), Lease(NOW - 20, NOW - 10)
    cases: list[tuple[Mapping[MachineKey, Instance], Subject, str, bool]] = [
        ({wanted: RECLAIMED}, wanted, "Unavailable", True),
        ({wanted: RECLAIMED}, t.group, "Unavailable", True),
        ({kept: leased, wanted: TOMBSTONE}, t.group, "Unavailable", False),
        ({wanted: TOMBSTONE}, wanted, "Unavailable", False),
        ({kept: RECLAIMED}, kept, "Unavailable", False),
        ({kept: leased}, kept, "Unavailable", False),
        ({kept: leased}, kept, LEASED, True),
        ({kept: replace(leased, lease=endless)}, kept, LEASED, True),
        ({kept: replace(leased, lease=ended)}, kept, LEASED, False),
        ({kept: CATALOGED}, kept, LEASED, False),
        ({gone: leased}, unknown, LEASED, False),
        ({}, BROKER, "Unavailable", True),
        ({}, "another", "Unavailable", False),
    ]
    for machines, subject, reason, lasts in cases:
        await t.begin(machines)
        t.context.conditions.back_off(subject, reason, "", retry_after=20.0)
        t.context.conditions.note("note", "Any", "It is not a failure.")
        outcome, _ = await t.run()
        told = (subject, reason)
        assert outcome == Outcome(again_after=20.0 if lasts else None), told
        assert (t.context.conditions.reason(subject) is not None) is lasts, told
        assert t.context.conditions.reason("note") is not None
    await t.begin(dict.fromkeys((wanted, gone), RECLAIMED))
    t.context.conditions.back_off(wanted, "Unavailable", "", retry_after=20.0)
    t.context.conditions.back_off(gone, "Unavailable", "", retry_after=9.0)
    assert (await t.run())[0] == Outcome(again_after=9.0)


async def what_is_told_of_an_abandoned_vm(t: Trial) -> None:
    """Its link, or its name where no link is known."""
    (one,) = t.keys("one")
    for url, name in (("https://example.com/one", "https://example.com/one"), ("", "one")):
        await t.begin({one: replace(ABANDONED, url=url)})
        assert abandoned_message(t.context, one) == (
            "Somebody abandoned the VM: it exists, costs money, and cannot be leased. "
            f"{name} After its lease ends, delete it: "
            f"gcloud compute instances delete one --zone {ZONE} --project {PROJECT}"
        )


CASES = (
    what_begins,
    what_is_counted,
    what_is_repeated,
    what_is_confirmed,
    what_goes_on_while_paused,
    what_many_gone_cost,
    when_a_run_is_wanted_again,
    what_is_no_longer_wanted,
    what_another_process_begins_meanwhile,
    what_an_unclear_answer_of_the_store_does,
    what_a_slow_machine_provider_makes_of_a_run,
    what_a_silent_machine_provider_does,
    what_is_listed_again_while_its_deletion_is_stored,
    what_a_failed_call_does,
    what_vanishes_from_the_store_meanwhile,
    what_is_deleted_directly,
    what_counts_as_listed,
    how_long_a_condition_lasts,
    what_is_told_of_an_abandoned_vm,
)


async def test_what_a_run_of_deletions_does_in_each_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One world for all: each case says what the store holds, and what a run makes of it."""
    two = DeletionSettings(reclaimed_count=2, reclaimed_share=0.0)
    managers = manager(minimum=1) + manager(zone=OTHER_ZONE, minimum=1)
    async with world(tmp_path, managers=managers, settings=settings(two)) as w:
        await w.until_states(cataloged=2)
        trial = Trial(w, await acting_alone(w), monkeypatch)
        for case in CASES:
            await case(trial)
