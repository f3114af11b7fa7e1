"""A peer's nonsense spoils no more than the thing it is about, and ends no task of the daemon."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

GROUPS = "compute.instanceGroupManagers.aggregatedList"
MEMBERS = "compute.instanceGroupManagers.listManagedInstances"
SHOWN = ("/", "/machines", "/jobs", "/metrics", "/healthz", "/api/status", "/api/fleet")
Spoil = Callable[[Any], None]


def _group(answer: Any) -> dict[str, Any]:
    group: dict[str, Any] = answer["items"][f"zones/{ZONE}"]["instanceGroupManagers"][0]
    return group


def _size(number: object) -> Spoil:
    return lambda answer: _group(answer).update(targetSize=number)


def _link(text: object) -> Spoil:
    return lambda answer: answer["managedInstances"][0].update(instance=text)


SPOILED: list[tuple[str, Spoil]] = [
    (GROUPS, _size(2**63)),
    (GROUPS, _size(-(2**40))),
    (MEMBERS, _link("https://[x/")),
    (MEMBERS, _link("//")),
    (MEMBERS, _link("x" * 5000)),
    (MEMBERS, lambda answer: answer["managedInstances"][0].update(id="9" * 400)),
    (MEMBERS, lambda answer: answer["managedInstances"][0].update(currentAction="\0")),
]


async def test_line_03_nonsense_about_one_group_leaves_the_other_alone(tmp_path: Path) -> None:
    """Every page and document is answered, and the other zone's group grows."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=1)
    async with world(tmp_path, managers=both) as w:
        await w.until_states(cataloged=4)
        name = next(path for path in await w.groups() if path.startswith(ZONE)).split("/")[1]
        members = f"zones/{ZONE}/instanceGroupManagers/{name}/listManagedInstances"
        for size, (method, spoil) in enumerate(SPOILED, 2):
            if method == GROUPS:
                answer = await w.compute("GET", "aggregated/instanceGroupManagers")
                spoil(answer)
                await w.inject(method, kind="answer", body=answer, times=3)
            else:
                answer = await w.compute("POST", members)
                spoil(answer)
                await w.inject(method, kind="answer", body=answer, times=None, zone=ZONE)
            both = manager(minimum=size + 1) + manager(zone=OTHER_ZONE, minimum=size)
            w.write_config(template(), both)
            await w.until(partial(_has, w, OTHER_ZONE, size))
            assert await w.fired() > 0
            await _is_shown(w)
            await w.clear_faults()
        await w.until_states(cataloged=2 * size + 1)


async def _has(w: World, zone: str, number: int) -> bool:
    """Whether so many machines of a zone can be leased."""
    found = [one for one in await w.machines() if one["zone"] == zone]
    return len([one for one in found if one["state"] == "cataloged"]) == number


async def _is_shown(w: World) -> None:
    """Every page and document is answered."""
    for path in SHOWN:
        async with w.session.get(w.daemon.url + path) as response:
            assert response.status == 200, path


NONSENSE: list[tuple[str, Any]] = [
    ("datastore.projects.runQuery", {"batch": {"entityResults": [{"version": "9" * 400}]}}),
    ("datastore.projects.lookup", {"found": [{"entity": {"key": {"path": [{}]}}}]}),
    ("datastore.projects.commit", {"mutationResults": [{"version": "9" * 400}] * 9}),
    ("pubsub.projects.subscriptions.pull", {"receivedMessages": [{"message": {"data": "é"}}]}),
    ("cloudresourcemanager.projects.testIamPermissions", {"permissions": [5]}),
    ("machine_provider.catalog.get", {"dimensions": {"hostname": 5}}),
    ("machine_provider.catalog.add_machines", {"responses": [None]}),
    ("*", {"a": [[[[]]]]}),
    ("*", []),
    ("*", None),
]


async def test_line_03_a_service_that_answers_nonsense_ends_no_task(tmp_path: Path) -> None:
    """For minutes its answers are nonsense; then the fleet is as the configuration says."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        held = await w.lease()
        await w.broker("machine_provider.release", {"request_id": "r1"})
        for method, body in NONSENSE:
            await w.inject(method, kind="answer", body=body, times=None)
            await w.pass_time(70.0)
            await _is_shown(w)
            await w.clear_faults()
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=4, within=1800.0)
        assert held not in await w.vms()
