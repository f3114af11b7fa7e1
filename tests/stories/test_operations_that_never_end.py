"""Operations that never end, or are forgotten: the resource itself decides (fault 17)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import OTHER_ZONE, World, manager, template, world

SELDOM = {"import-config": "*/10 * * * * *"}
GROUPS = "compute.instanceGroupManagers"
TEMPLATES = "compute.instanceTemplates"
BOTH = manager() + manager(zone=OTHER_ZONE)
OTHER = template(machine_type="e2-medium")
CHANGES: dict[str, tuple[str, str, int, int]] = {
    f"{TEMPLATES}.insert": (OTHER, manager(), 3, 1),
    f"{TEMPLATES}.delete": (OTHER, manager(), 3, 1),
    f"{GROUPS}.insert": (template(), BOTH, 6, 2),
    f"{GROUPS}.delete": (OTHER, manager(), 3, 1),
    f"{GROUPS}.createInstances": (template(), manager(minimum=5), 5, 1),
}
"""What makes the daemon call each method: templates.cfg, managers.cfg; then machines, groups."""


async def _is_pending(w: World) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(found["reason"] == "OperationPending" for found in problems)


async def _has_arrived(w: World, machines: int, groups: int, without: set[str]) -> bool:
    state: dict[str, Any] = (await w.cloud_state())["compute"]["projects"]["local-project"]
    free = list((await w.catalog()).values()).count("AVAILABLE")
    # What an operation holds that never ends is there as well, and not made.
    made = len(state["instanceTemplates"]) >= 1 and len(state["groups"]) >= groups
    there = free == machines == len(state["instances"])
    return made and there and not without & state["instances"].keys()


@pytest.mark.parametrize("method", CHANGES)
async def test_hole_17_an_operation_that_never_ends_is_told_and_given_up_after_a_look(
    tmp_path: Path, method: str
) -> None:
    """A few calls in ten minutes; then the resource is looked at, and made under another name.

    A deletion that never ends holds its resource as long; nothing else waits for it.
    """
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await w.until_states(cataloged=3)
        await w.inject(method, kind="endless", times=1)
        templates, managers, machines, groups = CHANGES[method]
        old = set(await w.vms()) if templates == OTHER else set()
        w.write_config(templates, managers)
        await w.until(w.has_fired)
        await w.pass_time(90)
        # The members of a growth are looked at each time: whether its operation ends is no matter.
        assert await _is_pending(w) is not method.endswith("createInstances")
        await w.reset_calls()
        await w.pass_time(400)
        assert (await w.calls())[method] <= 5
        if method.endswith(".delete"):
            await w.pass_time(1200)
            assert (await w.calls())[method] <= 20
            assert list((await w.catalog()).values()).count("AVAILABLE") == machines
            return
        await w.until(lambda: _has_arrived(w, machines, groups, old), within=900)
        await w.pass_time(120)
        assert not await _is_pending(w)


@pytest.mark.parametrize("method", [method for method in CHANGES if method.startswith(GROUPS)])
async def test_hole_17_operations_that_are_not_known_for_ever_end_by_looking_at_the_resource(
    tmp_path: Path, method: str
) -> None:
    """A 404 of an operation is none of what it changed: nothing is forgotten, nothing doubled."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await w.until_states(cataloged=3)
        await w.inject("compute.zoneOperations.*", status=404, reason="notFound", times=None)
        templates, managers, machines, groups = CHANGES[method]
        old = set(await w.vms()) if templates == OTHER else set()
        w.write_config(templates, managers)
        await w.until(lambda: _has_arrived(w, machines, groups, old), within=1500)
        assert await w.fired()
