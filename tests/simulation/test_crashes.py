"""A daemon that is killed at an await comes back, and breaks no promise (fault 1)."""

from __future__ import annotations

import pytest

from simulation.crashes import crashed, life, recorded, sites
from simulation.episode import Recipe


@pytest.mark.parametrize(
    ("given", "folders"),
    [
        pytest.param(life(0), ("loops/", "actions/"), id="chance"),
        pytest.param(life(4), ("loops/resize",), id="chosen troubles"),
    ],
)
def test_a_crash_at_an_await_breaks_no_promise(given: Recipe, folders: tuple[str, ...]) -> None:
    """A sample; `python -m simulation.crashes` does them all, and pairs."""
    alone, reached = recorded(given)
    assert alone.violations == []
    assert len(reached) > 100
    assert reached <= set(sites())
    wanted = set()
    for folder in folders:
        near = [site for site in sorted(reached) if site.file.startswith(folder)]
        wanted.add(near[len(near) // 2])
    result, crashes = crashed(given, wanted, pairs=0.01)
    assert result.story == alone.story, "a fork leaves its mark on the life that it leaves"
    assert len([crash for crash in crashes if len(crash.at) == 1]) == len(wanted)
    assert [crash for crash in crashes if crash.broken] == []
