"""actions.offers: the Machine Provider knows what is made on demand."""

from __future__ import annotations

from pathlib import Path

from gce_backend.actions.offers import AGAIN_SECONDS, LOOK_SECONDS, kinds_of
from support.fleet_harness import World, manager, template, world

OFFER = "machine_provider.backends.offer"


async def most(w: World) -> list[int]:
    """How many machines of each kind there are at most, as the daemon would say now."""
    assert w.daemon.context is not None
    return [kind.count for kind in await kinds_of(w.daemon.context)]


async def test_what_is_made_on_demand_is_said_when_it_changes_and_now_and_then(
    tmp_path: Path,
) -> None:
    """The maximum counts, or the minimum where there is none."""
    templates = template() + template("fixed")
    managers = manager("fixed", minimum=2)
    async with world(
        tmp_path, templates=templates, managers=managers + manager(minimum=0, maximum=5)
    ) as w:
        await w.until_states(cataloged=2)
        await w.pass_time(LOOK_SECONDS)
        assert await most(w) == [2, 5]
        assert (await w.calls())[OFFER] >= 1
        await w.reset_calls()
        await w.pass_time(AGAIN_SECONDS + LOOK_SECONDS)
        assert (await w.calls())[OFFER] == 1
        await w.reset_calls()
        w.write_config(templates, managers + manager(minimum=0, maximum=7))
        await w.pass_time(60 + LOOK_SECONDS)
        assert await most(w) == [2, 7]
        assert (await w.calls())[OFFER] == 1


async def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    """A minute later, and only until it succeeds."""
    async with world(tmp_path, managers=manager(minimum=0, maximum=5)) as w:
        await w.inject(OFFER, status=503, times=2)
        await w.until(w.has_fired)
        await w.pass_time(300)
        assert await w.fired() == 2
        assert (await w.calls())[OFFER] == 3
