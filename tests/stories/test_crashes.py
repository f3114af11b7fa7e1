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

from support.crashing import When, live_with

EVERY = bool(os.environ.get("GCE_BACKEND_TEST_EVERY_CRASH"))
"""Blows at every request instead of at a sample of them."""
REQUESTS = 195
"""How many the daemon makes in the life at least."""
MUTATIONS = (
    "compute.instanceTemplates.insert",
    "compute.instanceGroupManagers.insert",
    "compute.instances.setMetadata",
    "compute.instanceGroupManagers.deleteInstances",
    "compute.instanceGroupManagers.createInstances",
    "compute.instanceGroupManagers.delete",
    "compute.instanceTemplates.delete",
    "machine_provider.catalog.add_machines",
    "machine_provider.catalog.delete_machine",
    "pubsub.projects.subscriptions.acknowledge",
)


def _moments(sample: int, offset: int) -> list[int]:
    """Requests to strike, from the first to the last: all, or a sample spread evenly."""
    if EVERY:
        return list(range(1, REQUESTS + 1))
    return [1 + (offset + number * REQUESTS // sample) % REQUESTS for number in range(sample)]


@pytest.mark.parametrize("at", _moments(2, 0))
async def test_a_crash_before_a_request_loses_nothing(tmp_path: Path, at: int) -> None:
    """What was stored and not sent is resumed by the next daemon (faults 1, 3)."""
    await live_with(tmp_path, "crash", at, "before")


@pytest.mark.parametrize("at", _moments(2, 50))
async def test_a_crash_before_the_answer_doubles_nothing(tmp_path: Path, at: int) -> None:
    """What was sent is known by what was stored before: it is not sent as something new (1, 2)."""
    await live_with(tmp_path, "crash", at, "after")


@pytest.mark.parametrize("only", MUTATIONS)
async def test_a_crash_between_the_intent_and_its_call_is_resumed(
    tmp_path: Path, only: str
) -> None:
    """The store says that it was sent, and it was not (fault 3)."""
    await live_with(tmp_path, "crash", 1, "before", only)


@pytest.mark.parametrize("only", MUTATIONS)
async def test_a_crash_between_a_call_and_its_record_doubles_nothing(
    tmp_path: Path, only: str
) -> None:
    """It was sent, and the store does not say what came of it (fault 2)."""
    await live_with(tmp_path, "crash", 1, "after", only)


@pytest.mark.parametrize("only", MUTATIONS if EVERY else MUTATIONS[1:9:3])
async def test_a_lost_answer_to_a_mutation_doubles_nothing(tmp_path: Path, only: str) -> None:
    """The outcome of a mutation is unknown: it is replayed, or read back (fault 4)."""
    await live_with(tmp_path, "lost", 1, "after", only)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 60) if EVERY else (25,))
async def test_a_commit_of_unknown_outcome_is_read_back(
    tmp_path: Path, at: int, when: When
) -> None:
    """The connection broke before or after a commit took effect (fault 24)."""
    await live_with(tmp_path, "lost", at, when, "datastore.projects.commit")


@pytest.mark.parametrize("at", _moments(2, 20))
async def test_a_stop_in_the_middle_is_taken_up_by_the_next_daemon(tmp_path: Path, at: int) -> None:
    """SIGTERM at any moment: what runs finishes or is persisted in time (fault 37)."""
    await live_with(tmp_path, "stop", at)
