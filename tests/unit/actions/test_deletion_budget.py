"""The caps on deletions (S5): held back with an alarm, released by time or by an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs

from gce_backend.actions.deletion_budget import begin_under_caps, free_deletions, under_caps
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import (
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    Begun,
    CatalogState,
    DeletionWindow,
    Instance,
    Lease,
    PendingDeletion,
    Permit,
)
from gce_backend.model.keys import MachineKey
from gce_backend.model.observed import Member
from gce_backend.model.orders import Control, Drain
from gce_backend.settings.settings import DeletionSettings, MachineProviderSettings
from support.deletions import (
    TWO_TEMPLATES,
    denied,
    held,
    lease_all,
    metric,
    release_all,
    settings,
    two_templates,
)
from support.fleet_harness import OTHER_ZONE, World, manager, world
from support.machines import TOMBSTONE, UNDER_WAY
from support.trial import acting_alone

WIDE = DeletionSettings(
    reclaimed_count=2,
    reclaimed_share=0.0,
    permitted_count=2,
    permitted_share=0.0,
    window_seconds=300.0,
)
HASTY = MachineProviderSettings(sweep_per_minute=600, lost_seconds=10.0)
DAY = 86400.0


async def _burst(w: World) -> set[str]:
    """Six machines are reclaimed at once under a cap of two; returns their names."""
    await w.until_states(cataloged=6)
    names = set(await lease_all(w, 6))
    await release_all(w, 6)
    await w.until(lambda: _alive(w, names, 4))
    return names


async def _alive(w: World, names: set[str], number: int) -> bool:
    return len(names & set(await w.vms())) == number


async def test_a_burst_above_the_cap_is_held_back_and_released_by_time(tmp_path: Path) -> None:
    """Two at once, with an alarm and a metric for the others; two more when the window is over."""
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(WIDE)) as w:
        with capture_logs() as logs:
            names = await _burst(w)
            start = w.clock.monotonic()
            await w.pass_time(60)
        (message,) = await held(w)
        assert message == (
            "4 deletions are held back (4 reclaimed). At most this many deletions may begin within "
            "300 s: 2 reclaimed (so far 2). Find out why so many are due, and whether the Machine "
            "Provider works. If they are right, wait, or lift the caps with `gce-backend "
            "lift-cap`; if not, `gce-backend pause` stops them."
        )
        told = [line for line in logs if line["event"] == "deletion.held"]
        assert {(line["log_level"], line["held"], line["permits"]) for line in told} == {
            ("error", 4, "4 reclaimed")
        }
        assert await metric(w, "gce_backend_deletions_held") == 4
        while w.clock.monotonic() - start < 270:
            assert await _alive(w, names, 4)
            await w.pass_time(10)
        await w.until(lambda: _alive(w, names, 2), within=150)
        await w.until(lambda: _alive(w, names, 0), within=450)
        await w.until_states(cataloged=6)
        await w.pass_time(61)
        assert await held(w) == []
        assert await metric(w, "gce_backend_deletions_held") == 0


async def test_an_operator_lifts_the_cap(tmp_path: Path) -> None:
    """The rest goes at once, and the alarm ends."""
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(WIDE)) as w:
        names = await _burst(w)
        assert await w.act("/api/lift-cap", {"seconds": 60}) == 200
        await w.until(lambda: _alive(w, names, 0), within=70)
        await w.until_states(cataloged=6)


async def test_a_restart_of_the_daemon_frees_nothing(tmp_path: Path) -> None:
    """What was deleted within the window is counted from the entities."""
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(WIDE)) as w:
        names = await _burst(w)
        for _ in range(4):
            await w.restart_daemon()
            await w.pass_time(65)
            assert await _alive(w, names, 4)
        assert len(await held(w)) == 1


async def test_fault_27_a_clock_that_jumps_frees_nothing(tmp_path: Path) -> None:
    """A day forth, then two back: the window is measured by time that does not jump."""
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(WIDE)) as w:
        names = await _burst(w)
        w.clock.epoch += DAY
        await w.pass_time(125)
        assert await _alive(w, names, 4)
        w.clock.epoch -= 2 * DAY
        await w.pass_time(125)
        assert await _alive(w, names, 4)
        await w.until(lambda: _alive(w, names, 0), within=900)


async def test_fault_27_a_clock_set_back_does_not_prolong_a_lifted_cap(tmp_path: Path) -> None:
    """The cap is lifted for ten seconds; a day back in the clock makes that no day."""
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(WIDE)) as w:
        await w.until_states(cataloged=6)
        names = set(await lease_all(w, 6))
        assert await w.act("/api/lift-cap", {"seconds": 10}) == 200
        await w.pass_time(5)
        w.clock.epoch -= DAY
        await w.pass_time(10)
        await release_all(w, 6)
        await w.pass_time(130)
        assert await _alive(w, names, 4)


async def test_both_delete_jobs_together_stay_under_the_cap(tmp_path: Path) -> None:
    """Reclaimed and drained machines at the same moment: two of each."""
    managers = two_templates(zone=OTHER_ZONE)
    one = two_templates(zone=OTHER_ZONE, other=False)
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=one, settings=settings(WIDE)) as w:
        await w.until_states(cataloged=3)
        w.cloud.options = msgspec.structs.replace(w.cloud.options, boot_seconds=3600.0)
        w.write_config(TWO_TEMPLATES, managers)
        await w.until_states(cataloged=3, creating=3)
        await lease_all(w, 3)
        await w.act("/api/pause", {})
        await release_all(w, 3)
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.until_states(pending_deletion=3, draining=3)
        await w.inject("datastore.*", kind="latency", seconds=0.5, times=None)
        await w.act("/api/resume", {})
        await w.pass_time(120)
        assert await metric(w, "gce_backend_deletions_held") == 2
        shown = (await w.get("/api/control"))["deletions_held"]
        assert shown == {"reclaimed": 1, "never-cataloged": 1}


async def test_fault_30_a_wrong_broker_destroys_few_machines_and_none_that_is_held(
    tmp_path: Path,
) -> None:
    """Not-found for everything: two machines in ten minutes at most, an alarm, no leased one."""
    given = settings(broker=HASTY)
    async with world(tmp_path, managers=manager(minimum=30), settings=given) as w:
        await w.until_states(cataloged=30)
        leased = set(await lease_all(w, 2))
        before = set(await w.vms())
        await denied(w)
        start = w.clock.monotonic()
        while w.clock.monotonic() - start < 590:
            now = set(await w.vms())
            assert len(before - now) <= 2
            assert leased <= now
            await w.pass_time(10)
        assert await w.fired() >= 30
        assert len(await held(w)) == 1
        assert await metric(w, "gce_backend_deletions_held") >= 1
        gone = before - set(await w.vms())
        assert gone
        await w.clear_faults()  # the right one again: it knows those that remain
        await w.pass_time(400)
        assert before - gone <= set(await w.vms())
        assert leased <= set(await w.vms())


def _reclaimed(instance: Instance | None) -> Instance | None:
    assert instance is not None
    return msgspec.structs.replace(instance, pending_deletion=PendingDeletion("", 1.0))


def _forgotten(instance: Instance | None) -> Instance | None:
    assert instance is not None
    lease = Lease(1.0, 2.0)
    return msgspec.structs.replace(instance, catalog=CatalogState.ABSENT, lease=lease)


async def test_what_backs_off_alone_or_with_its_group_takes_no_other_s_place(
    tmp_path: Path,
) -> None:
    """The first of two that are due is tried later: the other one begins, and none is held."""
    one = DeletionSettings(reclaimed_count=1, reclaimed_share=0.0)
    managers = manager(zone=OTHER_ZONE) + manager(minimum=1)
    async with world(tmp_path, managers=managers, settings=settings(one)) as w:
        await w.until_states(cataloged=4)
        assert await w.act("/api/pause", {}) == 200
        assert w.daemon.context is not None
        context = w.daemon.context.of_job("a-trial")
        [*_, last] = due = list(context.fleet.instances)
        await context.fleet.change([Change(key, _reclaimed) for key in due[:-1]])
        await context.fleet.change([Change(last, _forgotten)])
        first, second = due[:2]
        assert first.group == second.group != last.group

        async def chosen() -> tuple[list[MachineKey], int]:
            begins, held = await under_caps(context, lambda _, __: True)
            return begins, held.total()

        assert await chosen() == ([first, last], 2)
        context.conditions.back_off(first, "Unconfirmed", "It was not confirmed.")
        assert await chosen() == ([second, last], 1)
        context.conditions.back_off(first.group, "NotFound", "It was not found.")
        assert await chosen() == ([last], 0)
        context.conditions.back_off(last.group, "NotFound", "It was not found.")
        assert await chosen() == ([], 0)
        assert free_deletions(context, Permit.RECLAIMED) == 1


async def test_how_many_deletions_the_caps_leave_room_for(tmp_path: Path) -> None:
    """Beyond those that have begun, and those that are due and have not."""
    shares = DeletionSettings(permitted_count=0, permitted_share=1.0)
    async with world(tmp_path, managers=manager(minimum=10), settings=settings(shares)) as w:
        await w.until_states(cataloged=10)
        context = await acting_alone(w)
        begun = DeletionWindow((Begun(context.clock.now(), {Permit.REMOVED: 2}),))
        gone, first, *others = context.fleet.instances
        drained = Drain("", 1.0)

        def draining(instance: Instance | None) -> Instance | None:
            assert instance is not None
            return msgspec.structs.replace(instance, drain=drained)

        def dying(instance: Instance | None) -> Instance | None:
            assert instance is not None
            return msgspec.structs.replace(instance, drain=drained, deletion=UNDER_WAY)

        await context.fleet.change([Change(DELETION_WINDOW_KEY, lambda _: begun)])
        await context.fleet.change([Change(key, draining) for key in others[:2]])
        await context.fleet.change([Change(first, dying), Change(gone, lambda _: TOMBSTONE)])
        assert free_deletions(context, Permit.REMOVED) == 9 - 2 - 2
        revision = context.fleet.revisions[first.revision]
        left = msgspec.structs.replace(revision, active=(), drained=(first.zone,))
        await context.fleet.change([Change(first.revision, lambda _: left)])
        assert free_deletions(context, Permit.REMOVED) == 9 - 2 - 8, "all of its group leave"

        def counted(gce_id: int | None, **seen: Any) -> bool:
            """Whether the deletion of a member counts, as it is stored and as its group is seen."""
            entity = msgspec.structs.replace(before, gce_id=gce_id)
            context.fleet._pictures[Instance.KIND][first] = entity
            context.memory.seen.groups[first.group] = msgspec.structs.replace(group, **seen)
            asked = {first: Permit.REMOVED}
            begins, window = begin_under_caps(context, DeletionWindow(), asked)
            assert begins == {first}
            return bool(window.begun)

        before, group = context.fleet.instances[first], context.memory.seen.groups[first.group]
        failing = Member(first.name, None, "", "CREATING", "No room.", "STOCKOUT")
        members = {first.name: failing, "another": failing}
        assert not counted(None, members=members, complete=True)
        assert counted(7, members=members, complete=True)
        assert counted(None, members=members, complete=False)
        assert counted(None, members={"another": failing}, complete=True)
        made = {first.name: msgspec.structs.replace(failing, error_code="")}
        assert counted(None, members=made, complete=True)
        del context.memory.seen.groups[first.group]
        assert begin_under_caps(context, DeletionWindow(), {first: Permit.REMOVED})[1].begun

        def lifted(control: Control | None) -> Control | None:
            until = context.clock.now() + 0.9
            return msgspec.structs.replace(control or Control(), cap_lifted_until=until)

        await context.fleet.change([Change(CONTROL_KEY, lifted)])
        assert free_deletions(context, Permit.REMOVED) == 10
