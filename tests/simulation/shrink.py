"""Makes a failing episode short: delta debugging over the events that happen in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from simulation.episode import Recipe, Result, live
from simulation.events import Event

MAX_RUNS = 60


def minimal(
    events: Sequence[Event], fails: Callable[[Sequence[Event]], bool], runs: int = MAX_RUNS
) -> list[Event]:
    """The fewest events found that still fail (ddmin).

    Args:
        events: a list that fails.
        fails: whether a list fails.
        runs: how often it may be asked.
    """
    kept, parts = list(events), 2
    while len(kept) > 1 and runs > 0:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            runs -= 1
            if rest and fails(rest):
                kept, parts = rest, max(2, parts - 1)
                break
            if runs <= 0:
                return kept
        else:
            if size == 1:
                return kept
            parts = min(len(kept), parts * 2)
    return kept


def shrunk(result: Result) -> Recipe:
    """The shortest recipe found that breaks the same promise."""
    promise = result.violations[0].promise
    given = result.recipe
    last = result.violations[0].at
    events = [event for event in given.events if event.at <= last]

    def fails(tried: Sequence[Event]) -> bool:
        again = live(msgspec.structs.replace(given, events=tuple(tried)))
        return any(violation.promise == promise for violation in again.violations)

    return msgspec.structs.replace(given, events=tuple(minimal(events, fails)))
