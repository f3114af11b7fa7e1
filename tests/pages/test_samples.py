"""The samples behind the charts, and the charts: bounded, true, drawn inside their box."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

from gce_backend.model.events import EventKind, Happening
from gce_backend.rules.states import State
from gce_backend.web.pages.charts import POINTS, chart
from gce_backend.web.survey.backfill import earlier_levels
from gce_backend.web.survey.levels import Level
from gce_backend.web.survey.samples import KEPT, LONG_KEPT, Samples
from support.fleet_harness import world
from support.html_reader import visit
from support.simulation import VirtualClock


class Clock(VirtualClock):
    """A clock that a test turns."""

    def now(self) -> float:
        """What `epoch` says."""
        return self.epoch


def taken(levels: list[dict[State, int]]) -> Samples:
    """Samples of one row, a minute apart."""
    clock = Clock(1_000_000.0)
    samples = Samples(clock)
    for counts in levels:
        samples.take({("linux", "z"): counts})
        clock.epoch += 60
    return samples


def test_levels_are_kept_in_order_and_the_oldest_fall_out() -> None:
    """Six hours and no more, also across the end of the ring."""
    samples = taken([{State.LEASED: number, State.STARTING: 1} for number in range(KEPT + 50)])
    levels = samples.of(("linux", "z"))
    assert [level.leased for level in levels] == list(range(50, KEPT + 50))
    assert samples.times[-1] - samples.times[0] == 60 * (KEPT - 1)
    assert samples.all() == levels
    assert samples.of(("other", "z")) == [Level(0, 0, 0)] * KEPT


def test_rows_come_late_and_are_forgotten_when_all_is_zero() -> None:
    """What came later had nothing before; what is gone for six hours takes no memory."""
    samples = taken([{State.CATALOGED: 2}])
    samples.take({("late", "z"): {State.LEASED: 3}, ("linux", "z"): {}})
    assert samples.of(("late", "z")) == [Level(0, 0, 0), Level(3, 0, 0)]
    assert samples.all() == [Level(0, 2, 0), Level(3, 0, 0)]
    for _ in range(KEPT):
        samples.take({})
    assert not samples._recent.rows


def test_a_thousand_rows_stay_small() -> None:
    """Less than five kilobytes for each template in each zone."""
    samples = Samples(Clock(0.0))
    for _ in range(3):
        samples.take({("linux", f"z{number}"): {State.LEASED: 7} for number in range(1000)})
    used = sum(sys.getsizeof(ring) for ring in samples._recent._rings.values())
    assert used < 5000 * 1000


def test_a_chart_stays_in_its_box_and_ends_with_the_newest_sample() -> None:
    """However many samples: so many points, from edge to edge, the peak at the top."""
    samples = taken([{State.LEASED: number % 40, State.CATALOGED: 9} for number in range(301)])
    drawn = chart(samples.times, samples.of(("linux", "z")), width=100, height=20)
    assert drawn.last == Level(300 % 40, 9, 0)
    assert [tone for tone, _ in drawn.areas] == ["leased", "available"]
    for _, path in drawn.areas:
        points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]
        assert len(points) <= 2 * POINTS
        assert all(0 <= x <= 100 and 0 <= y <= 20 for x, y in points)
        top = points[: len(points) // 2]
        assert all(before[0] < after[0] for before, after in pairwise(top))
        assert (top[0][0], top[-1][0]) == (0, 100)
    assert re.search(r",0\.0[ LZ]", drawn.areas[-1][1])


def test_charts_of_nothing_and_of_one_sample() -> None:
    """No samples, no chart; one sample is a level line; zeros are no area."""
    assert chart((), (), width=100, height=20).first_at is None
    one = taken([{State.LEASED: 2}])
    drawn = chart(one.times, one.of(("linux", "z")), width=100, height=20)
    assert drawn.areas == (("leased", "M0.0,0.0 L100.0,0.0 L100.0,20.0 L0.0,20.0Z"),)
    zeros = chart((1.0, 2.0), [Level(0, 0, 0)] * 2, width=100, height=20)
    assert (zeros.areas, zeros.peak) == ((), 0)


async def test_the_overview_draws_what_the_daemon_saw(tmp_path: Path) -> None:
    """After five minutes there is a line, with its time and its peak in words."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        await w.pass_time(300)
        page = await visit(w, "/")
        titles = [
            attributes["aria-label"] or ""
            for tag, attributes in page.tags
            if tag == "svg" and "aria-label" in attributes
        ]
        assert len(titles) == 2
        assert re.search(r"at most 3; now 1 leased, 2 to be leased, 0 others", titles[0])
        assert titles[1].startswith("linux in us-central1-a: at most 3 machines since")
        assert "others · at most 3" in page.text


def test_a_week_is_kept_of_all_machines_together() -> None:
    """Every ten minutes, and the newest sample at the end."""
    samples = taken([{State.LEASED: minute % 7} for minute in range(10 * LONG_KEPT + 95)])
    times, levels = samples.long(0.0)
    assert len(times) == LONG_KEPT + 1
    assert {after - before for before, after in pairwise(times[:-1])} == {600.0}
    assert (times[-1], levels[-1]) == (samples.times[-1], samples.all()[-1])
    assert len(samples.long(times[-1] - 1800)[0]) == 4


def test_an_axis_has_round_times() -> None:
    """A few, in order, none at the very edge; days where it is long."""
    for seconds, first in ((3600, "00:10"), (6 * 3600, "01:00"), (7 * 86_400, "02 Jan")):
        times = [86_400.0 * 0 + 60.0 * step for step in range(1 + seconds // 60)]
        marks = chart(times, [Level(1, 0, 0)] * len(times), width=100, height=20).marks
        assert 4 <= len(marks) <= 7
        assert all(3 <= float(at) <= 97 for at, _ in marks)
        assert marks[0][1].lstrip("0") == first.lstrip("0")


async def test_earlier_levels_follow_from_what_happened() -> None:
    """Each event is undone; groups and changes without a change of state count for nothing."""

    async def happened() -> AsyncIterator[tuple[float, Happening]]:
        def machines(names: tuple[str, ...], before: str, after: str) -> Happening:
            return Happening(EventKind.MACHINE, "linux/1/z", names, before, after, "", "")

        yield 90.0, machines(("a",), "cataloged", "leased")
        yield 80.0, machines(("a", "b"), "running", "cataloged")
        yield 75.0, machines(("b",), "running", "running")
        yield 70.0, Happening(EventKind.GROUP, "linux/1", ("z",), "growing", "active", "", "")
        yield 60.0, machines(("a", "b"), "", "running")
        yield 50.0, machines(("old",), "deleting", "deleted")

    row = ("linux", "z")
    found = await earlier_levels({row: Level(1, 1, 0)}, happened(), [95, 85, 65, 55, 45])
    assert [level[row] for level in found] == [
        Level(1, 1, 0),
        Level(0, 2, 0),
        Level(0, 0, 2),
        Level(0, 0, 0),
        Level(0, 0, 1),
    ]


async def test_charts_outlive_a_restart(tmp_path: Path) -> None:
    """What was before is reconstructed from the history: as it was counted then."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(300)
        await w.lease()
        await w.pass_time(301)
        assert w.daemon.view is not None
        counted = dict(zip(w.daemon.view.samples.times, w.daemon.view.samples.all(), strict=True))
        await w.crash_daemon()
        await w.start_daemon()
        await w.until(w.is_loaded)
        await w.pass_time(1)
        page = await visit(w, "/")
        assert re.search(r"10 min ago.* at most 3", page.text)
        samples = w.daemon.view.samples
        for at, level in zip(samples.times, samples.all(), strict=True):
            near = min(counted, key=lambda then: abs(then - at))
            if all(abs(at - then) > 90 for then in (min(counted), min(counted) + 300)):
                assert level == counted[near]
        assert Level(0, 3, 0) in samples.all()
        assert samples.all()[-1] == Level(1, 2, 0)
        week = await visit(w, "/?span=7d")
        assert "/?span=1d" in week.links


async def test_the_chart_of_a_young_daemon_shows_what_is_there_now(tmp_path: Path) -> None:
    """Its only sample was taken before there was a machine."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.clock.monotonic() < 60
        assert " at most 3" in (await visit(w, "/")).text
