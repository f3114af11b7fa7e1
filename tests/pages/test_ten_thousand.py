"""The pages with 10,000 machines: what they cost the process, and what they weigh."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gce_backend.web.survey.problems import MAX_ALIKE
from support.crowd import crowded
from support.fleet_harness import World
from support.patience import PATIENCE

PATHS = ("/", "/machines", "/machines?state=leased&page=30", "/machines?q=us-east1-b-0012")
FIXED_BYTES, BYTES_OF_A_GROUP = 70_000, 600
"""Of /metrics: below a megabyte for 100,000 machines in 1,000 groups. A machine has no series."""
PAGES = {
    "/": 80_000,
    "/machines": 130_000,
    "/machines?state=leased&page=3": 130_000,
    "/jobs": 30_000,
    "/events": 120_000,
    "/messages": 20_000,
    "/configuration": 80_000,
}
"""Bytes of pages before they are packed: they show a number of rows, whatever there is."""
API = {
    "/api/status": 50_000 + 800 * 100,
    "/api/machines?limit=100": 130_000,
    "/api/jobs": 30_000,
    "/api/events?limit=100": 80_000,
    "/api/messages": 20_000,
    "/metrics": FIXED_BYTES + BYTES_OF_A_GROUP * 100 + 30_000,
}
"""Bytes of documents: what has no limit grows with groups, of which there are 100, alone."""
PACKED_STATUS = 10_000
"""Bytes of `/api/status` on the wire, of 100 groups: of 1,000 groups, 100 kB."""
CPU_SECONDS = 0.2
"""The budget of a page, of which the browser needs a part, too; about a sixth of it is used."""


async def cost(w: World, path: str) -> tuple[float, int]:
    """CPU seconds of this process for a page, its reader's included, and its bytes on the wire."""
    start = time.process_time()
    async with w.session.get(w.daemon.url + path) as response:
        assert response.status == 200
        await response.read()
        size = int(response.headers["Content-Length"])
    return time.process_time() - start, size


async def metrics_cost(w: World) -> tuple[float, int]:
    """CPU seconds of a scrape, and its bytes before they are packed."""
    seconds, packed = await cost(w, "/metrics")
    async with w.session.get(w.daemon.url + "/metrics", headers={"Accept-Encoding": "x"}) as plain:
        size = len(await plain.read())
    assert packed < size / 5
    return seconds, size


async def test_pages_of_ten_thousand_machines_are_quick_and_small(tmp_path: Path) -> None:
    """Each in a fraction of the 200 ms that a page may take, and in some kilobytes."""
    async with crowded(tmp_path, 10_000) as w:
        assert (await w.get("/api/status"))["machines"]["leased"] == 3400
        for path in PATHS:
            await cost(w, path)  # the first one reads its template
            costs = [await cost(w, path) for _ in range(3)]
            assert min(seconds for seconds, _ in costs) < CPU_SECONDS
            assert max(size for _, size in costs) < 30_000
        costs = [await metrics_cost(w) for _ in range(3)]
        assert min(seconds for seconds, _ in costs) < CPU_SECONDS / 2
        assert max(size for _, size in costs) < FIXED_BYTES + BYTES_OF_A_GROUP * 100


async def test_pages_stay_small_when_every_machine_is_in_trouble(tmp_path: Path) -> None:
    """What machines share is told once; of many places in trouble, the first ones and a sum."""
    async with crowded(tmp_path, 2000) as w:
        assert w.daemon.context is not None
        conditions, jobs = w.daemon.context.conditions, ("a", "b", "c")
        for key in w.daemon.context.fleet.instances:
            for job in jobs:
                conditions.of_job(job).back_off(key, f"Reason{job}", f"{key.base_name} {key.zone}")
        for path, limit in {**PAGES, **API}.items():
            async with w.session.get(w.daemon.url + path, headers={"Accept-Encoding": "x"}) as it:
                assert it.status == 200
                assert len(await it.read()) < limit, path
        assert (await cost(w, "/api/status"))[1] < PACKED_STATUS
        problems = (await w.get("/api/status"))["problems"]
        alike = [one for one in problems if one["reason"] == "Reasona"]
        assert len(alike) == MAX_ALIKE + 1
        assert sum(one["count"] for one in alike) == 2000
        rest = alike[-1]
        assert rest["subject"] == "80 others"
        assert len(rest["examples"]) == 5


@pytest.mark.real_time
async def test_a_survey_is_shared_by_all_who_ask(tmp_path: Path) -> None:
    """Machines are looked at once for many readers, and again when that is some time ago."""
    async with crowded(tmp_path, 2000) as w:
        assert w.daemon.view is not None
        census = w.daemon.view.census
        first, *others = await asyncio.gather(*(census.survey() for _ in range(20)))
        assert len(first.machines) == 2000
        assert all(other is first for other in others)

        async def another() -> bool:
            return await census.survey() is not first

        await w.until(another, within=PATIENCE, every=0.05)
