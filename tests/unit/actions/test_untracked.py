"""actions.untracked: what carries our mark and has no entity is found and reported."""

from __future__ import annotations

from pathlib import Path

from gce_backend.settings.settings import FetchSettings, RolloutSettings, Settings
from support.fleet_harness import PROJECT, ZONE, World, manager, template, world

MARK = "gce-backend owner=gce-backend template=linux revision=" + "0" * 40


def _watchful() -> Settings:
    return Settings(
        fetch=FetchSettings(resync_seconds=120.0), rollout=RolloutSettings(empty_seconds=1.0)
    )


async def _untracked(w: World) -> set[str]:
    fleet = await w.get("/api/fleet")
    conditions = fleet.get("conditions", ())
    return {c["subject"] for c in conditions if c["reason"] == "Untracked"}


async def test_what_carries_our_mark_and_has_no_entity_is_found_and_reported(
    tmp_path: Path,
) -> None:
    """A VM, a group and a template of ours that the store knows nothing of (fault 40, S2)."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        properties = {
            "machineType": "e2-small",
            "labels": {"gce-backend-owner": "gce-backend"},
            "disks": [
                {
                    "boot": True,
                    "autoDelete": True,
                    "initializeParams": {
                        "sourceImage": f"projects/{PROJECT}/global/images/debian-12"
                    },
                }
            ],
            "networkInterfaces": [{"network": "global/networks/default"}],
        }
        await w.compute(
            "POST",
            "global/instanceTemplates",
            {"name": "lost-template", "description": MARK, "properties": properties},
        )
        await w.compute(
            "POST",
            f"zones/{ZONE}/instanceGroupManagers",
            {
                "name": "lost-group",
                "description": MARK,
                "baseInstanceName": "lost-vm",
                "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/lost-template",
                "targetSize": 1,
            },
        )

        async def has_vm() -> bool:
            return any(name.startswith("lost-vm") for name in await w.vms())

        await w.until(has_vm)
        lost = next(name for name in await w.vms() if name.startswith("lost-vm"))
        expected = {
            f"template {PROJECT}/lost-template",
            f"group {PROJECT}/{ZONE}/lost-group",
            f"instance {PROJECT}/{ZONE}/{lost}",
        }

        async def all_reported() -> bool:
            return await _untracked(w) == expected

        await w.until(all_reported, within=600.0, every=5.0)
        async with w.session.get(w.daemon.url + "/metrics") as response:
            text = await response.text()
        for kind in ("instance", "group", "template"):
            assert f'gce_backend_untracked{{kind="{kind}"}} 1.0' in text
        assert lost in await w.vms(), "reported only"

        await w.compute("DELETE", f"zones/{ZONE}/instanceGroupManagers/lost-group")
        await w.compute("DELETE", "global/instanceTemplates/lost-template")

        async def none_reported() -> bool:
            return not await _untracked(w)

        await w.until(none_reported, within=600.0, every=5.0)


async def test_a_vm_whose_entity_comes_late_is_never_reported_as_untracked(tmp_path: Path) -> None:
    """One look that finds VMs without entities reports nothing: a second one must agree."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        await w.reset_calls()

        async def looked() -> bool:
            return (await w.calls())["compute.instances.aggregatedList"] > 0

        await w.until(looked)
        await w.inject("compute.instanceGroupManagers.listManagedInstances", times=None)
        w.write_config(template(), manager(minimum=6))
        await w.pass_time(60.0)
        assert len(await w.vms()) == 6
        assert len(await w.machines()) == 3, "nobody could be told of the new ones"
        await w.reset_calls()
        await w.until(looked)
        assert await w.fired() > 0
        await w.clear_faults()
        for _ in range(30):
            assert not await _untracked(w)
            await w.pass_time(5.0)
        await w.until_states(cataloged=6)


async def test_vms_of_a_group_that_was_not_listed_yet_are_not_untracked(tmp_path: Path) -> None:
    """Where many rise, or lists fail, that takes longer than two looks."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        await w.inject("compute.instanceGroupManagers.listManagedInstances", times=None)
        w.write_config(template(), manager() + manager(zone="us-central1-b", minimum=2))
        await w.pass_time(400.0)
        assert len(await w.vms()) == 5
        assert len(await w.machines()) == 3
        assert not await _untracked(w)
        await w.clear_faults()
        await w.until_states(cataloged=5)


async def test_an_incomplete_list_neither_reports_nor_forgets(tmp_path: Path) -> None:
    """A list of VMs that cannot be had leaves what was reported as it was."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        await w.inject("compute.instances.aggregatedList", kind="unreachable", times=None)
        await w.pass_time(400.0)
        assert await w.fired() >= 2
        assert not await _untracked(w)


async def _leave_behind(w: World, project: str) -> set[str]:
    """What a lost store has left in a project: a template, a group, a VM; the subjects of them."""
    root = f"/compute/v1/projects/{project}"
    image = f"projects/{project}/global/images/debian-12"
    properties = {
        "machineType": "e2-small",
        "labels": {"gce-backend-owner": "gce-backend"},
        "disks": [{"boot": True, "initializeParams": {"sourceImage": image}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    body = {"name": "lost-template", "description": MARK, "properties": properties}
    answer = await w.call("POST", f"{root}/global/instanceTemplates", body)
    assert "error" not in answer, answer
    await w.pass_time(0.1)
    group = {
        "name": "lost-group",
        "description": MARK,
        "baseInstanceName": "lost-vm",
        "instanceTemplate": f"projects/{project}/global/instanceTemplates/lost-template",
        "targetSize": 0,
    }
    answer = await w.call("POST", f"{root}/zones/{ZONE}/instanceGroupManagers", group)
    assert "error" not in answer, answer
    await w.pass_time(0.1)
    path = f"{root}/zones/{ZONE}/instanceGroupManagers/lost-group/createInstances"
    await w.call("POST", path, {"instances": [{"name": "lost-vm-1"}]})
    return {
        f"template {project}/lost-template",
        f"group {project}/{ZONE}/lost-group",
        f"instance {project}/{ZONE}/lost-vm-1",
    }


async def test_hole_13_a_fresh_store_looks_through_the_projects_of_its_configuration(
    tmp_path: Path,
) -> None:
    """It has no group there yet, and will never have one: no manager is configured."""
    async with world(tmp_path, settings=_watchful(), start=False) as w:
        expected = await _leave_behind(w, PROJECT)
        w.write_config(template(), "")
        await w.start_daemon()

        async def all_reported() -> bool:
            return await _untracked(w) == expected

        await w.until(all_reported, within=900.0, every=5.0)
        await w.pass_time(300.0)
        assert await all_reported()


async def test_hole_13_a_project_that_was_named_once_is_looked_through_ever_after(
    tmp_path: Path,
) -> None:
    """The configuration has left it, its groups are gone, and the daemon was restarted."""
    former = "former-project"
    async with world(tmp_path, settings=_watchful(), start=False) as w:
        w.write_config(template() + template("old", project=former), manager())
        await w.start_daemon()
        await w.until_states(cataloged=3)
        w.write_config(template(), manager())

        async def has_left() -> bool:
            fleet = await w.get("/api/fleet")
            return [shown["base_name"] for shown in fleet["templates"]] == ["linux"]

        await w.until(has_left, within=900.0)
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        expected = await _leave_behind(w, former)

        async def all_reported() -> bool:
            return await _untracked(w) == expected

        await w.until(all_reported, within=900.0, every=5.0)


async def test_hole_13_a_project_that_refuses_spoils_only_itself(tmp_path: Path) -> None:
    """It says so, and how the daemon is made to forget it; new templates are made all the same."""
    async with world(tmp_path, settings=_watchful(), start=False) as w:
        expected = await _leave_behind(w, PROJECT)
        w.write_config(template(), "")
        for method in ("instanceGroupManagers.aggregatedList", "instanceTemplates.list"):
            refused = {"status": 403, "reason": "forbidden", "times": None}
            await w.inject(f"compute.{method}", kind="status", **refused)
        await w.start_daemon()

        async def told() -> bool:
            fleet = await w.get("/api/fleet")
            found = {
                c["subject"]: c["message"]
                for c in fleet.get("conditions", ())
                if c["reason"] == "PermissionDenied"
            }
            return (
                found.keys()
                == {f"{what} of project {PROJECT}" for what in ("instances", "templates")}
                and "StoreIdentity" in found[f"instances of project {PROJECT}"]
            )

        await w.until(told, within=300.0)
        w.write_config(template() + template("more"), "")
        await w.pass_time(120.0)
        assert (await w.calls())["compute.instanceTemplates.insert"] == 3, "one of them by hand"
        await w.clear_faults()

        async def all_reported() -> bool:
            return await _untracked(w) == expected and not await told()

        await w.until(all_reported, within=2000.0, every=5.0)


async def test_line_09_a_vm_that_its_group_has_made_again_is_not_untracked(tmp_path: Path) -> None:
    """The entity of its name is of the VM before, which somebody may still hold."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        group = next(iter(await w.groups()))
        policy = {"instanceLifecyclePolicy": {"defaultActionOnFailure": "REPAIR"}}
        path = group.replace("/", "/instanceGroupManagers/")
        await w.compute("PATCH", f"zones/{path}", policy)
        before = await w.vms()
        for name in before:
            await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")

        async def made_again() -> bool:
            found = await w.vms()
            ids = {name: vm["id"] for name, vm in found.items()}
            return ids.keys() == before.keys() and all(ids[n] != before[n]["id"] for n in before)

        await w.until(made_again)
        for _ in range(25):
            await w.pass_time(10.0)
            assert not await _untracked(w)
        await w.until_states(cataloged=3)
