"""What jobs look at: what changed, however many machines there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.contextvars import get_contextvars

from gce_backend.actions import stopped_vms
from gce_backend.fleet.picture import _Picture
from gce_backend.model.entities import Instance
from gce_backend.rules.cataloging import PHANTOM_LOOK_SECONDS
from gce_backend.settings.settings import Settings
from support.broker_messages import settled
from support.fleet_harness import World, manager, template, world

OF_A_GROUP = 10
DELETED = 60
"""Machines that are deleted before the looks are counted a second time."""
MINUTES = 3
OLDEST = 4
"""Looks at the oldest machine of a group in a minute: it may have to be replaced for its age."""
PRODUCTION = {"import-config": "* * * * *"}


class Watched(_Picture):
    """The entities of a kind, and how often jobs have looked at one."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        """Counts a look at each."""
        self._count(len(self))
        return super().__iter__()

    def items(self) -> Any:
        """Counts a look at each."""
        self._count(len(self))
        return super().items()

    def values(self) -> Any:
        """Counts a look at each."""
        self._count(len(self))
        return super().values()

    def __getitem__(self, key: Any) -> Any:
        """Counts one look."""
        self._count(1)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """Counts one look."""
        self._count(1)
        return super().get(key, default)

    def _count(self, number: int) -> None:
        if "job" in get_contextvars():  # pages look at what they show
            self.looks += number


def _watch(w: World) -> Watched:
    assert w.daemon.context is not None
    fleet = w.daemon.context.fleet
    watched = Watched(fleet.instances)
    fleet._pictures[Instance.KIND] = watched
    fleet.instances = watched
    return watched


async def _looks(path: Path, groups: int) -> tuple[int, int]:
    """Looks at machines in quiet minutes, and while one is leased, returned and replaced.

    Args:
        groups: how many there are, each of the same size; none is listed without a reason.
    """
    settings = Settings()
    settings = replace(
        settings,
        fetch=replace(settings.fetch, resync_seconds=1e6),
        machine_provider=replace(settings.machine_provider, sweep_per_minute=1),
    )
    names = [f"t{number}" for number in range(groups)]
    async with world(
        path,
        templates="".join(template(name) for name in names),
        managers="".join(
            manager(name, minimum=OF_A_GROUP, max_age_seconds=86_400) for name in names
        ),
        settings=settings,
        crons=PRODUCTION,
    ) as w:
        await w.until_states(cataloged=groups * OF_A_GROUP)
        await settled(w)
        await w.pass_time(200)
        watched = _watch(w)
        await w.pass_time(60 * MINUTES)
        quiet, watched.looks = watched.looks, 0
        order = {"duration": 3600, "dimensions": {"os_family": "LINUX"}}
        await w.broker("machine_provider.lease", {"request_id": "r1", **order})
        await w.pass_time(10)
        await w.broker("machine_provider.release", {"request_id": "r1"})
        await w.pass_time(20)
        return quiet, watched.looks


async def test_jobs_look_at_what_changed_however_many_machines_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With four times as many machines, neither quiet minutes nor a lease make jobs look more.

    Except for a page of VMs, which are compared with their list once a minute: here none is so few.
    """
    monkeypatch.setattr(stopped_vms, "PAGE", 0)
    few_quiet, few_busy = await _looks(tmp_path, 1)
    many_quiet, many_busy = await _looks(tmp_path, 4)
    assert many_quiet <= few_quiet + OF_A_GROUP + 3 * OLDEST * MINUTES, (few_quiet, many_quiet)
    assert many_busy <= few_busy + 3 * OF_A_GROUP + 6 * OLDEST, (few_busy, many_busy)


async def test_jobs_do_not_look_at_the_machines_that_are_deleted(tmp_path: Path) -> None:
    """Their entities stay for an hour: under leases without pause these are far more than live."""
    settings = Settings()
    settings = replace(settings, fetch=replace(settings.fetch, resync_seconds=1e6))
    async with world(
        tmp_path,
        templates=template("t"),
        managers=manager("t", minimum=OF_A_GROUP),
        settings=settings,
        crons=PRODUCTION,
    ) as w:
        await w.until_states(cataloged=OF_A_GROUP)
        await settled(w)
        watched, numbers = _watch(w), count()

        async def lease(machines: int) -> int:
            """Leases, returns and replaces so many; gives the looks until a while after that."""
            watched.looks = 0
            names = [f"r{number}" for number in islice(numbers, machines)]
            for name in names:
                order = {"duration": 3600, "dimensions": {"os_family": "LINUX"}}
                await w.broker("machine_provider.lease", {"request_id": name, **order})
            await w.pass_time(5)
            for name in names:
                await w.broker("machine_provider.release", {"request_id": name})
            await w.pass_time(60 * MINUTES)
            return watched.looks

        await lease(1)
        first = await lease(1)
        for _ in range(DELETED // OF_A_GROUP):
            await lease(OF_A_GROUP)
        await w.pass_time(PHANTOM_LOOK_SECONDS[-1] + 60 * MINUTES)  # nothing is due of them
        last = await lease(1)
        assert len(watched) >= OF_A_GROUP + DELETED
        assert last <= first + 3 * OF_A_GROUP < first + DELETED, (first, last)
