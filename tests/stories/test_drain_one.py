"""One machine is taken out by hand: as soon as nobody holds it, and never before."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gce_backend.daemon.daemon import Daemon
from gce_backend.fleet.picture import Change
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONTROL_KEY, Permit
from gce_backend.model.keys import MachineKey
from gce_backend.rules.orders import ApplyToMachine, drain, find_machine, mention, undrain
from gce_backend.settings.settings import DeletionSettings
from support.crashing import CRONS, OPTIONS, SETTINGS, OneBlow, When
from support.deletions import DELETE_INSTANCES, DELETE_MACHINE, entity, settings
from support.fleet_harness import CONTROL_TOKEN, World, manager, template, world
from support.others import somebody_else

NO_DELETIONS = DeletionSettings(permitted_count=0, permitted_share=0.0)
EACH_MINUTE = {"import-config": "* * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)


async def order(w: World, name: str, reason: str = "") -> None:
    """Drains a machine."""
    assert await w.act("/api/drain", {"name": name, "reason": reason}) == 200


async def shown(w: World, name: str) -> tuple[str, str]:
    """A machine's state and reason."""
    return next((m["state"], m["reason"]) for m in await w.machines() if m["name"] == name)


def replaced(w: World, name: str, number: int = 3) -> Callable[[], Awaitable[bool]]:
    """Whether the machine is gone, and so many others can be leased."""

    async def reached() -> bool:
        states = list((await w.catalog()).values())
        return name not in await w.vms() and states.count("AVAILABLE") == number

    return reached


def permit_of(w: World, name: str) -> Permit | None:
    """What allowed a machine's end."""
    found = entity(w, name)
    return found.deletion.permit if found is not None and found.deletion is not None else None


async def by_command(
    w: World, name: str, change: Callable[[MachineKey, float], ApplyToMachine]
) -> None:
    """An order as the commands store it."""
    async with somebody_else(w) as fleet:
        key, now = find_machine(name, fleet.instances), w.clock.now()
        await fleet.change(
            [Change(key, change(key, now)), Change(CONTROL_KEY, mention([key], now))]
        )


async def test_an_idle_machine_leaves_the_catalog_goes_and_is_replaced(tmp_path: Path) -> None:
    """With the permit of the Machine Provider; the others are not touched."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = {name: vm["id"] for name, vm in (await w.vms()).items()}
        name = min(before)
        await order(w, name, "its disk rattles")
        assert await w.until(replaced(w, name)) < 10
        after = {name: vm["id"] for name, vm in (await w.vms()).items()}
        assert len(after) == 3
        assert before.items() - after.items() == {(name, before[name])}
        assert permit_of(w, name) is Permit.REMOVED
        assert name not in await w.catalog()
        (group,) = (await w.groups()).values()
        assert group["targetSize"] == 3
        events = (await w.get(f"/api/events?name={name}"))["events"]
        told = [(event["cause"], event["reason"]) for event in events]
        assert ("operator drain", "Drained by operator: its disk rattles") in told


async def test_a_leased_machine_is_waited_for(tmp_path: Path) -> None:
    """It says so; it goes when it is reclaimed, on that permit."""
    async with world(tmp_path, crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        vm = (await w.vms())[name]
        await order(w, name, "its disk rattles")
        await w.pass_time(600)
        assert (await w.vms())[name] == vm
        assert (await w.catalog())[name] == "LEASED"
        state, reason = await shown(w, name)
        assert state == "leased"
        assert "after its lease ends. Drained by operator: its disk rattles" in reason
        await w.release()
        await w.until(replaced(w, name))
        assert permit_of(w, name) is Permit.RECLAIMED


async def test_a_machine_that_was_never_cataloged_is_asked_about_and_deleted(
    tmp_path: Path,
) -> None:
    """It still boots: the Machine Provider is asked, and never told of it."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=60.0)
    async with world(tmp_path, options=options) as w:
        await w.until_states(starting=3)
        name = min(await w.vms())
        await order(w, name)
        await w.until(lambda: w.lacks(name), within=20)
        assert permit_of(w, name) is Permit.NEVER_CATALOGED
        assert (await w.calls())[DELETE_MACHINE] == 1
        await w.until_states(cataloged=3)
        assert name not in await w.catalog()


async def test_a_lease_granted_between_the_order_and_delete_machine_keeps_the_machine(
    tmp_path: Path,
) -> None:
    """No message tells of it: the Machine Provider's own word is the check; then it goes."""
    async with world(tmp_path, options=CALM, crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.inject("machine_provider.catalog.get", status=503, times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        await w.until(w.is_loaded)
        request = {"request_id": "r1", "duration": 7200, "dimensions": {"os_family": "LINUX"}}
        await w.broker("machine_provider.lease", request)

        async def leased() -> bool:
            return "LEASED" in (await w.catalog()).values()

        await w.until(leased)
        name = next(name for name, state in (await w.catalog()).items() if state == "LEASED")
        await order(w, name)
        await w.reset_calls()
        await w.pass_time(900)
        assert await w.fired()
        assert 1 <= (await w.calls())[DELETE_MACHINE] <= 12
        assert name in await w.vms()
        state, reason = await shown(w, name)
        assert state == "draining"
        assert "Somebody holds it" in reason
        await w.clear_faults()
        await w.release()
        await w.until(replaced(w, name), within=1800)


async def test_second_thoughts_keep_a_leased_machine(tmp_path: Path) -> None:
    """As if nothing had been said."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await order(w, name)
        assert await w.act("/api/undrain", {"name": name}) == 200
        assert await shown(w, name) == ("leased", "Somebody holds it.")


async def test_a_machine_out_of_the_catalog_is_kept_and_comes_back(tmp_path: Path) -> None:
    """The cap holds its deletion back: until then it is not offered, and undrain is in time."""
    async with world(tmp_path, settings=settings(NO_DELETIONS)) as w:
        await w.until_states(cataloged=3)
        vms = await w.vms()
        name = min(vms)
        await order(w, name, "why not")
        await w.until_states(cataloged=2, draining=1)

        async def out() -> bool:
            return name not in await w.catalog()

        await w.until(out)
        await w.pass_time(180)
        assert await out()
        assert await shown(w, name) == ("draining", "Drained by operator: why not")
        assert await w.act("/api/undrain", {"name": name}) == 200
        await w.until_states(cataloged=3)
        assert (await w.vms())[name]["id"] == vms[name]["id"]
        assert await w.catalog() == dict.fromkeys(vms, "AVAILABLE")


async def test_a_deletion_that_has_begun_cannot_be_undone(tmp_path: Path) -> None:
    """409, and a new drain of it changes nothing; of a machine that is gone both say 404."""
    options = msgspec.structs.replace(CloudOptions().instant(), delete_seconds=30.0)
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        await order(w, name)
        await w.until(lambda: w.is_in(name, "deleting"))
        assert await w.act("/api/undrain", {"name": name}) == 409
        before = entity(w, name)
        await order(w, name, "again")
        assert entity(w, name) == before
        await w.until(lambda: w.is_in(name, "deleted"))
        assert await w.act("/api/undrain", {"name": name}) == 404
        assert await w.act("/api/drain", {"name": name}) == 404


async def test_the_cap_holds_for_machines_that_are_drained_by_hand(tmp_path: Path) -> None:
    """Three orders, a cap of one: one goes, two wait with an alarm, and go when it is lifted."""
    one = DeletionSettings(permitted_count=1, permitted_share=0.0)
    async with world(tmp_path, managers=manager(minimum=4), settings=settings(one)) as w:
        await w.until_states(cataloged=4)
        names = sorted(await w.vms())[:3]
        for name in names:
            await order(w, name)

        async def held() -> bool:
            return list((await w.get("/api/control"))["deletions_held"].values()) == [2]

        await w.until(held)
        await w.pass_time(120)
        assert len((await w.vms()).keys() & set(names)) == 2
        assert await w.act("/api/lift-cap", {"seconds": 60}) == 200
        await w.until_states(cataloged=4)
        assert not (await w.vms()).keys() & set(names)


async def test_in_a_paused_part_of_the_fleet_the_order_waits(tmp_path: Path) -> None:
    """It is remembered, said, and carried out after the pause."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        assert await w.act("/api/pause", {"template": "linux"}) == 200
        await order(w, name)
        await w.pass_time(180)
        assert (await w.catalog())[name] == "AVAILABLE"
        state, reason = await shown(w, name)
        assert state == "draining"
        assert reason == "Drained by operator. Paused by operator (template linux)"
        assert await w.act("/api/resume", {"template": "linux"}) == 200
        await w.until(replaced(w, name))


async def test_what_a_command_stores_is_heard_within_a_minute(tmp_path: Path) -> None:
    """The daemon need not read all machines for it; undrain too."""
    async with world(tmp_path, crons=EACH_MINUTE, settings=settings(NO_DELETIONS)) as w:
        w.settings = msgspec.structs.replace(w.settings, jobs={})
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        await by_command(w, name, lambda key, now: drain(key, "by command", now))

        async def out() -> bool:
            return name not in await w.catalog()

        assert await w.until(out) <= 65
        assert await shown(w, name) == ("draining", "Drained by hand: by command")
        await by_command(w, name, lambda key, _: undrain(key))
        assert await w.until(lambda: w.is_in(name, "cataloged")) <= 65


async def test_an_order_given_while_the_daemon_is_down_is_carried_out(tmp_path: Path) -> None:
    """It is in the store, and read at the start."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        await w.crash_daemon()
        await by_command(w, name, lambda key, now: drain(key, "", now))
        await w.start_daemon()
        await w.until(replaced(w, name))


async def test_an_order_to_one_of_two_daemons_is_heard_by_the_other(tmp_path: Path) -> None:
    """The one that took it dies at once; nothing is doubled, and one machine goes."""
    async with world(tmp_path, options=OPTIONS) as w:
        await w.until_states(cataloged=3)
        second = Daemon(w.settings, clock=w.clock, rng=random.Random(7))
        await second.start()
        try:
            await w.pass_time(70)
            before = set(await w.vms())
            name = min(before)
            await w.inject(DELETE_MACHINE, times=1)  # the first one gets no further
            await order(w, name)
            await w.crash_daemon()
            w.daemon = second
            await w.until(replaced(w, name), within=180)
            assert len(before & (await w.vms()).keys()) == 2
        finally:
            await second.abort()
            await w.start_daemon()


async def test_two_daemons_that_drain_the_same_machine_do_it_once(tmp_path: Path) -> None:
    """Both hear of it at once; version guards make it one deletion, and no other machine goes."""
    async with world(tmp_path, options=OPTIONS) as w:
        await w.until_states(cataloged=3)
        second = Daemon(w.settings, clock=w.clock, rng=random.Random(7))
        await second.start()
        try:
            await w.pass_time(70)
            before = set(await w.vms())
            name = min(before)
            headers = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
            await order(w, name)
            async with w.session.post(
                f"{second.url}/api/drain", json={"name": name}, headers=headers
            ) as response:
                assert response.status == 200
            await w.until(replaced(w, name))
            await w.pass_time(130)
            assert len(before & (await w.vms()).keys()) == 2
            assert len(await w.vms()) == 3
        finally:
            await second.abort()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    [
        "datastore.projects.commit",
        DELETE_MACHINE,
        f"{DELETE_MACHINE}s",
        DELETE_INSTANCES,
        "compute.instanceGroupManagers.createInstances",
    ],
)
async def test_a_crash_at_any_step_of_it_changes_nothing_in_the_end(
    tmp_path: Path, step: str, when: When
) -> None:
    """Killed before or after a step took effect: the next daemon carries on."""
    async with world(tmp_path, options=OPTIONS, settings=SETTINGS, crons=CRONS) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(30)
        held = await w.lease()
        before = await w.vms()
        name = min(before.keys() - {held})
        ordered = int(step == "datastore.projects.commit")  # the order itself is the first one
        w.cloud.faults = faults = OneBlow(1 + ordered, when, only=step, deadly=True)
        await order(w, name)
        await faults.struck.wait()
        await w.crash_daemon()
        faults.dead = False
        await w.start_daemon()
        await w.until(replaced(w, name, 2))
        await w.until_states(cataloged=2, leased=1)
        after = await w.vms()
        assert len(after) == 3
        kept = before.keys() - {name}
        assert {other: after[other]["id"] for other in kept} == {
            other: before[other]["id"] for other in kept
        }
        (group,) = (await w.groups()).values()
        assert group["targetSize"] == 3


async def test_while_the_fleet_rolls_an_old_machine_stays_in_place_of_one_that_is_drained(
    tmp_path: Path,
) -> None:
    """There are never fewer than three to lease from, though a new one of them is taken out."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=20.0)
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        old = set(await w.vms())
        await w.inject(DELETE_MACHINE, status=503, times=None)
        w.write_config(template(machine_type="e2-medium"), manager())

        async def all_can_be_leased() -> bool:
            return list((await w.catalog()).values()) == ["AVAILABLE"] * 6

        await w.until(all_can_be_leased)
        await w.pass_time(60)
        assert await w.act("/api/pause") == 200
        await w.clear_faults()
        name = min(set(await w.vms()) - old)
        await order(w, name)
        await w.pass_time(90)  # the Machine Provider is asked again from now on
        assert await w.act("/api/resume") == 200
        least = 6

        async def rolled() -> bool:
            nonlocal least
            catalog = (await w.catalog()).keys()
            least = min(least, len(catalog))
            return not (old | {name}) & (catalog | (await w.vms()).keys())

        await w.until(rolled, every=0.05)
        assert least == 3
        await w.until_states(cataloged=3)
