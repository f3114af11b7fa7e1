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
    return {c["subject"] for c in fleet["conditions"] if c["reason"] == "Untracked"}


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


async def test_an_incomplete_list_neither_reports_nor_forgets(tmp_path: Path) -> None:
    """A list of VMs that cannot be had leaves what was reported as it was."""
    async with world(tmp_path, settings=_watchful()) as w:
        await w.until_states(cataloged=3)
        await w.inject("compute.instances.aggregatedList", kind="unreachable", times=None)
        await w.pass_time(400.0)
        assert await w.fired() >= 2
        assert not await _untracked(w)
