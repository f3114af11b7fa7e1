"""How long a subject waits after a failure."""

from __future__ import annotations

import asyncio
import random

import pytest

from gce_backend.base.errors import OperationFailedError
from gce_backend.fleet.conditions import (
    LONGEST_DELAY,
    Conditions,
    Subject,
    error_code_reason,
    reason_of,
)
from gce_backend.model.keys import manager_key
from support.simulation import VirtualClock

JOB = "update-instance-metadata"


async def test_what_waits_for_the_same_budget_is_due_together_however_often_it_failed() -> None:
    """Due one by one, each would fail alone, and each would leave its line in the log."""
    conditions = Conditions(VirtualClock(), random.Random(1), JOB)
    for number in range(100):
        for _ in range(1 + number % 7):
            conditions.back_off(f"m{number}", "RateLimited", "used up", retry_after=35.0)
    assert {conditions.wait(f"m{number}") for number in range(100)} == {35.0}


async def test_a_budget_that_frees_call_by_call_is_not_asked_for_each() -> None:
    """The next call would be allowed at once, and the one after it not."""
    conditions = Conditions(VirtualClock(), random.Random(1), JOB)
    conditions.back_off("m", "RateLimited", "used up", retry_after=0.1)
    assert conditions.wait("m") == 10.0


async def test_machines_that_fail_within_a_while_are_due_together_whatever_they_fail_with() -> None:
    """In two moments at most, never sooner than three quarters of the pause: few runs and lines."""
    clock = VirtualClock(1000.0)
    conditions = Conditions(clock, random.Random(1), JOB)
    machines = [manager_key("linux", "abc", "zone").child(f"vm-{n}") for n in range(50)]
    for failures in range(12):
        pause = min(2.0 * 2.0**failures, LONGEST_DELAY)
        due = set()
        for machine in machines:
            conditions.back_off(machine, "NotFound", "gone")
            wait = conditions.wait(machine) or 0.0
            assert 0.75 * pause <= wait + 1e-6
            assert wait <= pause + 1e-6
            due.add(round(clock.monotonic() + wait, 6))
            await asyncio.sleep(pause / 250)
        assert len(due) <= 2


async def test_other_failures_back_off_apart_and_longer_each_time() -> None:
    """Exponentially, with jitter, up to ten minutes; never sooner than the service said."""
    conditions = Conditions(VirtualClock(), random.Random(1), JOB)
    waits = []
    for _ in range(12):
        for name in ("a", "b"):
            conditions.back_off(name, "NotFound", "gone")
        waits.append([conditions.wait(name) or 0.0 for name in ("a", "b")])
    assert all(first != second for first, second in waits)
    assert 1.5 <= min(waits[0]) <= max(waits[0]) <= 2.0
    assert 0.75 * LONGEST_DELAY <= min(waits[-1]) <= max(waits[-1]) <= LONGEST_DELAY
    conditions.back_off("a", "Unavailable", "down", retry_after=700.0)
    assert conditions.wait("a") == 700.0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("INTERNAL_ERROR", "InternalError"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "StockOut"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "StockOut"),
        ("QUOTA_EXCEEDED", "QuotaExceeded"),
        ("RESOURCE_NOT_FOUND", "NotFound"),
        ("SOMETHING_NEW", "OperationFailed"),
    ],
)
def test_each_code_of_compute_has_a_reason(code: str, reason: str) -> None:
    """Line 9: INTERNAL_ERROR is named, of an operation as of a group's VM."""
    assert error_code_reason(code) == reason
    error = OperationFailedError("compute.instances.insert", "no", codes=(code,))
    assert reason_of(error) == reason


async def test_line_08_a_wait_that_is_over_is_no_negative_time() -> None:
    """What could be tried again long ago is told without a time."""
    clock = VirtualClock(0.0)
    conditions = Conditions(clock, random.Random(1), "job")
    condition = conditions.back_off("m", "Unavailable", "down", retry_after=300.0)
    assert condition.retried(clock) == clock.now() + 300.0
    await asyncio.sleep(484.0)
    assert condition.retried(clock) is None
    assert conditions.wait("m") == 0.0


async def test_conditions_are_found_by_job_and_by_what_machines_share() -> None:
    """Whatever is set, set again with another reason, and ended: as a look at all finds them."""
    group = manager_key("linux", "abc", "us-central1-a")
    rng, conditions = random.Random(3), Conditions(VirtualClock(0.0), random.Random(1), "a")
    jobs = [conditions, conditions.of_job("b")]
    subjects: list[Subject] = [*(group.child(name) for name in "xyz"), group, "project"]
    for _ in range(300):
        view, subject = rng.choice(jobs), rng.choice(subjects)
        if rng.random() < 0.4:
            view.clear(subject)
        else:
            view.note(subject, rng.choice("RST"), "why")
        every = list(conditions)
        for number, one in enumerate(jobs):
            mine = [it for it in every if it.job == "ab"[number]]
            assert sorted(map(str, one.mine())) == sorted(map(str, mine))
        alike = [it for found in conditions.of_machines().values() for it in found.values()]
        assert sorted(map(str, [*alike, *conditions.of_others()])) == sorted(map(str, every))
        assert all(found for found in conditions.of_machines().values())
