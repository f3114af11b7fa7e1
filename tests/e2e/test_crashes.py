"""Crashes, lost answers and stops at every moment of a short life (faults 1, 2, 3, 4, 24, 37)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crashing import When, live_with

ALL = bool(os.environ.get("GCE_BACKEND_TEST_EVERY_CRASH"))
"""Blows at every request instead of a sample of them."""
REQUESTS = 190
MUTATIONS = 80
SAMPLE = 9


def _moments(count: int, offset: int) -> list[int]:
    """Requests to strike: all, or a sample spread evenly."""
    if ALL:
        return list(range(1, count + 1))
    return [1 + offset + number * count // SAMPLE for number in range(SAMPLE)]


@pytest.mark.parametrize("at", _moments(REQUESTS, 0))
async def test_a_crash_before_any_request_loses_and_doubles_nothing(tmp_path: Path, at: int) -> None:
    """What was stored but not sent is sent by the next daemon, once (faults 1, 3)."""
    await live_with(tmp_path, "crash", at, "before")
