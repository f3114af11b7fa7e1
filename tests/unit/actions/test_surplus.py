"""actions.surplus: marks no more than the caps let go, and takes a mark back from a leased one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gce_backend.settings.settings import DeletionSettings
from support.deletions import settings
from support.fleet_harness import manager, template, world


async def test_surplus_leaves_no_faster_than_the_caps_and_raises_no_alarm(tmp_path: Path) -> None:
    """What the caps do not let go stays in the catalog, and can be leased."""
    few = settings(DeletionSettings(permitted_count=2, permitted_share=0.0))
    async with world(tmp_path, managers=manager(minimum=8), settings=few) as w:
        await w.until_states(cataloged=8)
        w.write_config(template(), manager(minimum=4))

        async def begun() -> bool:
            return len(await w.vms()) == 6

        await w.until(begun, every=5.0)
        await w.pass_time(120)
        assert len(await w.vms()) == 6
        assert list((await w.catalog()).values()) == ["AVAILABLE"] * 6
        assert [row["state"] for row in (await w.get("/api/status"))["fleet"]] == ["surplus"]
        assert "DeletionCap" not in str((await w.get("/api/status"))["problems"])
        await w.until_states(cataloged=4, within=900, every=5.0)


async def test_a_lease_that_no_message_told_of_keeps_a_surplus_machine(tmp_path: Path) -> None:
    """The Machine Provider refuses to remove it, and the daemon takes its mark back."""
    async with world(tmp_path, managers=manager(minimum=4)) as w:
        await w.until_states(cataloged=4)
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        await w.until(w.is_loaded)
        await w.until_states(cataloged=4)
        request: dict[str, Any] = {"duration": 7200, "dimensions": {"os_family": "LINUX"}}
        for number in range(3):
            await w.broker("machine_provider.lease", {"request_id": f"r{number}", **request})

        async def leased() -> bool:
            return list((await w.catalog()).values()).count("LEASED") == 3

        await w.until(leased)
        held = {name for name, state in (await w.catalog()).items() if state == "LEASED"}
        w.write_config(template(), manager(minimum=2))
        await w.until_states(leased=3, within=1800, every=5.0)
        assert set(await w.vms()) == held
