"""The fleet as a table of templates and zones, and events as lines: what is folded, the order."""

from __future__ import annotations

from typing import Any

import pytest

from gce_backend.web.pages.event_lines import folded
from gce_backend.web.pages.fleet_table import ON_A_SCREEN, FleetLine, Sort, Zones, lines
from gce_backend.web.pages.site import busiest


def row(template: str, zone: str, state: str = "active", **more: Any) -> dict[str, Any]:
    """A template in a zone, with three machines that can be leased."""
    told = {
        "template": template,
        "zone": zone,
        "state": state,
        "reason": "because",
        "minimum": 3,
        "maximum": 5,
        "target": 3,
        "wanted": 3,
        "new": 3,
        "old": 0,
        "machines": {"cataloged": 3},
        "pool": None,
        "pool_zones": [],
    }
    return told | more


def shown(
    rows: list[dict[str, Any]],
    sort: Sort = "",
    zones: Zones = "",
    turned: frozenset[str] = frozenset(),
    text: str = "",
) -> list[FleetLine]:
    """The table's lines."""
    return lines(rows, sort=sort, zones=zones, turned=turned, text=text)


def names(found: list[FleetLine]) -> list[str]:
    """Template and zone of each line."""
    return [f"{line.template}/{line.zone}" for line in found]


TWO = [row("linux", "a"), row("linux", "b", machines={"leased": 2, "stopped": 1}), row("mac", "a")]


def pooled(template: str, zone: str, pool: str, **more: Any) -> dict[str, Any]:
    """A template in a zone of a pool, which is named after the template of its first choice."""
    return row(template, zone, pool=pool, pool_zones=["a", "b"], **more)


def test_the_maximum_of_a_pool_counts_once_and_an_unused_alternative_is_folded() -> None:
    """Until somebody shows it, or it has machines."""
    empty = {"machines": {}, "target": 0, "minimum": 0, "wanted": 0, "new": 0}
    rows = [pooled("linux", zone, "linux") for zone in ("a", "b")]
    rows += [row("linux", "c")]
    rows += [pooled("linux-n2", zone, "linux", **empty) for zone in ("a", "b")]
    found = shown(rows)
    assert names(found) == ["linux/", "linux/a", "linux/b", "linux/c", "linux-n2/"]
    assert (found[0].maximum, found[0].alternative_of) == (10, "")
    assert (found[-1].maximum, found[-1].alternative_of) == (5, "linux")
    assert len(shown(rows, turned=frozenset({"linux-n2"}))) == 7
    assert len(shown(rows, zones="shown")) == 7
    rows[-1] = pooled("linux-n2", "b", "linux")
    assert len(shown(rows)) == 7


def test_a_template_with_several_zones_has_a_line_with_their_sums() -> None:
    """One with a single zone is one line."""
    head, *rest = shown(TWO)
    assert names([head, *rest]) == ["linux/", "linux/b", "linux/a", "mac/a"]
    assert (head.zones, head.minimum, head.maximum, head.target) == (2, 6, 10, 6)
    assert {name: count for name, count in head.counts.items() if count} == {
        "available": 3,
        "leased": 2,
        "lost": 1,
    }
    assert rest[-1].shown is None


def test_a_large_fleet_is_folded_until_somebody_asks() -> None:
    """Each template can be turned around; the address says how the rest is."""
    rows = [row(f"t{number:02}", zone) for number in range(ON_A_SCREEN) for zone in ("a", "b")]
    assert len(shown(rows)) == ON_A_SCREEN
    assert names(shown(rows, turned=frozenset({"t03"})))[3:6] == ["t03/", "t03/a", "t03/b"]
    assert len(shown(rows, zones="shown")) == 3 * ON_A_SCREEN
    assert len(shown(rows, zones="shown", turned=frozenset({"t03"}))) == 3 * ON_A_SCREEN - 2
    assert names(shown(TWO, zones="folded")) == ["linux/", "mac/a"]


def test_what_needs_attention_comes_first() -> None:
    """Failing, then lost machines, then what is under way; a template by its worst zone."""
    rows = [
        row("a", "z"),
        row("b", "z", "growing"),
        row("c", "z", machines={"missing": 1}),
        row("d", "y"),
        row("d", "z", "failing", reason="no room"),
    ]
    found = shown(rows, zones="folded")
    assert [line.template for line in found] == ["d", "c", "b", "a"]
    assert (found[0].state, found[0].troubled, found[0].reason) == ("failing", 1, "z: no room")
    assert names(shown(rows))[:3] == ["d/", "d/z", "d/y"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [("template", "abc"), ("-template", "cba"), ("-leased", "bca"), ("leased", "acb")],
)
def test_a_column_orders_the_table_both_ways(sort: Sort, order: str) -> None:
    """The address names it."""
    rows = [
        row(name, "z", machines={"leased": number})
        for name, number in (("a", 0), ("b", 9), ("c", 4))
    ]
    assert "".join(line.template for line in shown(rows, sort)) == order


def test_a_filter_matches_templates_and_zones() -> None:
    """And what is left is summed."""
    assert names(shown(TWO, text="mac")) == ["mac/a"]
    assert names(shown(TWO, text="b")) == ["linux/b"]
    assert shown(TWO, text="nowhere") == []


def test_progress_of_roll_outs_and_growths() -> None:
    """A roll-out counts the new and the old ones; what is whole has none."""
    whole, growing, rolling, removed = shown(
        [
            row("a", "z"),
            row("b", "z", new=1),
            row("c", "z", new=2, old=4),
            row("d", "z", new=0, old=3, wanted=0),
        ],
        sort="template",
    )
    assert whole.progress is None
    assert removed.progress is None
    assert growing.progress is not None
    assert growing.progress[:3] == ("growth", 1, 3)
    assert rolling.progress is not None
    assert rolling.progress[:3] == ("roll-out", 2, 6)
    (head,) = shown(
        [row("a", "x", new=1), row("a", "y", new=2, old=4), row("a", "z", old=1)], zones="folded"
    )
    assert head.progress == ("roll-out", 6, 11, "roll-out in 2 zones: 6 of 11 machines")


def test_zones_that_are_done_count_for_a_templates_roll_out() -> None:
    """Five of six zones have the new revision: it is not at its beginning."""
    done = [row("a", zone, new=33) for zone in "uvwxy"]
    (head,) = shown([*done, row("a", "z", new=0, old=33)], zones="folded")
    assert head.progress == ("roll-out", 165, 198, "roll-out in 1 zone: 165 of 198 machines")
    (head,) = shown([*done, row("a", "z", new=10, wanted=33)], zones="folded")
    assert head.progress == ("growth", 175, 198, "growth in 1 zone: 175 of 198 machines")


def event(name: str, reason: str, before: str = "leased", after: str = "leased") -> dict[str, Any]:
    """An event of a machine."""
    return {"name": name, "before": before, "after": after, "reason": reason}


def test_runs_of_changes_of_metadata_are_one_line() -> None:
    """Of one machine or of many; a failure and a change of state stand alone."""
    updated = "Its metadata was updated: pubsub_topic."
    pending = "An update of its metadata is pending: pubsub_topic."
    failed = "Its metadata could not be updated; the daemon tries again: pubsub_topic."
    lines_ = folded(
        [
            event("a", updated),
            event("a", pending),
            event("a", failed),
            event("b", updated),
            event("c", "It is in the catalog.", "running", "cataloged"),
            event("b", updated),
            event("c", pending),
        ]
    )
    assert [line["reason"] for line in lines_] == [
        f"{updated} (2 events)",
        failed,
        updated,
        "It is in the catalog.",
        "The metadata of 2 machines was changed (2 events).",
    ]
    assert [line["names"] for line in lines_] == [("a",), (), (), (), ("b", "c")]


def quota(project: str, group: str, used: int, **more: float) -> dict[str, Any]:
    """How much of a part of the call budget is used, of a hundred calls a minute."""
    told = {"project": project, "region": "", "group": group, "limit": 100, "used": used}
    return {**told, "left": 100 - used, "waiting": 0, "paused_seconds": 0.0, **more}


def test_quotas_that_hold_callers_back_come_first_and_idle_ones_are_left_out() -> None:
    """Then those that are used most."""
    calls = [
        quota("a", "read", 3),
        quota("a", "list", 0),
        quota("b", "read", 90),
        quota("b", "mutate", 1, waiting=4),
        quota("b", "list", 0, paused_seconds=12.0),
    ]
    found = [f"{one['project']} {one['group']}" for one in busiest(calls)]
    assert found == ["b mutate", "b list", "b read", "a read"]
