"""actions.vm_looks: many are looked at by one list, few alone, and absence needs a whole list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gce_backend.actions.vm_looks import MANY, is_gone, list_operations, list_vms
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.engine.context import Context
from gce_backend.model.keys import MachineKey
from support.fleet_harness import PROJECT, ZONE, World, manager, world

LIST = "compute.instances.aggregatedList"
GET = "compute.instances.get"
LIST_OPERATIONS = "compute.zoneOperations.list"


@asynccontextmanager
async def many(tmp_path: Path) -> AsyncIterator[tuple[World, Context, list[MachineKey]]]:
    """A fleet that has settled, and as many machines as are looked at together."""
    async with world(tmp_path, managers=manager(minimum=MANY)) as w:
        await w.until_states(cataloged=MANY)
        assert w.daemon.context is not None
        context = w.daemon.context.of_job("a-trial")
        yield w, context, sorted(context.fleet.instances, key=str)


async def test_many_vms_are_one_list_with_their_metadata(tmp_path: Path) -> None:
    """What the list does not show does not exist; somebody else's VM of the name is not ours."""
    async with many(tmp_path) as (w, context, keys):
        absent = keys[0].group.child("absent")
        await w.reset_calls()
        found = await list_vms(context, [*keys, absent])
        assert (await w.calls())[LIST] == 1
        assert found.keys() == {*keys, absent}
        assert found[absent] is None
        for key in keys:
            vm = found[key]
            assert vm is not None
            assert vm.metadata.fingerprint
            assert vm.metadata.as_dict()
            assert not await is_gone(context, key, found)
            assert await is_gone(context, key, {key: None})
        assert await is_gone(context, keys[0], {keys[0]: found[keys[1]]})
        assert (await w.calls())[GET] == 0


async def test_few_vms_are_not_listed(tmp_path: Path) -> None:
    """A list of a whole project is more work for Compute than a few calls, and slower."""
    async with many(tmp_path) as (w, context, keys):
        await w.reset_calls()
        assert await list_vms(context, keys[1:]) == {}
        assert not await is_gone(context, keys[1])
        calls = await w.calls()
        assert (calls[LIST], calls[GET]) == (0, 1)


async def test_absence_from_a_list_that_is_not_whole_proves_nothing(tmp_path: Path) -> None:
    """Who is missing from it, or from a list that failed, must be asked for alone."""
    async with many(tmp_path) as (w, context, keys):
        await w.inject(LIST, kind="unreachable", times=1)
        found = await list_vms(context, keys)
        assert await w.fired() == 1
        assert all(vm is not None for vm in found.values())
        assert len(found) < len(keys)
        await w.inject(LIST, status=403, reason="forbidden", times=1)
        assert await list_vms(context, keys) == {}


async def test_many_operations_of_a_zone_are_one_list(tmp_path: Path) -> None:
    """Few are left to be read alone, and so are those that the list does not show."""
    async with many(tmp_path) as (w, context, _):
        answer = await w.compute("GET", f"zones/{ZONE}/operations?maxResults=500")
        names = [one["name"] for one in answer["items"]][:MANY]
        links = [ResourceLink(PROJECT, f"zones/{ZONE}", "operations", name) for name in names]
        unknown = ResourceLink(PROJECT, f"zones/{ZONE}", "operations", "operation-unknown")
        await w.reset_calls()
        found = await list_operations(context, [*links, unknown])
        assert found.keys() == set(links)
        assert all(found[link].name == link.name for link in links)
        assert await list_operations(context, links[1:]) == {}
        assert (await w.calls())[LIST_OPERATIONS] == 1
        await w.inject(LIST_OPERATIONS, status=403, reason="forbidden", times=1)
        assert await list_operations(context, links) == {}
