"""actions.announcements: where no SUBSCRIBED comes, the catalog is asked."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, RolloutSettings, Settings
from support.fleet_harness import World, manager, template, world
from support.outside import cataloged, whole

ROLLING = Settings(deletion=DeletionSettings(permitted_count=500))
SELDOM = {"import-config": "*/10 * * * * *"}
MACHINES = 6
GET = "machine_provider.catalog.get"
GET_MANY = "machine_provider.catalog.get_machines"
PULL = "pubsub.projects.subscriptions.pull"


async def _roll(tmp_path: Path, *, subscribed: bool, get: bool = True) -> float:
    """Rolls a fleet without room for more machines; returns the seconds that it takes."""
    managers = manager(minimum=MACHINES, maximum=MACHINES)
    async with world(
        tmp_path,
        managers=managers,
        settings=ROLLING,
        crons=SELDOM,
        options=CloudOptions(),
        epoch=1_800_000_000.0,
    ) as w:
        await cataloged(w, MACHINES)
        await w.pass_time(60)
        if not subscribed:
            await w.inject(PULL, times=None)
        if not get:
            await w.inject("machine_provider.catalog.get*", status=503, times=None)
        await w.restart_daemon()
        await w.until_states(cataloged=MACHINES)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), managers)
        took = await w.until(whole(w, MACHINES, without=old), within=1500)
        await _bounded(w)
        return took


async def _bounded(w: World) -> None:
    """A question every five seconds about each new machine, at most, and few in all."""
    calls = await w.calls()
    assert calls[GET] + calls[GET_MANY] <= 20 * MACHINES


async def test_many_new_machines_are_asked_about_in_few_calls(tmp_path: Path) -> None:
    """A roll-out of a hundred machines whose SUBSCRIBED is lost."""
    settings = Settings(
        deletion=DeletionSettings(permitted_count=500), rollout=RolloutSettings(canary=0)
    )
    async with world(tmp_path, managers=manager(minimum=100), settings=settings, crons=SELDOM) as w:
        await cataloged(w, 100)
        await w.inject(PULL, times=None)
        await w.pass_time(60)
        old = set(await w.vms())
        await w.reset_calls()
        w.write_config(template(machine_type="e2-medium"), manager(minimum=100))
        took = await w.until(whole(w, 100, without=old), within=1500)
        calls = await w.calls()
        assert 0 < calls[GET_MANY] <= 40
        assert calls[GET] <= 20 * (took / 60 + 2), "only the sweep's"


async def test_line_12_a_roll_out_without_subscribed_takes_about_as_long_as_one_with_it(
    tmp_path: Path,
) -> None:
    """Each machine leaves the catalog once a new one can be leased, which the catalog says too."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    told = await _roll(tmp_path / "with", subscribed=True)
    asked = await _roll(tmp_path / "without", subscribed=False)
    assert asked <= 1.5 * told + 5, (asked, told)


async def test_line_12_where_the_catalog_cannot_be_asked_a_machine_counts_after_a_while(
    tmp_path: Path,
) -> None:
    """The roll-out goes on, slowly."""
    assert await _roll(tmp_path, subscribed=False, get=False) > 30
