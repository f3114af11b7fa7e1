"""A daemon that is killed at an await comes back, and breaks no promise (fault 1)."""

from __future__ import annotations

from simulation.crashes import crashed, life, recorded, sites


def test_a_crash_at_an_await_breaks_no_promise() -> None:
    """A sample; `python -m simulation.crashes` does them all, and pairs."""
    result, reached = recorded(life(0))
    assert result.violations == []
    assert len(reached) > 100
    assert set(reached) <= set(sites())
    for folder in ("loops/", "actions/"):
        near = [(s, step) for s, step in sorted(reached.items()) if s.file.startswith(folder)]
        site, step = near[len(near) // 2]
        assert crashed(life(0), step, step // 3).violations == [], f"{site}, twice"
