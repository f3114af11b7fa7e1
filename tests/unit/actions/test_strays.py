"""actions.strays: what carries this store's own mark is tracked again, whatever its name."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import replace as replace_context
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.actions.strays import (
    SECOND_LOOK,
    adopt_groups,
    adopt_templates,
    awaits,
    look_first,
)
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.daemon.clients import Clients
from gce_backend.engine.context import Context
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.memory import Memory
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONFIGURATION_KEY, STORE_IDENTITY_KEY, Entity
from gce_backend.model.keys import GroupKey, Key, RevisionKey
from gce_backend.settings.settings import FetchSettings, Settings, StoreSettings
from gce_backend.setup.leaks import find, the_leak
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world
from support.outside import cataloged, ids, make_group, make_template
from support.trial import StandingClock, acting_alone

SOON = Settings(fetch=FetchSettings(resync_seconds=60))
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
MANAGERS = f"zones/{ZONE}/instanceGroupManagers"


async def untracked(w: World) -> set[str]:
    """What is reported as nobody's."""
    fleet = await w.get("/api/fleet")
    return {c["subject"] for c in fleet.get("conditions", ()) if c["reason"] == "Untracked"}


async def remove_by_hand(w: World, *kinds: str) -> None:
    """Somebody removes all entities of these kinds from the store while the daemon is down."""
    await w.crash_daemon()
    async with w.fleet() as fleet:
        tree = [*fleet.templates, *fleet.revisions, *fleet.managers, *fleet.instances]
        keys: list[Key] = [CONFIGURATION_KEY, *tree]
        await fleet.change([Change(key, lambda _: None) for key in keys if key.kind in kinds])
    await w.start_daemon()


async def test_row_41_a_group_of_a_later_name_is_adopted_though_a_stranger_has_the_first(
    tmp_path: Path,
) -> None:
    """Its entity is removed by hand: nothing is doubled, and what is held stays held.

    A second group that was made for the same entity stays beside the first, and is told.
    """
    async with world(tmp_path, settings=SOON, options=CALM) as w:
        await cataloged(w, 3)
        (first,) = await w.groups()
        name = first.rpartition("/")[2]
        await w.compute("DELETE", f"{MANAGERS}/{name}")

        async def made_again() -> bool:
            return set(await w.groups()) == {f"{first}-g1"}

        await w.until(made_again, within=900)
        await make_template(w, "theirs")
        await make_group(w, name, ZONE, "theirs")
        before = await cataloged(w, 3)
        held = await w.lease()
        await remove_by_hand(w, "InstanceGroupManager", "Instance")
        found: set[str] = set()
        for _ in range(18):
            await w.pass_time(10)
            found |= await untracked(w)
        assert not found
        await w.until_states(cataloged=2, leased=1)
        assert await ids(w) == before
        assert set(await w.groups()) == {first, f"{first}-g1"}
        await assert_a_second_group_is_told(w, f"{name}-g1", f"{name}-g2")
        await w.release()
        w.write_config(template(machine_type="e2-medium"), manager())

        async def rolled() -> bool:
            return not before.items() & (await ids(w)).items() and len(await w.vms()) == 3

        await w.until(rolled, within=900)
        assert held not in await w.vms()

        async def is_gone() -> bool:
            return f"{first}-g1" not in await w.groups()

        await w.until(is_gone, within=900)
        assert first in await w.groups(), "theirs is left alone"


async def test_row_41_what_the_configuration_no_longer_names_is_adopted_and_drains(
    tmp_path: Path,
) -> None:
    """The store has lost all of a template: its group and its own cost nothing in the end."""
    both = manager() + manager("windows", zone=OTHER_ZONE, minimum=2)
    async with world(
        tmp_path,
        templates=template() + template("windows", machine_type="e2-medium"),
        managers=both,
        settings=SOON,
        options=CALM,
    ) as w:
        await cataloged(w, 5)
        held = await w.lease(memory_gb=4.0)
        w.write_config("nonsense", "")
        tree = ("InstanceTemplate", "InstanceTemplateRevision", "InstanceGroupManager", "Instance")
        await remove_by_hand(w, "Configuration", *tree)
        await w.pass_time(200)
        assert len(await w.vms()) == 5, "nothing is concluded without a configuration"
        assert len([what for what in await untracked(w) if what.startswith("group")]) == 2
        w.write_config(template(), manager())

        async def drained() -> bool:
            return len(await w.vms()) == 4 and held in await w.vms()

        await w.until(drained, within=900)
        await w.pass_time(300)
        assert await drained()
        await w.release()

        async def has_left() -> bool:
            listed = await w.compute("GET", "global/instanceTemplates")
            return len(listed["items"]) == len(await w.groups()) == 1

        await w.until(has_left, within=1500)
        await w.pass_time(180)
        fleet = await w.get("/api/fleet")
        assert [shown["base_name"] for shown in fleet["templates"]] == ["linux"]
        assert not await untracked(w)
        assert len(await w.vms()) == 3


@pytest.mark.parametrize("lost", ["InstanceTemplateRevision", "InstanceGroupManager"])
async def test_row_41_a_maximum_counts_a_group_that_no_entity_knows(
    tmp_path: Path, lost: str
) -> None:
    """An earlier revision's group has lost its entity, or the one above: the new one waits."""
    bounded = manager(minimum=4, maximum=5)
    async with world(tmp_path, managers=bounded, settings=SOON, options=CALM) as w:
        await cataloged(w, 4)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), bounded)
        await remove_by_hand(w, lost)
        most = 0

        async def rolled() -> bool:
            nonlocal most
            most = max(most, sum(g["targetSize"] for g in (await w.groups()).values()))
            return not old & set(await w.vms()) and len(await w.vms()) == 4

        await w.until(rolled, within=3600, every=0.25)
        assert most <= 5


@pytest.mark.parametrize("lost", ["InstanceTemplateRevision", "InstanceGroupManager"])
async def test_row_41_a_maximum_counts_a_group_whose_entity_or_revision_is_lost_at_work(
    tmp_path: Path, lost: str
) -> None:
    """Its VMs are there, whatever the store has lost since Compute last listed the groups."""
    bounded = manager(minimum=4, maximum=5)
    seldom = Settings(
        fetch=FetchSettings(resync_seconds=1800), store=StoreSettings(resync_seconds=60)
    )
    async with world(tmp_path, managers=bounded, settings=seldom, options=CALM) as w:
        await cataloged(w, 4)
        held = [await w.lease(f"held-{number}") for number in range(4)]
        w.write_config(template(machine_type="e2-medium"), bounded)
        await w.until_states(cataloged=1, leased=4)
        async with w.fleet() as fleet:
            old = next(key for key in fleet.instances if key.name == held[0])
            [key] = [key for key in old.lineage if key.kind == lost]
            await fleet.change([Change(key, lambda _: None)])
        for _ in range(180):
            await w.pass_time(5)
            assert set(held) < set(await w.vms())
            assert len(await w.vms()) <= 5


async def assert_a_second_group_is_told(w: World, living: str, second: str) -> None:
    """It and its VM are reported, with the command that deletes them, and what they cost (S2)."""
    like = await w.compute("GET", f"{MANAGERS}/{living}")
    fields = ("description", "baseInstanceName", "instanceTemplate")
    body = {"name": second, "targetSize": 1} | {name: like[name] for name in fields}
    known = set(await w.vms())
    await w.compute("POST", MANAGERS, body)
    await w.until(lambda: is_told(w, 2), within=600)
    [vm] = set(await w.vms()) - known
    conditions = (await w.get("/api/fleet"))["conditions"]
    for name in (vm, second):
        [told] = [one for one in conditions if one["subject"].endswith(f" {PROJECT}/{ZONE}/{name}")]
        assert f"`gce-backend leaks --delete {ZONE}/{name}`" in told["message"]
    context = w.daemon.context
    assert context is not None
    audit = await find(context.fleet, context.compute, context.settings.owner, priced)
    assert [(leak.kind, leak.name) for leak in audit.leaks] == [("VM", vm), ("group", second)]
    assert audit.cost_per_day == 24.0
    assert the_leak(audit, f"{ZONE}/{second}").machines == 1
    await w.compute("DELETE", f"{MANAGERS}/{second}")
    await w.until(lambda: is_told(w, 0), within=600)


async def is_told(w: World, count: int) -> bool:
    """Whether so many resources are reported as nobody's."""
    return len(await untracked(w)) == count


async def priced(*_: str) -> float:
    """What a machine costs in an hour."""
    return 1.0


class Killed:
    """Awaits work up to one of its awaits, and leaves it there for good, as a kill does.

    Awaiting it tells whether the work was done before.

    Args:
        work: what a process does.
        at: the await, counted from 1.
    """

    def __init__(self, work: Coroutine[Any, Any, object], at: int) -> None:
        self._work = work
        self._at = at

    def __await__(self) -> Generator[Any, Any, bool]:
        for left in reversed(range(self._at)):
            try:
                waits_for = self._work.send(None)
            except StopIteration:
                return True
            if left:
                yield waits_for
        return False

    def bury(self) -> None:
        """Ends what is left of it; what it wants to tidy up reaches nobody."""
        while inspect.getcoroutinestate(self._work) != inspect.CORO_CLOSED:
            with contextlib.suppress(RuntimeError):
                self._work.close()


@contextlib.asynccontextmanager
async def process(
    w: World, like: Context, key: Key
) -> AsyncIterator[tuple[Context, StandingClock]]:
    """A process that has just read what it needs for an adoption; its connections end with it."""
    clock = StandingClock(w.clock.now())
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    fleet = Fleet(Store(clients.datastore(PROJECT)), clock=clock)
    compute = clients.compute(CallBudget(w.clock, dict.fromkeys(QuotaGroup, 10_000)))
    try:
        await fleet.refresh([*key.lineage, CONFIGURATION_KEY, STORE_IDENTITY_KEY])
        memory, revision = Memory(), fleet.configuration.revision
        memory.confirmed_revision = memory.processed_revision = revision
        yield replace_context(like, fleet=fleet, memory=memory, compute=compute, clock=clock), clock
    finally:
        await clients.close()


async def adopt(context: Context, key: Key) -> object:
    """A look at the groups or templates, as the daemon takes it."""
    if isinstance(key, GroupKey):
        return await adopt_groups(context, PROJECT, await context.compute.list_groups(PROJECT))
    listing = await context.compute.list_instance_templates(PROJECT)
    return await adopt_templates(context, PROJECT, listing)


async def test_an_adoption_that_is_cut_off_at_any_await_is_made_once_by_the_next_process(
    tmp_path: Path,
) -> None:
    """Entities were removed, or restored from before a group: nothing is made in its place."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        context = await acting_alone(w)
        fleet, there = context.fleet, await w.groups()
        [group], [revision] = fleet.managers, fleet.revisions
        unmade = {"url": None, "gce_id": None}
        cases: list[tuple[GroupKey | RevisionKey, dict[Key, Entity | None]]] = [
            (group, {group: None}),
            (group, {group: msgspec.structs.replace(fleet.managers[group], **unmade)}),
            (revision, {revision: msgspec.structs.replace(fleet.revisions[revision], **unmade)}),
            (group, dict.fromkeys(group.lineage)),
        ]
        for key, lost in cases:
            await fleet.refresh(lost)
            made: Any = fleet.get(key)
            at, done = 0, False
            while not done:
                at += 1
                await fleet.refresh(lost)
                await fleet.change([Change(one, becomes(entity)) for one, entity in lost.items()])
                async with process(w, context, key) as (first, clock):
                    await adopt(first, key)
                    clock.time += SECOND_LOOK
                    killed = Killed(adopt(first, key), at)
                    done = await asyncio.create_task(finished(killed))
                async with process(w, context, key) as (following, clock):
                    adopted = [following.fleet.get(one) != entity for one, entity in lost.items()]
                    assert len(set(adopted)) == 1, "all or nothing"
                    assert adopted[0] or not done
                    assert await look_first(following, [PROJECT]) == []
                    if key == group and revision in following.fleet.revisions:
                        assert awaits(following, key) is not adopted[0]
                    await adopt(following, key)
                    clock.time += SECOND_LOOK
                    await adopt(following, key)
                    known: Any = following.fleet.get(key)
                    assert (known.url, known.gce_id) == (made.url, made.gce_id)
                    assert (known.generation, known.in_flight) == (0, None)
                    assert all(following.fleet.get(one) is not None for one in key.lineage)
                killed.bury()
                assert await w.groups() == there
            assert at > 3, "there is something to cut off"


async def finished(killed: Killed) -> bool:
    """Whether the work was done, in a task of its own: what it has begun ends with that."""
    return await killed


def becomes(entity: Entity | None) -> Callable[[Any], Any]:
    """The change to this entity."""
    return lambda _: entity
