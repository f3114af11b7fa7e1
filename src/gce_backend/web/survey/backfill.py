"""How many machines there were before this process began to count, from the history. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.events import EventKind, Happening
from gce_backend.rules.states import State
from gce_backend.web.survey.levels import Level, Row

_LAYERS = {State.LEASED: 0, State.CATALOGED: 1}
_OTHERS = 2
_NOWHERE = {"", State.DELETED}


async def earlier_levels(
    now: Mapping[Row, Level],
    happenings: AsyncIterator[tuple[UnixSeconds, Happening]],
    times: Sequence[UnixSeconds],
) -> list[dict[Row, Level]]:
    """The machines by template and zone at some earlier times.

    What happened is undone step by step. States that only Compute's lists show are in no event, so
    a level may be a few machines off; none is below zero.

    Args:
        now: the machines at present.
        happenings: what happened and when, newest first, back to the first of `times`.
        times: Unix seconds, newest first.

    Returns:
        The levels for each of `times`.
    """
    counts: defaultdict[Row, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row, level in now.items():
        counts[row] = list(level)
    found: list[dict[Row, Level]] = []
    async for at, happening in happenings:
        while len(found) < len(times) and at <= times[len(found)]:
            found.append(_levels(counts))
        if happening.kind == EventKind.MACHINE:
            _undo(counts, happening)
    found += [_levels(counts)] * (len(times) - len(found))
    return found


def _undo(counts: defaultdict[Row, list[int]], happening: Happening) -> None:
    parts = happening.parent.split("/")
    if happening.before == happening.after or len(parts) < 3:
        return
    here = counts[parts[0], parts[2]]
    if happening.after not in _NOWHERE:
        here[_layer(happening.after)] -= len(happening.names)
    if happening.before not in _NOWHERE:
        here[_layer(happening.before)] += len(happening.names)


def _layer(state: str) -> int:
    return _LAYERS.get(state, _OTHERS)  # type: ignore[call-overload,no-any-return]  # a StrEnum


def _levels(counts: Mapping[Row, Sequence[int]]) -> dict[Row, Level]:
    return {row: Level(*(max(0, number) for number in level)) for row, level in counts.items()}
