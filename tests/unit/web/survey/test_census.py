"""web.survey.census: only groups in which something changed are looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import Instance, Lease
from gce_backend.rules.states import explain
from gce_backend.web.survey import census
from gce_backend.web.survey.census import Census
from support.fleet_harness import manager, template, world

OTHER = "us-central1-b"


async def test_a_survey_looks_at_what_changed_and_says_what_a_look_at_all_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entity changes, a lease ends, the configuration drops a group, its machines go."""
    looked: list[Any] = []

    def watched(facts: Any) -> Any:
        looked.append(facts)
        return explain(facts)

    both = manager(minimum=3) + manager(zone=OTHER, minimum=2)
    async with world(tmp_path, managers=both) as w:
        await w.until_states(cataloged=5)
        assert w.daemon.context is not None
        context = w.daemon.context
        kept = Census(context)
        await kept.survey()
        monkeypatch.setattr(census, "explain", watched)

        async def looks() -> int:
            """How many machines a survey looked at; it says what a look at all says."""
            kept._good_until = float("-inf")
            looked.clear()
            found = await kept.survey()
            number = len(looked)
            assert found == await Census(context).survey()
            return number

        await w.pass_time(60.0)
        await looks()
        assert await looks() == 0
        machine = next(key for key in context.fleet.instances if key.zone == OTHER)
        lease = Lease(w.clock.now(), w.clock.now() + 500.0)
        leased = when_present(lambda it: replace(it, lease=lease))
        await context.fleet.change([Change[Instance](machine, leased)])
        assert await looks() == 2
        assert await looks() == 0
        w.clock.epoch += 510.0
        assert await looks() == 2
        w.write_config(template(), manager(minimum=3))
        await w.pass_time(10.0)
        assert await looks() >= 2
        await w.pass_time(300.0)
        await looks()
