"""actions.deletion: a deletion is repeated until its VM is proven gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gce_backend.actions.deletion import delete
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CatalogState, Deletion, Instance, Permit
from gce_backend.model.observed import Group
from gce_backend.model.orders import Drain
from gce_backend.settings.settings import DeletionSettings
from support.deletions import (
    DELETE_INSTANCES,
    GET_MACHINE,
    LIST_MEMBERS,
    denied,
    entity,
    listed,
    metric,
    settings,
    without,
)
from support.fleet_harness import ZONE, manager, world
from support.trial import acting_alone


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 6},
        {"kind": "operation", "reason": "INTERNAL_ERROR", "times": 2},
        {"kind": "drop", "when": "after", "times": 2},
        {"kind": "drop", "when": "before", "times": 4},
        {"status": 404, "reason": "notFound", "times": 2},
    ],
    ids=["unavailable", "operation-error", "answer-lost", "call-lost", "not-found"],
)
async def test_a_deletion_is_repeated_until_the_vm_is_gone(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    """Whatever becomes of the call; when it was asked for and confirmed is recorded."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.inject(DELETE_INSTANCES, **fault)
        before = w.clock.now()
        machine = next(m for m in await w.machines() if m["name"] == name)
        with capture_logs() as logs:
            await w.release()
            await w.until_states(cataloged=3)
        assert await w.fired() == fault["times"] or fault.get("when") == "after"
        assert await w.fired() >= 1
        assert name not in await w.vms()
        gone = entity(w, name)
        assert gone is not None
        assert gone.deletion is not None
        assert gone.deletion.permit is Permit.RECLAIMED
        assert gone.deletion.confirmed is not None
        assert before <= gone.deletion.requested <= gone.deletion.asked <= gone.deletion.confirmed
        assert len(await w.vms()) == 3
        told = {
            "instance": name,
            "gce_id": machine["id"],
            "template": "linux",
            "zone": machine["zone"],
            "permit": "reclaimed",
        }
        for event in ("instance.deletion_requested", "instance.deleted"):
            lines = [line for line in logs if line["event"] == event]
            assert lines, event
            assert all(told.items() <= line.items() for line in lines), lines
        measured = "gce_backend_machine_reclaimed_to_deleted_seconds"
        assert await metric(w, f'{measured}_count{{template="linux"}}') == 1
        assert 0 < await metric(w, f"{measured}_sum") <= gone.deletion.confirmed - before + 1


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "reason": "forwarded"},
        {"kind": "html"},
        {"kind": "truncate"},
        {"status": 403, "reason": "forbidden"},
    ],
    ids=["foreign-404", "html", "truncated", "forbidden"],
)
async def test_fault_18_only_compute_s_own_404_confirms_a_deletion(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    """A list without the VM is no proof, and neither is a 404 that is not Compute's."""
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await listed(w, name)
        await w.inject(DELETE_INSTANCES, kind="operation", reason="INTERNAL_ERROR", times=None)
        await w.inject(LIST_MEMBERS, kind="answer", body=without(page, name), times=None)
        await w.inject("compute.instances.get", times=None, **answer)
        await w.release()
        for _ in range(9):
            await w.pass_time(15)
            assert not await w.is_in(name, "deleted")
        assert name in await w.vms()
        assert await w.fired() >= 3
        await w.clear_faults()
        await w.until(lambda: w.lacks(name), within=1500)
        await w.until_states(cataloged=3)


async def test_fault_18_a_list_without_the_vm_needs_a_second_look(tmp_path: Path) -> None:
    """The group's list denies a VM that Compute still has: its deletion is not confirmed."""
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await listed(w, name)
        await w.inject(DELETE_INSTANCES, kind="operation", reason="INTERNAL_ERROR", times=None)
        await w.inject(LIST_MEMBERS, kind="answer", body=without(page, name), times=None)
        await w.release()
        await w.pass_time(150)
        assert await w.fired() >= 2
        assert not await w.is_in(name, "deleted")
        await w.clear_faults()
        await w.until(lambda: w.lacks(name), within=1500)


async def test_fault_33_a_name_used_again_is_another_machine(tmp_path: Path) -> None:
    """A VM of the same name and another id gets an entity of its own, and a permit of its own."""
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await listed(w, name)
        await w.release()
        await w.until(lambda: w.is_in(name, "deleted"))
        again = next(m for m in page["managedInstances"] if m["name"] == name)
        again["id"] = "4711"
        await w.inject(LIST_MEMBERS, kind="answer", body=page, times=None)
        await w.until(lambda: w.is_in(name, "deleting"))
        new = entity(w, name)
        assert new is not None
        assert (new.gce_id, new.pending_deletion, new.lease) == (4711, None, None)
        assert new.deletion is not None
        assert new.deletion.permit in {Permit.NEVER_CATALOGED, Permit.REMOVED}
        assert await w.fired() >= 1


async def test_a_machine_marked_deleted_that_still_runs_is_deleted_again(tmp_path: Path) -> None:
    """List and get both denied a VM that was there: when its tombstone's time ends, it shows."""
    caps = DeletionSettings(tombstone_seconds=60.0, window_seconds=60.0)
    async with world(tmp_path, settings=settings(caps, resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await listed(w, name)
        await w.inject(DELETE_INSTANCES, kind="operation", reason="INTERNAL_ERROR", times=None)
        await w.inject(LIST_MEMBERS, kind="answer", body=without(page, name), times=None)
        await w.inject("compute.instances.get", status=404, reason="notFound", times=None)
        await w.release()
        await w.until(lambda: w.is_in(name, "deleted"))
        assert name in await w.vms()
        assert await w.fired() >= 3
        await w.clear_faults()
        await w.until(lambda: w.lacks(name), within=1500)
        await w.until_states(cataloged=3)


async def test_a_late_deletion_does_not_hit_the_vm_that_took_the_name(tmp_path: Path) -> None:
    """Somebody recreates a VM: the one that is gone needs no deletion, and the new one stays."""
    short = msgspec.structs.replace(
        settings(resync_seconds=5), deletion=DeletionSettings(tombstone_seconds=60.0)
    )
    async with world(tmp_path, settings=short) as w:
        await w.until_states(cataloged=3)
        name = min(await w.vms())
        group = f"zones/{ZONE}/instanceGroupManagers/{name.rpartition('-')[0]}"
        before = (await w.compute("GET", f"zones/{ZONE}/instances/{name}"))["id"]
        await w.inject(DELETE_INSTANCES, kind="late", held=1, seconds=300, times=None)
        links = [f"zones/{ZONE}/instances/{name}"]
        await w.compute("POST", f"{group}/recreateInstances", {"instances": links})

        async def is_new() -> bool:
            known = entity(w, name)
            return known is not None and str(known.gce_id) != before

        await w.until(is_new)
        await w.until_states(cataloged=3)
        after = (await w.compute("GET", f"zones/{ZONE}/instances/{name}"))["id"]
        await w.pass_time(600)
        assert (await w.compute("GET", f"zones/{ZONE}/instances/{name}")).get("id") == after
        assert (await w.states())["cataloged"] == 3


async def test_when_an_abandoned_vm_is_deleted_directly(tmp_path: Path) -> None:
    """Not while its group may still count it, nor before its next look; and the log tells it."""
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        context = await acting_alone(w)
        key = next(iter(context.fleet.instances))
        group = f"zones/{ZONE}/instanceGroupManagers/{key.name.rpartition('-')[0]}"
        links = [f"zones/{ZONE}/instances/{key.name}"]
        await w.compute("POST", f"{group}/abandonInstances", {"instances": links})

        async def is_abandoned() -> bool:
            return context.fleet.instances[key].abandoned_since is not None

        await w.until(is_abandoned)
        await denied(w)
        looks = context.memory.seen.next_abandoned_look

        async def after(abandoned: float, *, pause: float | None = None) -> tuple[int, int]:
            """The questions and the direct deletions of a run.

            Args:
                abandoned: how long ago it was abandoned; all was asked for 300 s ago.
                pause: the pause until its next look; None when it was never looked at.
            """
            now = context.clock.now()

            def doomed(instance: Instance | None) -> Instance | None:
                assert instance is not None
                return msgspec.structs.replace(
                    instance,
                    catalog=CatalogState.REMOVED,
                    abandoned_since=now - abandoned,
                    deletion=Deletion(Permit.REMOVED, now - 300, now - 300, "earlier"),
                )

            await context.fleet.change([Change(key, doomed)])
            looks.pop(key, None)
            if pause is not None:
                looks[key] = (context.clock.monotonic() + pause, pause)
            await w.reset_calls()
            await delete(context, lambda one, _: one == key)
            calls = await w.calls()
            assert calls[DELETE_INSTANCES] == 0
            return calls[GET_MACHINE], calls["compute.instances.delete"]

        assert await after(60) == (1, 0)
        assert await after(200, pause=600) == (0, 0)
        context.conditions.back_off(key.group, "NotFound", "It was not found.")
        assert await after(200) == (0, 0)
        context.conditions.clear(key.group)
        with capture_logs() as logs:
            assert await after(200, pause=5) == (1, 1)
        [told] = [line for line in logs if line["event"] == "instance.deletion_requested"]
        assert (told["instance"], told["permit"]) == (key.name, "removed")
        await w.until(lambda: w.lacks(key.name))
        assert await after(200) == (1, 0), "it is gone"


async def test_a_vm_is_named_in_a_deletion_unless_its_group_is_known_not_to_list_it(
    tmp_path: Path,
) -> None:
    """Before the first look at a group nothing is known; a group that is gone lists nothing."""
    async with world(tmp_path, managers=manager(minimum=1), settings=settings()) as w:
        await w.until_states(cataloged=1)
        context = await acting_alone(w)
        [key] = context.fleet.instances
        known, seen = context.fleet.instances[key], context.memory.seen
        await w.inject(DELETE_INSTANCES, status=403, reason="forbidden", times=None)
        await denied(w)

        found = seen.groups[key.group]
        assert key.name in found.members
        unlisted = msgspec.structs.replace(found, listed=None, members={})

        async def is_named(*, missing: bool, gone: bool, group: Group | None = None) -> bool:
            since = context.clock.now() - 20 if missing else None
            now = msgspec.structs.replace(
                known, catalog=CatalogState.REMOVED, drain=Drain("", 1.0), missing_since=since
            )
            await context.fleet.change([Change(key, lambda _: now)])
            context.conditions.clear(key.group)
            seen.groups.pop(key.group, None)
            if group is not None:
                seen.groups[key.group] = group
            seen.gone = {key.group} if gone else set()
            await w.reset_calls()
            await delete(context, lambda one, _: one == key)
            return (await w.calls())[DELETE_INSTANCES] > 0

        assert await is_named(missing=True, gone=False)
        assert not await is_named(missing=True, gone=True)
        assert await is_named(missing=False, gone=True)
        assert await is_named(missing=True, gone=False, group=found), "as a member without VM"
        assert await is_named(missing=True, gone=False, group=unlisted), "nobody has listed it"
