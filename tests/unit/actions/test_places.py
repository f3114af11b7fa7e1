"""actions.places: which groups are counted together."""

from __future__ import annotations

from pathlib import Path

from gce_backend.actions.places import Place, groups_at, limits_at, place_of
from gce_backend.engine.context import Context
from gce_backend.model.entities import InstanceGroupManager, Pool
from support.fleet_harness import OTHER_ZONE, World, manager, template, world
from support.pools import ZONES, pool, running


def context_of(w: World) -> Context:
    """What the daemon's jobs work with."""
    assert w.daemon.context is not None
    return w.daemon.context


async def test_a_pool_is_one_place_whatever_the_revision(tmp_path: Path) -> None:
    """Each of its groups leads to all of them, those of the earlier revision too."""
    alone = template("alone"), manager("alone", OTHER_ZONE, minimum=1, maximum=2)
    managers = pool(3, 9) + alone[1]
    async with world(tmp_path, templates=template() + alone[0], managers=managers) as w:
        await w.until(lambda: running(w, 4))
        for number in range(4):  # so that the groups of the earlier revision stay
            await w.lease(f"r{number}", duration=100_000)
        w.write_config(template(machine_type="e2-medium") + alone[0], managers)
        await w.until(lambda: has_groups(w, 7))
        context = context_of(w)
        groups = list(context.fleet.managers)
        pooled = [group for group in groups if group.base_name == "linux"]
        (single,) = set(groups) - set(pooled)
        assert len(pooled) == 2 * len(ZONES)
        for group in pooled:
            place = place_of(context, group)
            assert place == Place(("linux",), ZONES)
            assert set(groups_at(context, place)) == set(pooled)
            limits = limits_at(context, place)
            assert isinstance(limits, Pool)
            assert (limits.minimum_size, limits.maximum_size) == (3, 9)
        place = place_of(context, single)
        assert place == Place(("alone",), (OTHER_ZONE,))
        assert groups_at(context, place) == [single]
        limits = limits_at(context, place)
        assert isinstance(limits, InstanceGroupManager)
        assert (limits.minimum_size, limits.maximum_size) == (1, 2)


async def test_what_the_configuration_no_longer_names_has_groups_and_no_sizes(
    tmp_path: Path,
) -> None:
    """Its groups are there until their machines are gone."""
    managers = manager(minimum=1) + manager(zone=OTHER_ZONE, minimum=1)
    async with world(tmp_path, managers=managers) as w:
        await w.until_states(cataloged=2)
        gone = next(key for key in context_of(w).fleet.managers if key.zone == OTHER_ZONE)
        await w.lease("r1", duration=100_000)
        await w.lease("r2", duration=100_000)
        w.write_config(template(), manager(minimum=1))
        await w.pass_time(60)
        place = place_of(context_of(w), gone)
        assert place == Place(("linux",), (OTHER_ZONE,))
        assert groups_at(context_of(w), place) == [gone]
        assert limits_at(context_of(w), place) is None


async def has_groups(w: World, number: int) -> bool:
    """Whether the daemon keeps so many groups."""
    return len(context_of(w).fleet.managers) == number
