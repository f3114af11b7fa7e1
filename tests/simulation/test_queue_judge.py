"""The judge of the Machine Provider's queue: what it holds against it, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from simulation.queue_judge import PATIENCE_SECONDS, TOLD_SECONDS, QueueJudge

LINUX = {"os_family": "LINUX"}


class Watched:
    """A judge, and what it found.

    Attributes:
        judge: the judge.
        found: what each broken promise is about.
        now: simulated seconds.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.now = 0.0
        fail = lambda _, text: self.found.append(text)  # noqa: E731
        self.judge = QueueJudge(fail, lambda: self.now, lambda: self.now)

    def request(
        self, name: str, state: str, host: str = "", *, restoring: bool = False, **more: Any
    ) -> None:
        """A request was stored."""
        record = {"state": state, "hostname": host, "request": {"dimensions": LINUX}, **more}
        self.judge.request_changed(name, record, restoring=restoring)

    def machine(self, host: str, state: str, lease: str = "", **more: Any) -> None:
        """A machine was stored."""
        record = {"state": state, "lease": lease, "dimensions": LINUX, **more}
        self.judge.machine_changed(host, record, restoring=False)

    def wait(self, seconds: float, *, quiet: bool = True) -> None:
        """The judge looks every 20 seconds for so long."""
        end = self.now + seconds
        while self.now < end:
            self.now += 20.0
            self.judge.look(quiet=quiet)


def _leased(world: Watched, host: str, name: str, **more: Any) -> None:
    world.request(name, "FULFILLED", host)
    world.machine(host, "LEASED", name, **more)


def _twice(world: Watched) -> None:
    _leased(world, "h", "one")
    world.request("two", "FULFILLED", "h")


def _handed_on(world: Watched) -> None:
    _leased(world, "h", "one")
    world.request("one", "FULFILLED", "h", reclaimed_ts=5)
    world.request("two", "FULFILLED", "h")
    world.machine("h", "LEASED", "two")


def _reclaimed(world: Watched) -> None:
    _leased(world, "h", "one")
    world.machine("h", "RECLAIMED")
    world.request("one", "FULFILLED", "h", reclaimed_ts=5)
    world.machine("h", "AVAILABLE")
    _leased(world, "h", "two")


def _lost(world: Watched) -> None:
    _leased(world, "h", "one")
    world.machine("h", "AVAILABLE")
    world.wait(20)


def _cancelled(world: Watched) -> None:
    world.request("one", "CANCELLED")
    _leased(world, "h", "one")


def _given_up(world: Watched) -> None:
    world.request("one", "UNTRIAGED")
    world.judge.given_up("one")
    _leased(world, "h", "one")


def _restored(world: Watched) -> None:
    _leased(world, "h", "one")
    world.request("one", "FULFILLED", "h", reclaimed_ts=5)
    world.judge.given_up("one")
    world.judge.restored()
    world.request("one", "UNTRIAGED", restoring=True)
    _leased(world, "h", "one")


def _waiting(free: str, seconds: float, *, quiet: bool = True, **more: Any) -> Any:
    def happen(world: Watched) -> None:
        world.request("one", "UNTRIAGED", count=2)
        world.machine("g", "AVAILABLE")
        world.machine("h", free, **more)
        world.wait(seconds, quiet=quiet)

    return happen


def _preempted(seconds: float, **more: Any) -> Any:
    def happen(world: Watched) -> None:
        _leased(world, "h", "one", **more)
        world.judge.preempted["h"] = world.now
        world.wait(seconds)

    return happen


LONG = PATIENCE_SECONDS + 60.0
VERY_LONG = TOLD_SECONDS + 60.0


@pytest.mark.parametrize(
    ("happens", "found"),
    [
        (_twice, "h is leased to two, and one has it"),
        (_handed_on, "h goes from one lessee to another without being reclaimed"),
        (_reclaimed, ""),
        (_lost, "one runs, and h is not leased to it"),
        (_cancelled, "one is over, and gets ('h',)"),
        (_given_up, "one was given up, and gets ('h',)"),
        (_restored, ""),
        (_waiting("AVAILABLE", LONG), "one waits for 2 machines, and 2 are free for 260 s"),
        (_waiting("AVAILABLE", 200), ""),
        (_waiting("AVAILABLE", LONG, quiet=False), ""),
        (_waiting("LEASED", LONG), ""),
        (_waiting("AVAILABLE", LONG, cordoned=True), ""),
        (_waiting("AVAILABLE", LONG, preempted_ts=3), ""),
        (_waiting("AVAILABLE", LONG, dimensions={"os_family": "OSX"}), ""),
        (_preempted(VERY_LONG), "one is not told that the VM of h is taken back"),
        (_preempted(200), ""),
        (_preempted(VERY_LONG, preempted_ts=3), ""),
        (_preempted(VERY_LONG, trouble="it stopped"), ""),
    ],
)
def test_the_queue_is_judged_by_what_is_stored(
    happens: Callable[[Watched], None], found: str
) -> None:
    """Each broken promise is found, and nothing else is."""
    world = Watched()
    happens(world)
    assert world.found[:1] == ([found] if found else [])


@pytest.mark.parametrize(
    ("announced", "before", "after", "found"),
    [
        (False, {"user": "ann"}, {"user": "bob"}, "one is bob's, and ann has not given it"),
        (True, {"user": "ann"}, {"user": "bob"}, ""),
        (
            False,
            {"lease_expiration_ts": 60},
            {"lease_expiration_ts": 60, "reclaimed_ts": 1, "ended": "EXPIRED"},
            "one ends 60 s too soon",
        ),
        (
            False,
            {"lease_expiration_ts": 60},
            {"lease_expiration_ts": 60, "reclaimed_ts": 1, "ended": "RELEASED"},
            "",
        ),
        (
            False,
            {},
            {"held": True, "held_ts": 5, "lease_expiration_ts": 9000},
            "one is held for longer than machines may be",
        ),
        (False, {}, {"held": True, "held_ts": 5, "lease_expiration_ts": 7205}, ""),
    ],
)
def test_what_a_lessee_has_stays_the_lessee_s_until_the_end_that_was_told(
    announced: bool, before: dict[str, Any], after: dict[str, Any], found: str
) -> None:
    """Transferred, extended and held as the lessees want, and not otherwise."""
    world = Watched()
    world.request("one", "FULFILLED", "h", **before)
    if announced:
        world.judge.may_have("one", "bob")
    world.request("one", "FULFILLED", "h", **after)
    assert world.found == [found] * bool(found)
