"""delete-instance-group-managers: a drained group goes when it was twice found empty."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.deletions import (
    LIST_MEMBERS,
    TWO_TEMPLATES,
    settings,
    two_templates,
)
from support.fleet_harness import manager, template, world
from support.two_templates import (
    BOTH,
    LINUX_AND_WIN,
    MANAGERS,
    SHORT,
    drop,
    linux_and_win,
    up,
    vms_are,
)

SELDOM = {"import-config": "*/20 * * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
GROUPS = "compute.instanceGroupManagers"
DELETE_GROUP = "compute.instanceGroupManagers.delete"


async def test_delete_instance_group_managers(tmp_path: Path) -> None:
    """What the spec says of delete-instance-group-managers.

    "Deletes GCE instance group managers that aren't found in the
    config and have no instances created from them."
    """
    templates = template("linux", disk_size_gb=30) + template("win")
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=7)
        await w.lease(disk_gb=30)
        w.write_config(template("win"), manager("win", minimum=4))
        await w.pass_time(300)
        assert sorted(name.partition("/")[2][:3] for name in await w.groups()) == ["lin", "win"]
        await w.release()

        async def one_group() -> bool:
            return [name.partition("/")[2][:3] for name in await w.groups()] == ["win"]

        await w.until(one_group)


async def test_group_is_deleted_only_after_two_looks_some_seconds_apart(tmp_path: Path) -> None:
    """The setting's five seconds lie between the group's being empty and its end."""
    async with world(tmp_path, templates=BOTH, managers=MANAGERS) as w:
        await up(w)
        drop(w)

        async def empty() -> bool:
            groups = await w.groups()
            mine = [g for name, g in groups.items() if "/linux-" in name]
            return bool(mine) and not mine[0]["instances"]

        await w.until(empty, every=0.05)
        start = w.clock.monotonic()

        async def deleted() -> bool:
            return not any("/linux-" in name for name in await w.groups())

        await w.until(deleted, every=0.05)
        assert w.clock.monotonic() - start >= 4.9


async def test_hazard_03_members_list_that_is_empty_does_not_let_a_group_go(
    tmp_path: Path,
) -> None:
    """Fault 22: a group whose machines were never listed drains: its size speaks for them."""
    async with world(tmp_path, templates=BOTH, managers=MANAGERS, start=False) as w:
        await w.inject(f"{GROUPS}.listManagedInstances", kind="empty", times=None)
        await w.start_daemon()

        async def seven() -> bool:
            return len(await w.vms()) == 7

        await w.until(seven)
        mine = {name for name in await w.vms() if name.startswith("linux-")}
        drop(w)
        await w.pass_time(300)
        assert await w.fired()
        assert (await w.calls())[f"{GROUPS}.delete"] == 0
        assert mine <= (await w.vms()).keys()
        await w.clear_faults()
        await w.until(vms_are(w, set()), within=900)


async def test_group_listed_empty_once_keeps_its_leased_machine(tmp_path: Path) -> None:
    """Fault 22: one lying list while everything drains."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0)
        await w.inject(f"{GROUPS}.listManagedInstances", kind="empty", times=4)
        drop(w)
        await w.pass_time(300)
        assert await w.fired() == 4
        assert held in await w.vms()
        assert (await w.catalog())[held] == "LEASED"


async def test_group_that_is_named_again_while_its_deletion_is_refused_keeps_its_machines(
    tmp_path: Path,
) -> None:
    """A deletion that is repeated is decided anew: by then its machines are held."""
    async with world(tmp_path, templates=LINUX_AND_WIN, managers=linux_and_win()) as w:
        await w.until_states(cataloged=5)
        await w.inject(DELETE_GROUP, status=503, retry_after=9, times=3)
        w.write_config(template("win"), manager("win", minimum=3))
        await w.until(w.has_fired, every=0.2)
        w.write_config(LINUX_AND_WIN, linux_and_win())
        await w.until_states(cataloged=5, within=60)
        held = [await w.lease(f"r{index}", duration=100_000) for index in range(5)]
        await w.pass_time(120)
        assert set(held) <= set(await w.vms())
        await w.clear_faults()
        await w.pass_time(120)
        assert set(held) <= set(await w.vms())


async def test_hazard_03_an_empty_list_deletes_no_group_and_no_machine(tmp_path: Path) -> None:
    """Fault 22: a drained group with a leased machine lists nothing, again and again."""
    given = settings(resync_seconds=5)
    managers = two_templates()
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers, settings=given) as w:
        await w.until_states(cataloged=6)
        leased: list[str] = []
        while not any(name.startswith("other") for name in leased):
            leased.append(await w.lease(f"r{len(leased)}"))
        held = set(leased)
        await w.inject(LIST_MEMBERS, kind="empty", times=20)
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.pass_time(400)
        assert await w.fired() == 20
        assert held <= set(await w.vms())
        assert len(await w.groups()) == 2


async def test_hazard_21_a_template_without_managers_and_a_group_that_is_not_there(
    tmp_path: Path,
) -> None:
    """Neither stops a job; what does not exist is not resized."""
    templates = TWO_TEMPLATES + template("third")
    async with world(tmp_path, templates=templates, managers=two_templates(2), start=False) as w:
        forbidden = {"status": 403, "reason": "forbidden", "times": None}
        await w.inject("compute.instanceGroupManagers.insert", **forbidden)
        await w.start_daemon()
        await w.pass_time(300)
        assert await w.fired() >= 2
        assert (await w.calls())["compute.instanceGroupManagers.createInstances"] == 0
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert len(jobs) == 17
        assert all(job["runs"] > 0 and job["consecutive_failures"] == 0 for job in jobs)
        await w.clear_faults()
        await w.until_states(cataloged=4, within=900)
