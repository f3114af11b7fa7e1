"""A daemon that is killed at an await comes back, and breaks no promise (fault 1)."""

from __future__ import annotations

import itertools

from simulation.crashes import Site, crashed, life, recorded, sites


def test_a_crash_at_an_await_breaks_no_promise_and_leaves_no_mark() -> None:
    """A sample; `python -m simulation.crashes` does them all, and pairs."""
    alone, reached = recorded(life(0))
    assert alone.violations == []
    assert len(reached) > 100
    assert reached <= set(sites())
    wanted = set()
    for folder in ("loops/", "actions/"):
        near = [site for site in sorted(reached) if site.file.startswith(folder)]
        wanted.add(near[len(near) // 2])
    result, crashes = crashed(life(0), wanted.__contains__)
    assert result.story == alone.story, "a fork leaves its mark on the life that it leaves"
    assert len(crashes) == len(wanted)
    assert [crash for crash in crashes if crash.broken] == []


def test_two_crashes_in_a_row_amid_chosen_troubles_break_no_promise() -> None:
    """The second one is a fork of the life after the first."""
    count = itertools.count(1)

    def is_third(site: Site) -> bool:
        return site.file == "loops/resize_instance_groups.py" and next(count) == 3

    result, crashes = crashed(life(4), is_third, pairs=0.03)
    assert result.violations == []
    assert [crash for crash in crashes if crash.broken] == []
    assert {len(crash.at) for crash in crashes} == {1, 2}
