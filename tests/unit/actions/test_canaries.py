"""actions.canaries: a revision that does not work is tried once, and the old one stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.faults import Fault
from gce_backend.settings.settings import (
    GuardSettings,
    MachineProviderSettings,
    RolloutSettings,
    Settings,
)
from support.broker_messages import about, publish
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

TWO_ZONES = manager(minimum=4) + manager(zone=OTHER_ZONE, minimum=3)
NEW = template(machine_type="e2-medium")


async def sizes(w: World, known: set[str]) -> dict[str, int]:
    """Target sizes of the groups that are new."""
    return {
        name: group["targetSize"] for name, group in (await w.groups()).items() if name not in known
    }


async def test_a_revision_that_cannot_be_made_takes_nothing_from_those_who_lease(
    tmp_path: Path,
) -> None:
    """The roll-out ends when Compute Engine can make the machines."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=7)
        old, known = set(await w.vms()), set(await w.groups())
        for zone in (ZONE, OTHER_ZONE):
            w.cloud.faults.add(Fault(kind="stockout", zone=zone, times=None))
        w.write_config(NEW, TWO_ZONES)
        most = 0
        for _ in range(60):
            await w.pass_time(10)
            most = max(most, sum((await sizes(w, known)).values()))
        assert most == 2, "a try in each zone"
        assert set(await w.vms()) == old
        assert list((await w.catalog()).values()) == ["AVAILABLE"] * 7
        assert await w.lease() in old
        w.cloud.faults.clear()
        await w.release()
        await w.until_states(cataloged=7, within=1800)
        assert not old & set(await w.vms())


async def test_a_zone_that_does_not_exist_does_not_hold_the_others_back(tmp_path: Path) -> None:
    """The canary is made where a group can be made."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=7)
        nowhere = TWO_ZONES.replace(OTHER_ZONE, "asia-east1-x").replace(
            "minimum_size: 4", "minimum_size: 5"
        )
        w.write_config(NEW, nowhere)
        await w.pass_time(900)
        here = [vm for vm in (await w.vms()).values() if vm["zone"] == ZONE]
        assert len(here) >= 5


async def test_no_canary_is_asked_for_where_there_is_nothing_to_protect(tmp_path: Path) -> None:
    """A first revision, and one whose manager keeps no machine, are made at once."""
    empty = manager(minimum=0, maximum=5, spare_size=0)
    settings = msgspec.structs.replace(Settings(), guard=GuardSettings(max_config_loss_share=1.0))
    async with world(tmp_path, managers=manager(minimum=4), settings=settings) as w:
        await w.until_states(cataloged=4)
        w.write_config(NEW, empty)
        await w.until(w.has_no_vms, within=1800)


async def test_template_and_setting_say_how_many(tmp_path: Path) -> None:
    """The template's own number comes first, and makes no other revision when it changes."""
    settings = msgspec.structs.replace(Settings(), rollout=RolloutSettings(canary=0))
    async with world(tmp_path, managers=manager(minimum=4), settings=settings) as w:
        await w.until_states(cataloged=4)
        known = set(await w.groups())
        w.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=None))

        async def grown(size: int) -> bool:
            return list((await sizes(w, known)).values()) == [size]

        for text, size in ((template(machine_type="e2-medium", canary=2), 2), (NEW, 4)):
            w.write_config(text, manager(minimum=4))
            await w.until(partial(grown, size))
            await w.pass_time(120)
            assert await grown(size)
        assert list((await w.catalog()).values()) == ["AVAILABLE"] * 4


@pytest.mark.parametrize("kept", ["leased", "cordoned"])
async def test_a_machine_that_stays_out_of_the_catalog_takes_no_canary_s_place(
    tmp_path: Path, kept: str
) -> None:
    """An earlier revision comes back, and has one left: the roll-out goes on all the same.

    Somebody holds it and the catalog denies it, or an operator keeps it.
    """
    settings = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=60))
    async with world(tmp_path, managers=manager(minimum=3), settings=settings) as w:
        await w.until_states(cataloged=3)
        machine = (await w.machines())[0]
        name = machine["name"]
        if kept == "leased":
            ends = str(int(w.clock.now()) + 24 * 3600)
            await publish(w, about(machine, "LEASED", lease_expiration_ts=ends))
            await w.until(lambda: w.is_in(name, "leased"))
            await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
            await w.pass_time(130)
        else:
            assert await w.act("/api/cordon", {"name": name, "reason": "odd"}) == 200
        await w.until(lambda: w.is_in(name, kept))
        w.write_config(NEW, manager(minimum=3))
        await w.until(partial(w.has_vms, 4), within=1800)
        between = set(await w.vms()) - {name}
        w.write_config(template(), manager(minimum=3))
        await w.until(lambda: _are_gone(w, between), within=1800)
        await w.until_states(**{"cataloged": 2, kept: 1}, within=1800)


async def _are_gone(w: World, names: set[str]) -> bool:
    return not names & set(await w.vms())
