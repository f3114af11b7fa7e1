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
    result, reached = recorded(given)
    assert result.violations == []
    assert len(reached) > 100
    assert set(reached) <= set(sites())
    for folder in folders:
        near = [(s, step) for s, step in sorted(reached.items()) if s.file.startswith(folder)]
        site, step = near[len(near) // 2]
        assert crashed(given, step, step // 3).violations == [], f"{site}, twice"
