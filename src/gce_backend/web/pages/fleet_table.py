"""The fleet as a table: templates with their subtotals, and their zones, folded or shown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from gce_backend.base.plurals import plural

Row: TypeAlias = Mapping[str, Any]
"""A template in a zone, as `/api/status` tells it."""
Sort: TypeAlias = Literal[
    "", "template", "coming", "available", "leased", "going", "lost",
    "-template", "-coming", "-available", "-leased", "-going", "-lost",
]  # fmt: skip
"""What the table is ordered by: "" puts first what needs attention; `-` turns the order around."""
Zones: TypeAlias = Literal["", "shown", "folded"]
"""Whether zones are shown; "" shows those of a fleet that fits on a screen."""

ON_A_SCREEN = 14
"""Most rows of a fleet whose zones are shown without being asked for."""

_ATTENTION = ("failing", "missing", "degraded", "paused")
_UNDER_WAY = ("creating", "growing", "changing", "unknown", "draining", "deleting")
_STATES = {
    "coming": ("creating", "starting", "running"),
    "available": ("cataloged",),
    "leased": ("leased",),
    "going": ("draining", "pending-deletion", "deleting"),
    "lost": ("missing", "stopped", "lost", "set-aside"),
    "cordoned": ("cordoned",),
}
"""The states of machines that a column counts."""


class PlaceProgress(NamedTuple):
    """How far something is.

    Attributes:
        what: `roll-out` or `growth`.
        done: machines of use.
        total: machines that there are to be, or that take part.
        note: the same in words.
    """

    what: str
    done: int
    total: int
    note: str


class FleetLine(NamedTuple):
    """A line of the table: a template in one zone, or in all of its zones.

    Attributes:
        template: its base_name.
        zone: "" for all of its zones.
        zones: how many it has.
        state: of the group; of several zones, the one that needs most attention.
        troubled: zones that need attention.
        reason: why it is in its state.
        counts: machines by column.
        progress: of a roll-out or a growth; None when none is under way.
        new: machines of the active revision that are leased or can be.
        shown: whether its zones follow; None when it has only one.
        pool: names and zones of the pools that share their sizes; () when there is none.
        alternative_of: the template in whose place its machines are made; "" when it is none.
    """

    template: str
    zone: str
    zones: int
    state: str
    troubled: int
    reason: str
    minimum: int
    maximum: int | None
    target: int | None
    counts: Mapping[str, int]
    progress: PlaceProgress | None
    new: int
    shown: bool | None
    pool: tuple[str, ...] = ()
    alternative_of: str = ""

    @property
    def is_unused(self) -> bool:
        """Whether it is an alternative that has no machines and needs no attention."""
        idle = not self.target and not any(self.counts.values())
        return bool(self.alternative_of) and idle and self.state == "active"

    @property
    def rank(self) -> int:
        """How much attention it needs; the least number needs most."""
        if self.state in _ATTENTION:
            return _ATTENTION.index(self.state)
        if self.counts["lost"]:
            return len(_ATTENTION)
        if self.state in _UNDER_WAY or self.progress is not None:
            return len(_ATTENTION) + 1
        return len(_ATTENTION) + 2


def lines(
    rows: Sequence[Row], *, sort: Sort, zones: Zones, turned: frozenset[str], text: str
) -> list[FleetLine]:
    """The lines of the table.

    Args:
        rows: the fleet by template and zone.
        sort: their order.
        zones: whether zones are shown.
        turned: templates for which the contrary holds.
        text: only templates and zones with this in their name; "" for all.
    """
    by_template: dict[str, list[FleetLine]] = {}
    for row in rows:
        if text in row["template"] or text in row["zone"]:
            by_template.setdefault(row["template"], []).append(_line(row))
    shown = zones == "shown" or (not zones and len(rows) <= ON_A_SCREEN)
    order, backwards = _order(sort), sort.startswith("-")
    heads = []
    for name, found in by_template.items():
        unused = not zones and all(line.is_unused for line in found)
        open_ = (shown and not unused) != (name in turned)
        heads.append(found[0] if len(found) == 1 else _together(found, shown=open_))
    told: list[FleetLine] = []
    for head in sorted(heads, key=order, reverse=backwards):
        told.append(head)
        if head.shown:
            told += sorted(by_template[head.template], key=order, reverse=backwards)
    return told


def _order(sort: Sort) -> Callable[[FleetLine], Any]:
    column = sort.removeprefix("-")
    if not column:
        return lambda line: (line.rank, line.template, line.zone)
    if column == "template":
        return lambda line: (line.template, line.zone)
    return lambda line: line.counts[column]


def _line(row: Row) -> FleetLine:
    machines = row["machines"]
    counts = {
        column: sum(machines.get(state, 0) for state in states)
        for column, states in _STATES.items()
    }
    return FleetLine(
        template=row["template"],
        zone=row["zone"],
        zones=1,
        state=row["state"],
        troubled=row["state"] in _ATTENTION,
        reason=row["reason"],
        minimum=row["minimum"],
        maximum=row["maximum"],
        target=row["target"],
        counts=counts,
        progress=_progress(row["new"], row["old"], row["wanted"]),
        new=row["new"],
        shown=None,
        pool=(row["pool"], *row["pool_zones"]) if row["pool"] else (),
        alternative_of=row["pool"] if row["pool"] not in {None, row["template"]} else "",
    )


def _progress(new: int, old: int, wanted: int) -> PlaceProgress | None:
    """How far a roll-out is, else a growth.

    Args:
        new: machines of the active revision that are leased or can be.
        old: machines of earlier revisions that nobody holds.
        wanted: machines that there are to be.
    """
    if not wanted:
        return None
    if old:
        note = f"roll-out: {new} of the new revision, {old} of earlier ones to go"
        return PlaceProgress("roll-out", new, new + old, note)
    if new < wanted:
        return PlaceProgress(
            "growth", new, wanted, f"growth: {new} of {wanted} are leased or can be"
        )
    return None


def _together(found: Sequence[FleetLine], *, shown: bool) -> FleetLine:
    """A template in all of its zones."""
    worst = min(found, key=lambda line: line.rank)
    # Groups of a pool share its maximum: it counts once.
    limits = {line.pool or (line.zone,): line.maximum for line in found}
    maxima = [maximum for maximum in limits.values() if maximum is not None]
    targets = [line.target for line in found if line.target is not None]
    troubled = sum(line.troubled for line in found)
    return FleetLine(
        template=worst.template,
        zone="",
        zones=len(found),
        state=worst.state,
        troubled=troubled,
        reason=f"{worst.zone}: {worst.reason}",
        minimum=sum(line.minimum for line in found),
        maximum=sum(maxima) if len(maxima) == len(limits) else None,
        target=sum(targets) if targets else None,
        counts={column: sum(line.counts[column] for line in found) for column in _STATES},
        progress=_all_progress(found),
        new=sum(line.new for line in found),
        shown=shown,
        pool=worst.pool,
        alternative_of=worst.alternative_of,
    )


def _all_progress(found: Sequence[FleetLine]) -> PlaceProgress | None:
    """The progress in all zones: of the roll-outs, else of the growths.

    Zones that are done count too, as `gce-backend rollout status` counts them.
    """
    under_way = [line.progress for line in found if line.progress is not None]
    if not under_way:
        return None
    what = "roll-out" if "roll-out" in {one.what for one in under_way} else "growth"
    same = [one for one in under_way if one.what == what]
    done = sum(line.new for line in found)
    total = done + sum(one.total - one.done for one in same)
    where = plural(len(same), "zone")
    return PlaceProgress(
        what, done, total, f"{what} in {where}: {done} of {plural(total, 'machine')}"
    )
