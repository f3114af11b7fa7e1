"""Fault 28: a configuration that takes most of the fleet away waits for an operator's word."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.settings.settings import ConfigSettings
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

TWO_ZONES = manager(minimum=2) + manager(zone=OTHER_ZONE, minimum=2)
OTHER_TEMPLATE = template("other")


async def held(w: World) -> dict[str, Any] | None:
    """The condition that holds a configuration, as /api/fleet shows it."""
    shown = (await w.get("/api/fleet")).get("configuration", {})  # nothing while it starts
    conditions = shown.get("conditions", ())
    return next((c for c in conditions if c["reason"] == "HeldForApproval"), None)


async def is_held(w: World) -> bool:
    """Whether a configuration is held."""
    return await held(w) is not None


async def is_free(w: World) -> bool:
    """Whether none is."""
    return await held(w) is None


async def metric(w: World) -> float:
    """The metric that an alert watches."""
    async with w.session.get(f"{w.daemon.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(
        next(line for line in lines if "config_held" in line and line[0] != "#").split()[1]
    )


async def assert_nothing_happens(w: World, seconds: float = 300.0) -> None:
    """The fleet is as it was, for as long as nobody says a word."""
    vms, catalog = await w.vms(), await w.catalog()
    await w.reset_calls()
    await w.pass_time(seconds)
    assert (await w.vms(), await w.catalog()) == (vms, catalog)
    calls = await w.calls()
    assert calls["machine_provider.catalog.delete_machine"] == 0
    assert calls["compute.instanceGroupManagers.deleteInstances"] == 0


@pytest.mark.parametrize(
    ("templates", "managers"),
    [
        pytest.param(template(), "", id="no managers"),
        pytest.param("", "", id="nothing at all"),
        pytest.param(template(), manager(minimum=1), id="three of four gone"),
        pytest.param(
            OTHER_TEMPLATE, manager("other", minimum=4), id="as many, but none of the old ones"
        ),
    ],
)
async def test_what_takes_most_away_is_held_until_it_is_approved(
    tmp_path: Path, templates: str, managers: str
) -> None:
    """Reason and remedy are shown, the metric is up, nothing drains; afterwards all of it does."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(templates, managers)
        await w.until(lambda: is_held(w))
        await assert_nothing_happens(w)
        found = await held(w)
        assert found is not None
        revision = found["message"].split()[1]
        assert f"gce-backend approve {revision}" in found["message"]
        assert "of 4 machines" in found["message"]
        assert await metric(w) == 1
        assert await w.act("/api/approve", {"revision": revision}) == 200

        async def drained() -> bool:
            return len(old & (await w.vms()).keys()) == (2 if "minimum_size: 1" in managers else 0)

        await w.until(drained)
        assert await is_free(w)
        assert await metric(w) == 0


async def test_half_of_the_fleet_may_go_without_a_word(tmp_path: Path) -> None:
    """The setting's default share: one zone of two."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), manager(minimum=2))
        await w.until_states(cataloged=2)
        assert {vm["zone"] for vm in (await w.vms()).values()} == {ZONE}
        assert await is_free(w)


async def test_new_revision_of_the_whole_fleet_is_no_loss(tmp_path: Path) -> None:
    """Every machine is replaced, and none is taken away: nobody needs to be asked."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), TWO_ZONES)

        async def rolled() -> bool:
            return not old & (await w.vms()).keys()

        await w.until(rolled)
        assert await is_free(w)


async def test_restart_does_not_let_a_held_configuration_in(tmp_path: Path) -> None:
    """The last good one is stored; the held one is held again."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), "")
        await w.until(lambda: is_held(w))
        await w.restart_daemon()
        await w.until(lambda: is_held(w))
        await assert_nothing_happens(w)
        await w.until_states(cataloged=4)


async def test_configuration_that_is_taken_back_is_not_held_any_more(tmp_path: Path) -> None:
    """The condition and the metric end with the mistake."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), "")
        await w.until(lambda: is_held(w))
        w.write_config(template(), TWO_ZONES)
        await w.until(lambda: is_free(w))
        assert await metric(w) == 0
        await assert_nothing_happens(w, 60.0)


async def test_file_that_is_missing_or_cut_is_no_configuration(tmp_path: Path) -> None:
    """An absent managers.cfg says nothing, and half a file is invalid: the last good one stays."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        path = w.config_dir / "managers.cfg"
        path.unlink()
        await assert_nothing_happens(w, 120.0)
        path.write_text(TWO_ZONES[: len(TWO_ZONES) // 4])
        await assert_nothing_happens(w, 120.0)
        path.write_text(TWO_ZONES)
        await assert_nothing_happens(w, 60.0)
        assert await is_free(w)


async def test_files_of_two_revisions_are_never_mixed(tmp_path: Path) -> None:
    """LUCI Config v2: whoever writes between the two readings is waited for, not half believed."""
    # Mixed, the new template would be without managers, and the old manager without a template.
    async with world(tmp_path, managers=TWO_ZONES, start=False) as w:
        source = ConfigSettings(source="luci-v2")
        w.settings = msgspec.structs.replace(w.settings, config=source)
        await w.start_daemon()
        await w.until_states(cataloged=4)
        await w.inject("luci_config.Configs.GetConfig", kind="latency", seconds=1.0, times=None)

        async def keep_writing() -> None:
            for number in range(240):
                templates = template() + template("other") * (number % 2)
                managers = TWO_ZONES + manager("other", minimum=1) * (number % 2)
                w.write_config(f"# {number}\n{templates}", f"# {number}\n{managers}")
                await asyncio.sleep(0.5)

        writing = asyncio.create_task(keep_writing())
        await assert_nothing_happens(w, 110.0)
        assert await w.fired() > 4
        conditions = (await w.get("/api/fleet"))["configuration"]["conditions"]
        assert "InvalidConfiguration" not in {c["reason"] for c in conditions}
        await writing
        w.write_config(template() + template("other"), TWO_ZONES + manager("other", minimum=1))
        await w.until_states(cataloged=5)
