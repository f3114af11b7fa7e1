"""A condition lives as long as its subject is its job's business."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.engine.context import Context
from gce_backend.settings.settings import Settings
from support.fleet_harness import OTHER_ZONE, World, manager, template, world

INSERT = "compute.instanceTemplates.insert"


def _context(w: World) -> Context:
    assert w.daemon.context is not None
    return w.daemon.context


def _subjects(w: World) -> set[str]:
    return {str(condition.subject) for condition in _context(w).conditions}


async def _problems(w: World) -> list[str]:
    return [problem["subject"] for problem in (await w.get("/api/status"))["problems"]]


async def test_line_08_template_that_failed_and_was_taken_back_is_no_problem_any_more(
    tmp_path: Path,
) -> None:
    """Nobody tries to create it again: its failure ends with it."""
    both = template() + template("other"), manager() + manager("other", minimum=1)
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject(INSERT, status=400, times=None)
        w.write_config(*both)
        await w.pass_time(120)
        assert await _problems(w)
        assert any("other" in subject for subject in _subjects(w))
        w.write_config(template(), manager())
        await w.pass_time(180)
        assert not _subjects(w)
        assert not await _problems(w)


async def test_line_08_zone_that_was_mistyped_and_mended_is_no_problem_any_more(
    tmp_path: Path,
) -> None:
    """The group in it was never made, and is not asked for any more."""
    async with world(tmp_path, managers=manager() + manager(zone="us-central1-typo")) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(60)
        assert any("us-central1-typo" in subject for subject in _subjects(w))
        w.write_config(template(), manager() + manager(zone=OTHER_ZONE))
        await w.until_states(cataloged=6)
        await w.pass_time(1200)
        assert not _subjects(w)


async def test_line_08_conditions_and_memory_stay_flat_while_machines_are_replaced(
    tmp_path: Path,
) -> None:
    """Each machine has failed in its life; nothing is left of it."""
    settings = Settings()
    deletion = msgspec.structs.replace(
        settings.deletion, reclaimed_count=10_000, tombstone_seconds=60.0, window_seconds=60.0
    )
    settings = msgspec.structs.replace(settings, deletion=deletion)
    async with world(tmp_path, managers=manager(minimum=8), settings=settings) as w:
        await w.inject("compute.instances.setMetadata", status=403, times=None)
        await w.until_states(cataloged=8)
        sizes = []
        for life in range(3):
            await w.pass_time(60)
            assert len(_subjects(w)) >= 8
            for number in range(8):
                request = {
                    "request_id": f"{life}-{number}",
                    "duration": 3600,
                    "dimensions": {"os_family": "LINUX"},
                }
                await w.broker("machine_provider.lease", request)
            await w.until_states(leased=8)
            for number in range(8):
                await w.release(f"{life}-{number}")
            await w.until_states(cataloged=8)
            await w.pass_time(300)
            memory = _context(w).memory
            sizes.append(
                (
                    len(_subjects(w)),
                    len(memory.deletions.tombstones),
                    len(memory.operations),
                    len(memory.catalog.unannounced),
                )
            )
        assert max(sizes[1:]) <= sizes[0], sizes
