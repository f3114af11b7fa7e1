"""Made before broken: a new revision comes up beside the old one, and the fleet stays leasable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, RolloutSettings, Settings
from support.approving import approve
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world
from support.scraped import scrape

EXAMPLE = Path(__file__).parents[2] / "config"
OLD_TYPE, NEW_TYPE = "e2-small", "e2-medium"
LATENCIES = CloudOptions()
ROLLING = Settings(deletion=DeletionSettings(permitted_count=500))
"""Caps that let the whole fleet be exchanged within their window, more than once."""


class Sample(NamedTuple):
    """One look at the world, by zone.

    Attributes:
        leasable: running machines that the Machine Provider would lease out.
        targets: the groups' target sizes together.
    """

    leasable: Counter[str]
    targets: Counter[str]


async def look(w: World) -> Sample:
    """How the world is now."""
    state = await w.cloud_state()
    catalog: Mapping[str, str] = state["machine_provider"].get("catalog", {})
    compute = state["compute"]["projects"].get(PROJECT, {"instances": {}, "groups": {}})
    leasable = Counter(
        vm["zone"]
        for name, vm in compute["instances"].items()
        if vm["status"] == "RUNNING" and catalog.get(name) == "AVAILABLE"
    )
    targets: Counter[str] = Counter()
    for place, group in compute["groups"].items():
        targets[place.partition("/")[0]] += group["targetSize"]
    return Sample(leasable, targets)


async def watch(
    w: World,
    until: Callable[[], Awaitable[bool]],
    within: float = 300.0,
    every: float = 0.25,
) -> list[Sample]:
    """The world, every quarter of a second or seldom, until something holds."""
    samples: list[Sample] = []

    async def reached() -> bool:
        samples.append(await look(w))
        return await until()

    await w.until(reached, within, every)
    return samples


def lowest(samples: list[Sample], zone: str = ZONE) -> int:
    """The least number that there was to lease from."""
    return min(sample.leasable[zone] for sample in samples)


def highest_target(samples: list[Sample], zone: str = ZONE) -> int:
    """The largest number of machines that the groups were to have together."""
    return max(sample.targets[zone] for sample in samples)


async def types(w: World) -> Counter[str]:
    """How many VMs there are of each machine type."""
    found: Counter[str] = Counter()
    for name, vm in (await w.vms()).items():
        shown = await w.compute("GET", f"zones/{vm['zone']}/instances/{name}")
        found[shown["machineType"].rpartition("/")[2]] += 1
    return found


async def leasable(w: World, count: int) -> None:
    """Waits until so many machines can be leased, all zones together."""

    async def reached() -> bool:
        return (await look(w)).leasable.total() == count

    await w.until(reached)


def after(w: World, seconds: float) -> Callable[[], Awaitable[bool]]:
    """Whether so much time has passed from now on."""
    end = w.clock.monotonic() + seconds

    async def reached() -> bool:
        return w.clock.monotonic() >= end

    return reached


def roll(w: World, machine_type: str = NEW_TYPE) -> None:
    """Changes the template; the managers stay."""
    managers = (w.config_dir / "managers.cfg").read_text()
    w.write_config(template(machine_type=machine_type), managers)


def replaced(w: World, old: set[str], keep: set[str], count: int) -> Callable[[], Awaitable[bool]]:
    """Whether only `keep` is left of the old machines, and so many new ones can be leased."""

    async def reached() -> bool:
        names = set(await w.vms())
        return names & old == keep and (await look(w)).leasable.total() == count

    return reached


async def settled(w: World, machine_type: str, count: int) -> bool:
    """Whether there is one revision of this type, all of it cataloged, and nothing else left."""
    catalog = await w.catalog()
    vms = await w.vms()
    return (
        await w.states() - Counter(deleted=1000) == Counter(cataloged=count)
        and catalog == dict.fromkeys(vms, "AVAILABLE")
        and len(await w.groups()) == 1
        and await types(w) == Counter({machine_type: count})
    )


async def test_hazard_16_number_to_lease_from_never_drops_while_the_fleet_rolls(
    tmp_path: Path,
) -> None:
    """In no zone, not for a quarter of a second; and the leased machine is not touched."""
    managers = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2, maximum=4)
    async with world(tmp_path, managers=managers, options=LATENCIES, settings=ROLLING) as w:
        await leasable(w, 5)
        held = await w.lease(project=PROJECT)
        vms = await w.vms()
        start = await look(w)
        roll(w)
        samples = await watch(w, replaced(w, set(vms), {held}, 5))
        assert lowest(samples, ZONE) == start.leasable[ZONE]
        assert lowest(samples, OTHER_ZONE) == start.leasable[OTHER_ZONE]
        assert highest_target(samples, OTHER_ZONE) <= 4
        assert (await w.vms())[held] == vms[held]
        assert (await w.catalog())[held] == "LEASED"


@pytest.mark.parametrize("leased", [0, 1])
async def test_without_room_machines_are_exchanged_one_by_one_within_the_maximum(
    tmp_path: Path, leased: int
) -> None:
    """maximum_size is minimum_size: one at a time is missing, and never one too many wanted."""
    async with world(
        tmp_path, managers=manager(maximum=3), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        held = {await w.lease()} if leased else set()
        old = set(await w.vms())
        roll(w)
        samples = await watch(w, replaced(w, old, held, 3 - leased))
        assert lowest(samples) == 3 - leased - 1
        assert highest_target(samples) == 3


async def test_large_group_without_room_is_exchanged_by_a_share_at_a_time(tmp_path: Path) -> None:
    """A tenth of 20: two are missing, never more."""
    managers = manager(minimum=20, maximum=20)
    async with world(tmp_path, managers=managers, options=LATENCIES, settings=ROLLING) as w:
        await leasable(w, 20)
        old = set(await w.vms())
        roll(w)
        samples = await watch(w, replaced(w, old, set(), 20))
        assert lowest(samples) == 18
        assert highest_target(samples) == 20


@pytest.mark.parametrize("leased", [0, 1])
async def test_hazard_10_old_and_new_together_stay_within_the_maximum(
    tmp_path: Path, leased: int
) -> None:
    """Where there is room for one, it is used: the number to lease from need not drop."""
    async with world(
        tmp_path, managers=manager(maximum=4), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        held = {await w.lease()} if leased else set()
        old = set(await w.vms())
        roll(w)
        samples = await watch(w, replaced(w, old, held, 3))
        assert lowest(samples) == 3 - leased
        assert highest_target(samples) == 4


@pytest.mark.parametrize("maximum", [None, 3])
async def test_with_max_unavailable_one_may_be_missing(tmp_path: Path, maximum: int | None) -> None:
    """One leaves at once, and no second one before another has come."""
    settings = Settings(rollout=RolloutSettings(max_unavailable=1))
    async with world(
        tmp_path, managers=manager(maximum=maximum), settings=settings, options=LATENCIES
    ) as w:
        await leasable(w, 3)
        old = set(await w.vms())
        roll(w)
        samples = await watch(w, replaced(w, old, set(), 3))
        assert lowest(samples) == 2


@pytest.mark.parametrize("maximum", [None, 3])
@pytest.mark.parametrize("seconds", [0.5, 2.5, 3.5, 7.5, 8, 9.5, 14])
async def test_hazard_16_going_back_in_the_middle_ends_in_the_right_state(
    tmp_path: Path, seconds: float, maximum: int | None
) -> None:
    """At whatever moment: the earlier revision is whole again, and nothing else is left."""
    async with world(
        tmp_path, managers=manager(maximum=maximum), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        roll(w)
        await w.pass_time(seconds)
        roll(w, OLD_TYPE)
        await w.pass_time(2.5)
        samples = await watch(w, lambda: settled(w, OLD_TYPE, 3), within=120)
        assert lowest(samples) >= (3 if maximum is None else 2)
        assert highest_target(samples) <= (maximum or 6)


async def test_old_machines_that_drained_are_cataloged_again_when_their_revision_returns(
    tmp_path: Path,
) -> None:
    """Those whose deletion was held back come back as they are; they are not made anew."""
    held_back = Settings(deletion=DeletionSettings(permitted_count=0, permitted_share=0))
    async with world(tmp_path, settings=held_back, options=LATENCIES) as w:
        await leasable(w, 3)
        old = await w.vms()

        async def in_catalog() -> set[str]:
            return {name for name, state in (await w.catalog()).items() if state == "AVAILABLE"}

        async def out() -> bool:
            return not old.keys() & await in_catalog()

        async def back() -> bool:
            return old.keys() == await in_catalog()

        roll(w)
        await w.until(out)
        roll(w, OLD_TYPE)
        samples = await watch(w, back)
        assert lowest(samples) == 3
        await w.until_states(cataloged=3, draining=3)
        assert old.items() <= (await w.vms()).items()


async def test_stockout_of_the_new_revision_keeps_the_old_machines_without_a_resize_storm(
    tmp_path: Path,
) -> None:
    """Fault 35: for a quarter of an hour all old ones can be leased, and the reason shows."""
    async with world(
        tmp_path, managers=manager(maximum=4), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        old = set(await w.vms())
        await w.inject("*", kind="stockout", zone=ZONE, machine_type=NEW_TYPE, times=None)
        roll(w)
        await w.pass_time(60)
        await w.reset_calls()
        samples = await watch(w, after(w, 900), within=1000, every=10)
        calls = await w.calls()
        assert await w.fired()
        assert lowest(samples) == 3
        assert calls["compute.instanceGroupManagers.createInstances"] == 0
        assert calls["compute.instanceGroupManagers.listManagedInstances"] <= 30
        fleet = await w.get("/api/fleet")
        assert "StockOut" in {condition["reason"] for condition in fleet["conditions"]}
        await w.clear_faults()
        await w.until(replaced(w, old, set(), 3))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_machine_provider_that_fails_in_the_middle_does_not_make_too_many_leave(
    tmp_path: Path, when: str
) -> None:
    """A removal without an answer is tried again before another machine leaves."""
    async with world(
        tmp_path, managers=manager(maximum=3), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        old = set(await w.vms())
        await w.inject("machine_provider.catalog.delete_machine", when=when, times=2)
        roll(w)
        samples = await watch(w, replaced(w, old, set(), 3))
        assert await w.fired() == 2
        assert lowest(samples) == 2


async def test_fleet_rolls_although_every_message_is_lost(tmp_path: Path) -> None:
    """Nothing says that the new machines can be leased: after a while they count all the same."""
    async with world(tmp_path, options=LATENCIES, settings=ROLLING) as w:
        await leasable(w, 3)
        old = set(await w.vms())
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        roll(w)
        samples = await watch(w, replaced(w, old, set(), 3))
        assert await w.fired()
        assert lowest(samples) == 3


async def test_daemon_that_crashes_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    """At three moments of an exchange without room: never more than one is missing."""
    async with world(
        tmp_path, managers=manager(maximum=3), options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 3)
        old = set(await w.vms())
        roll(w)
        samples = []
        for seconds in (3.0, 4.0, 5.0):
            samples += await watch(w, after(w, seconds))
            await w.restart_daemon()
        samples += await watch(w, replaced(w, old, set(), 3))
        assert lowest(samples) == 2
        assert highest_target(samples) == 3


async def test_lease_that_arrives_while_the_fleet_rolls_is_kept(tmp_path: Path) -> None:
    """An old machine is leased after its template has changed; it lives until it is given back."""
    async with world(tmp_path, options=LATENCIES, settings=ROLLING) as w:
        await leasable(w, 3)
        old = await w.vms()
        roll(w)
        await w.pass_time(4)
        held = await w.lease()
        assert held in old
        await w.until(replaced(w, set(old), {held}, 3))
        await w.pass_time(600)
        assert (await w.vms())[held] == old[held]
        await w.release()
        await w.until(lambda: settled(w, NEW_TYPE, 3))


async def test_example_fleet_rolls_within_a_minute(tmp_path: Path) -> None:
    """All three templates change at once; no zone drops, and each stays within its maximum."""
    templates = (EXAMPLE / "templates.cfg").read_text()
    managers = (EXAMPLE / "managers.cfg").read_text()
    scripts = tmp_path / "config" / "scripts"
    scripts.mkdir(parents=True)
    for path in (EXAMPLE / "scripts").iterdir():
        (scripts / path.name).write_text(path.read_text())
    async with world(
        tmp_path, templates=templates, managers=managers, options=LATENCIES, settings=ROLLING
    ) as w:
        await leasable(w, 12)
        old, start = set(await w.vms()), await look(w)
        began = w.clock.monotonic()
        newer = templates.replace("debian-12-bookworm-v20250610", "debian-12-bookworm-v20260610")
        w.write_config(newer.replace("linux-checkout", "linux-checkout-2"), managers)
        samples = await watch(w, replaced(w, old, set(), 12))
        took = w.clock.monotonic() - began
        assert took < 60
        for zone, count in start.leasable.items():
            assert lowest(samples, zone) == count


def test_defaults_let_nothing_be_missing() -> None:
    """The setting's default is the issue's: the number to lease from does not drop."""
    assert msgspec.structs.asdict(RolloutSettings())["max_unavailable"] == 0


async def test_a_roll_out_that_the_caps_slow_down_is_no_alarm(tmp_path: Path) -> None:
    """It says in a notice why it waits, and goes on by itself; a removed template is an alarm."""
    few = DeletionSettings(permitted_count=2, permitted_share=0.0)
    async with world(tmp_path, managers=manager(minimum=4), settings=Settings(deletion=few)) as w:
        await w.until_states(cataloged=4)
        first = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))

        async def waits() -> bool:
            return len(first & set(await w.vms())) == 2 and not first & (await w.catalog()).keys()

        await w.until(waits)
        await w.pass_time(60)
        (problem,) = (await w.get("/api/status"))["problems"]
        assert (problem["severity"], problem["reason"]) == ("notice", "PacedByCap")
        assert problem["message"] == (
            "The roll-out of linux goes no faster than the caps on deletions: 2 old machines wait "
            "(2 removed). At most this many deletions may begin within 600 s: 2 removed or absent "
            "or never-cataloged (so far 2). It goes on by itself; `gce-backend lift-cap` lets it "
            "go on now."
        )
        found = (await scrape(w)).of("deletions_held")
        assert {k: v for k, v in found.items() if v} == {("rollout", "removed"): 2}
        w.write_config(template(machine_type="e2-medium"), "")
        await w.pass_time(30)
        await approve(w, (await w.get("/api/control"))["held_revision"])
        await w.pass_time(60)
        reasons = {it["reason"]: it["severity"] for it in (await w.get("/api/status"))["problems"]}
        assert reasons["DeletionCap"] == "critical"
