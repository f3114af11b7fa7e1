"""clients.datastore.leadership: who stops leading stands by, however its work hears of that."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gce_backend.base.errors import LeadershipLostError
from gce_backend.clients.datastore.leadership import Leadership
from gce_backend.clients.datastore.terms import Term
from support.fleet_harness import world


async def test_work_that_hears_of_it_in_a_group_of_tasks_ends_and_the_process_leads_again(
    tmp_path: Path,
) -> None:
    """A daemon that was frozen had ended there, with nobody on the store."""
    terms: list[Term] = []

    async def work(term: Term) -> None:
        terms.append(term)
        if len(terms) > 1:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(_refused())

    async def leads_again() -> bool:
        return len(terms) == 2

    async with world(tmp_path) as w, w.datastore() as datastore:
        leadership = Leadership(datastore, w.clock, me="one", takeover_seconds=15.0)
        running = asyncio.create_task(leadership.run(work))
        await w.until(leads_again, within=60.0)
        assert leadership.term == terms[1] != terms[0]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _refused() -> None:
    raise LeadershipLostError("this process does not lead now")
