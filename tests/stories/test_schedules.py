"""Sizes by the clock: more machines while a schedule is in force, and none too many after it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from gce_backend.cli.comparison import compare
from gce_backend.rules.plan import Action
from support.fleet_harness import manager, template, world

BEFORE = datetime.fromisoformat("2026-12-01T07:50+01:00").timestamp()
SCHEDULE = """schedules {
  days: MON days: TUE start: "08:00" end: "09:00" time_zone: "Europe/Zurich" minimum_size: 4
}"""


async def test_a_group_grows_when_its_schedule_begins_and_shrinks_when_it_ends(
    tmp_path: Path,
) -> None:
    """To the second, without anybody submitting anything; the group says what comes next."""
    managers = manager(minimum=1).replace(" }\n", f" {SCHEDULE} }}\n")
    async with world(tmp_path, managers=managers, epoch=BEFORE) as w:
        await w.until_states(cataloged=1)

        async def reason() -> str:
            return str((await w.get("/api/status"))["fleet"][0]["reason"])

        assert "At 2026-12-01 07:00 UTC, minimum_size becomes 4." in await reason()
        took = await w.until(lambda: w.has_vms(4), within=900)
        assert 0 <= w.clock.now() - (BEFORE + 600) < 15, took
        await w.until_states(cataloged=4)
        assert "At 2026-12-01 08:00 UTC, minimum_size becomes 1." in await reason()
        await w.until(lambda: w.has_vms(1), within=3700)
        assert 0 <= w.clock.now() - (BEFORE + 4200) < 15
        assert "At 2026-12-07 07:00 UTC, minimum_size becomes 4." in await reason()
        events = (await w.get("/api/events"))["events"]
        reasons = [event["reason"] for event in events]
        asked = "The configuration asks for at least 4 machines instead of at least 1 machine."
        assert asked in reasons


async def test_plan_shows_the_sizes_at_a_time(tmp_path: Path) -> None:
    """And nothing when they are those of now."""
    managers = manager(minimum=1).replace(" }\n", f" {SCHEDULE} }}\n")
    async with world(tmp_path, managers=managers, epoch=BEFORE) as w:
        await w.until_states(cataloged=1)
        directory = tmp_path / "same"
        directory.mkdir()
        (directory / "templates.cfg").write_text(template())
        (directory / "managers.cfg").write_text(managers)
        then = await compare(w.settings, directory, BEFORE + 1200)
        [step] = [group for plan in then.templates for group in plan.groups]
        assert (step.action, step.size, step.goal) == (Action.RESIZE, 1, 4)
        assert not (await compare(w.settings, directory, BEFORE)).changes
