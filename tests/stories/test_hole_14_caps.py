"""Hole 14: the caps hold for all processes and restarts together, and for a fleet of ten (S5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from gce_backend.model.entities import DELETION_WINDOW_KEY, DeletionWindow, Permit
from gce_backend.rules.deletion_caps import used
from gce_backend.settings.settings import DeletionSettings, StoreSettings
from support.crashing import OneBlow
from support.deletions import denied, held, lease_all, release_all, settings
from support.fleet_harness import World, manager, template, world
from support.others import replica, somebody_else

FOUR = DeletionSettings(
    reclaimed_count=4, reclaimed_share=0.0, permitted_count=4, permitted_share=0.0
)
RELEASE = "machine_provider.batched_release"


async def _gone(w: World, names: set[str]) -> int:
    return len(names - set(await w.vms()))


async def _approve_held(w: World) -> None:
    async def is_held() -> bool:
        return (await w.get("/api/control"))["held_revision"] is not None

    await w.until(is_held)
    revision = (await w.get("/api/control"))["held_revision"]
    assert await w.act("/api/approve", {"revision": revision}) == 200


async def test_hole_14_two_daemons_and_their_restarts_share_one_cap(tmp_path: Path) -> None:
    """A cap of four: two daemons took five, restarts seven. It is four, whoever asks."""
    async with world(tmp_path, managers=manager(minimum=12), settings=settings(FOUR)) as w:
        await w.until_states(cataloged=12)
        names = set(await lease_all(w, 12))
        async with replica(w):
            await release_all(w, 12)
            for _ in range(3):
                await w.pass_time(70)
                assert await _gone(w, names) <= 4
                await w.restart_daemon()
            assert await _gone(w, names) == 4
        await w.pass_time(5)
        assert "8 deletions are held back (8 reclaimed)" in (await held(w))[0]


async def test_hole_14_a_leader_that_hands_over_hands_over_what_it_has_begun(
    tmp_path: Path,
) -> None:
    """Killed or stopped, several leaders within a window share the cap: four machines go in all."""
    given = msgspec.structs.replace(settings(FOUR), store=StoreSettings(leader_election=True))
    async with world(tmp_path, managers=manager(minimum=6), settings=given) as w:
        await w.until_states(cataloged=6)
        names = set(await lease_all(w, 6))
        await release_all(w, 6)

        async def has_begun() -> bool:
            return await _gone(w, names) > 0

        await w.until(has_begun)
        for kind in ("killed", "stopped"):
            async with replica(w) as second:
                await w.pass_time(5)
                await (w.daemon.abort() if kind == "killed" else w.daemon.stop())
                w.daemon = second
                await w.until(w.is_loaded)
                await w.pass_time(70)
                assert await _gone(w, names) == 4
                (message,) = await held(w)
                assert message.startswith("2 deletions are held back (2 reclaimed).")
            await w.start_daemon()
            await w.until(w.is_loaded)


async def test_hole_14_tombstones_that_are_forgotten_are_counted_all_the_same(
    tmp_path: Path,
) -> None:
    """The caps count what they stored, not what is left of the machines."""
    one = DeletionSettings(
        tombstone_seconds=5.0, window_seconds=400.0, reclaimed_count=1, reclaimed_share=0.0
    )
    async with world(tmp_path, settings=settings(one)) as w:
        await w.until_states(cataloged=3)
        first, second = await lease_all(w, 2)
        await w.broker(RELEASE, {"requests": [{"request_id": "r0"}]})
        await w.until(lambda: w.lacks(first))
        await w.broker(RELEASE, {"requests": [{"request_id": "r1"}]})
        await w.pass_time(250)
        assert second in await w.vms()
        await w.until(lambda: w.lacks(second), within=300)


async def test_hole_14_a_fleet_of_ten_keeps_half_whatever_asks(tmp_path: Path) -> None:
    """An empty configuration, approved by mistake: half is left, and an alarm says so."""
    async with world(tmp_path, managers=manager(minimum=10), settings=settings()) as w:
        await w.until_states(cataloged=10)
        names = set(await w.vms())
        w.write_config(template(), "")
        await _approve_held(w)
        await w.pass_time(590)
        assert await _gone(w, names) == 5
        (message,) = await held(w)
        assert message.startswith("5 deletions are held back (5 removed). At most this many ")
        assert "within 600 s: 5 removed or absent or never-cataloged (so far 5)." in message
        assert (await w.get("/api/control"))["deletions_held"] == {"removed": 5}
        w.write_config(template(), manager(minimum=10))
        await w.until_states(cataloged=10)
        assert await _gone(w, names) == 5, "the rest came back as they are"


async def test_hole_14_a_machine_provider_that_forgets_a_fleet_of_ten_takes_two(
    tmp_path: Path,
) -> None:
    """Max(10, 5 %) was a whole fleet of ten."""
    async with world(tmp_path, managers=manager(minimum=10), settings=settings()) as w:
        await w.until_states(cataloged=10)
        names = set(await w.vms())
        await denied(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=10))
        await w.pass_time(590)
        assert await _gone(w, names) <= 2
        assert "absent" in (await held(w))[0]


async def test_hole_14_a_fleet_that_is_given_back_at_once_is_no_loss(tmp_path: Path) -> None:
    """Forty leases end together: all go at once, and no cap of the others is touched."""
    async with world(tmp_path, managers=manager(minimum=40), settings=settings()) as w:
        await w.until_states(cataloged=40)
        names = set(await lease_all(w, 40))
        await release_all(w, 40)

        async def gone() -> bool:
            return await _gone(w, names) == 40

        await w.until(gone, within=120)
        assert await held(w) == []
        async with somebody_else(w) as fleet:
            window = fleet.get(DELETION_WINDOW_KEY)
        assert isinstance(window, DeletionWindow)
        assert used(window.begun) == {Permit.RECLAIMED: 40}


@pytest.mark.parametrize("at", range(1, 13))
async def test_hole_14_a_crash_at_any_call_of_a_deletion_frees_nothing(
    tmp_path: Path, at: int
) -> None:
    """Whichever call was the daemon's last, and lost its answer: four go, neither more nor fewer.

    Of two machines that are reclaimed later, none goes in that window.
    """
    async with world(tmp_path, managers=manager(minimum=6), settings=settings(FOUR)) as w:
        await w.until_states(cataloged=6)
        names = set(await lease_all(w, 6))
        await w.pass_time(5)
        w.cloud.faults = faults = OneBlow(at, "after", only="!", deadly=True)
        await release_all(w, 6)
        await asyncio.wait_for(faults.struck.wait(), 120)
        await w.crash_daemon()
        faults.dead = False
        await w.start_daemon()
        await w.pass_time(300)
        assert await w.fired() == 1
        assert await _gone(w, names) == 4
        assert len(await held(w)) == 1
