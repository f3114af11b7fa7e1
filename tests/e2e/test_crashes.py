"""Crashes, lost answers and stops at every moment of a short life (faults 1, 2, 3, 4, 24, 37).

The life (`crashing.Life`): a fleet rises, one machine is held all along, one is leased and
replaced, a new template revision takes the place of the old one, which is cleaned away to its last
entity. At the end: nothing doubled, nothing left behind, every VM tracked (S2), nothing written any
more (L1); and whoever was held was there at every look (S1).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crashing import live_with

EVERY = bool(os.environ.get("GCE_BACKEND_TEST_EVERY_CRASH"))
"""Blows at every request instead of at a sample of them."""
REQUESTS = 195
MUTATIONS = 95
"""How many the daemon makes in the life at least."""


def _moments(count: int, sample: int, offset: int) -> list[int]:
    """Requests to strike, from the first to the last: all, or a sample spread evenly."""
    if EVERY:
        return list(range(1, count + 1))
    return [1 + (offset + number * count // sample) % count for number in range(sample)]


@pytest.mark.parametrize("at", _moments(REQUESTS, 6, 0))
async def test_a_crash_before_a_request_loses_nothing(tmp_path: Path, at: int) -> None:
    """What was stored and not sent is resumed by the next daemon (faults 1, 3)."""
    await live_with(tmp_path, "crash", at, "before")


@pytest.mark.parametrize("at", _moments(REQUESTS, 6, 15))
async def test_a_crash_before_the_answer_doubles_nothing(tmp_path: Path, at: int) -> None:
    """What was sent is known by what was stored before: it is not sent as something new (1, 2)."""
    await live_with(tmp_path, "crash", at, "after")


@pytest.mark.parametrize("at", _moments(MUTATIONS, 5, 3))
async def test_a_lost_answer_to_a_mutation_doubles_nothing(tmp_path: Path, at: int) -> None:
    """The outcome of a mutation or a commit is unknown: it is read back (faults 4, 24)."""
    await live_with(tmp_path, "lost", at, "after")


@pytest.mark.parametrize("at", _moments(MUTATIONS, 3, 12))
async def test_a_mutation_that_never_arrived_is_made_again(tmp_path: Path, at: int) -> None:
    """The connection broke before anything happened: the outcome is as unknown (faults 4, 24)."""
    await live_with(tmp_path, "lost", at, "before")


@pytest.mark.parametrize("at", _moments(REQUESTS, 4, 25))
async def test_a_stop_in_the_middle_is_taken_up_by_the_next_daemon(tmp_path: Path, at: int) -> None:
    """SIGTERM at any moment: what runs finishes or is persisted in time (fault 37)."""
    await live_with(tmp_path, "stop", at)
