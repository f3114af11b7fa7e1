"""fleet.follower and the journal: the picture of a standby process is what the leader wrote."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from gce_backend.base.errors import BackendError, LeadershipLostError
from gce_backend.clients.datastore import journal, journal_reader
from gce_backend.clients.datastore.client import Datastore, Delete, Upsert
from gce_backend.clients.datastore.terms import EPOCH, Term
from gce_backend.fleet.follower import UNTOLD_SECONDS, Follower
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONTROL_KEY, Instance, InstanceGroupManager
from gce_backend.model.keys import MachineKey, manager_key
from gce_backend.model.orders import Control
from support.fleet_harness import World, world

GROUP = manager_key("linux", "abc", "us-central1-a")
MACHINES = [GROUP.child(f"vm-{number}") for number in range(6)]


class Stage:
    """Daemons on one store, without their jobs."""

    def __init__(self, w: World, datastore: Datastore) -> None:
        self.w = w
        self.datastore = datastore
        self.epoch = 0

    def follower(self) -> Follower:
        """A process that stands by."""
        return Follower(self.datastore, self._empty, clock=self.w.clock, log=structlog.get_logger())

    async def begin(self) -> Term:
        """The next term."""
        self.epoch += 1
        await self.datastore.commit([Upsert(EPOCH, {"epoch": self.epoch})])
        return Term(self.epoch)

    async def truth(self) -> dict[MachineKey, Instance]:
        """The machines in the store."""
        fleet = self._empty(Store(self.datastore))
        await fleet.load()
        return dict(fleet.instances)

    def _empty(self, store: Store) -> Fleet:
        return Fleet(store, random.Random(5), self.w.clock)


@asynccontextmanager
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A store, and no daemon at work."""
    async with world(tmp_path, start=False) as w, w.datastore() as datastore:
        yield Stage(w, datastore)


def of_gce(number: int | None) -> Change[Instance]:
    """Some machine comes, changes or goes."""
    key = MACHINES[(number or 0) % len(MACHINES)]
    return Change(key, lambda _: None if number is None else Instance(gce_id=number))


async def counted(s: Stage, follower: Follower) -> dict[str, int]:
    """Lets it catch up; returns the calls that this took."""
    await s.w.reset_calls()
    await follower.catch_up()
    return {name.rpartition(".")[2]: calls for name, calls in (await s.w.calls()).items()}


async def test_what_a_leader_writes_is_in_the_picture_of_others_whatever_becomes_of_answers(
    tmp_path: Path,
) -> None:
    """Answers are lost, commands write in between, leaders change: it is what the store holds."""
    rng = random.Random(3)
    async with stage(tmp_path) as s:
        others = [s.follower() for _ in range(2)]
        for _ in range(3):
            leader = others.pop(0)
            fleet = await leader.succeed(await s.begin())
            assert dict(fleet.instances) == await s.truth()
            others.append(s.follower())
            await others[-1].load()
            for step in range(12):
                if rng.random() < 0.3:
                    when = rng.choice(["before", "after"])
                    await s.w.inject(
                        "datastore.projects.commit", when=when, times=rng.choice([1, 7])
                    )
                changes = [of_gce(rng.choice([None, step + 1])) for _ in range(rng.randint(1, 3))]
                with contextlib.suppress(BackendError):
                    await fleet.change(changes)
                await s.w.clear_faults()
                await fleet.change([of_gce(step + 100)])
                if rng.random() < 0.5:
                    for other in others:
                        seen = await other.catch_up()
                        assert dict(seen.instances) == await s.truth()


async def test_a_quiet_second_is_one_lookup_and_a_commit_two_of_what_it_wrote(
    tmp_path: Path,
) -> None:
    """Following costs what changed. What commands write, no entry tells of: it is read in turn."""
    async with stage(tmp_path) as s:
        leader, other = s.follower(), s.follower()
        fleet = await leader.succeed(await s.begin())
        picture = await other.load()
        assert await counted(s, other) == {"lookup": 1}
        await fleet.change([Change(key, lambda _: Instance(gce_id=7)) for key in MACHINES])
        assert await counted(s, other) == {"lookup": 3}
        assert len(picture.instances) == len(MACHINES)
        hand = Fleet(Store(s.datastore))
        await hand.order([Change(CONTROL_KEY, lambda _: Control(approved_revision="r"))])
        await other.catch_up()
        assert picture.control == Control()
        await s.w.pass_time(UNTOLD_SECONDS)
        assert await counted(s, other) == {"lookup": 2}
        assert picture.control.approved_revision == "r"
        assert (other.age or 0.0) < 1.0


@pytest.mark.parametrize("why", ["no journal", "too late", "removed", "corrupt"])
async def test_what_no_entry_tells_of_any_more_is_read_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A release without a journal led; more was written than is kept; somebody spoiled it."""
    monkeypatch.setattr(journal, "KEPT", 3)
    monkeypatch.setattr(journal_reader, "MANY", 2)
    async with stage(tmp_path) as s:
        leader, other, third = s.follower(), s.follower(), s.follower()
        fleet = await leader.succeed(await s.begin())
        await other.load()
        await third.load()
        if why == "no journal":
            without = Fleet(Store(s.datastore.within(await s.begin())))
            await without.change([of_gce(1)])
        else:
            for number in range(1, 6):
                await fleet.change([of_gce(number)])
        if why == "corrupt":
            [*_, last] = await s.datastore.query(journal.KIND, keys_only=True)
            await s.datastore.commit([Upsert(last.path, {"epoch": 1, "paths": "?"})])
        if why == "removed":
            rows = await s.datastore.query(journal.KIND, keys_only=True)
            assert len(rows) == 3
            await s.datastore.commit([Delete(row.path, None) for row in rows])
        seen = await other.succeed(await s.begin())
        assert dict(seen.instances) == await s.truth() != {}
        await seen.change([of_gce(9)])
        assert dict((await third.catch_up()).instances) == await s.truth()
        strange = journal.Journal(
            3, (await journal_reader.JournalReader(s.datastore).end())[0], "KL"
        )
        later = s.datastore.within(Term(s.epoch), strange)
        await later.commit([Upsert((("K", "of a newer release"),), {})])
        await third.catch_up()
        assert await counted(s, third) == {"lookup": 1}


async def test_a_term_that_has_ended_writes_no_entry(tmp_path: Path) -> None:
    """A leader that was thought dead cannot mislead the others either."""
    async with stage(tmp_path) as s:
        fleet = await s.follower().succeed(await s.begin())
        await fleet.change([of_gce(1)])
        await s.begin()
        before = await s.datastore.query(journal.KIND, keys_only=True)
        with pytest.raises(LeadershipLostError):
            await fleet.change([Change(GROUP, lambda _: InstanceGroupManager(minimum_size=1))])
        assert await s.datastore.query(journal.KIND, keys_only=True) == before
