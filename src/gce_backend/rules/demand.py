"""Which group is to serve which waiting request. Pure.

A request counts for one group at a time: first for one that has a machine for it, idle or on its
way, then for the group that has to grow least. So it is answered once, and zones share evenly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gce_backend.model.machine_token import Dimension
from gce_backend.model.observed import RequestedMachines

HOSTNAME = "hostname"


class Supply(NamedTuple):
    """What a group can serve.

    Attributes:
        dimensions: those of its machines.
        ready: machines that are idle or on their way.
        room: machines by which it may grow.
    """

    dimensions: Mapping[str, Dimension]
    ready: int
    room: int


class Shares(NamedTuple):
    """Who serves the waiting requests.

    Attributes:
        by_group: the machines that each group is to serve, by group; groups without any are absent.
        unserved: machines that no group can serve now.
    """

    by_group: Mapping[str, int]
    unserved: int


def share(requests: Iterable[RequestedMachines], groups: Mapping[str, Supply]) -> Shares:
    """Shares the waiting requests out over the groups.

    Args:
        requests: what is waited for. A kind that few groups have comes first.
        groups: the groups, by a name that orders equals.
    """
    ready = {name: supply.ready for name, supply in groups.items()}
    room = {name: supply.room for name, supply in groups.items()}
    grown: Counter[str] = Counter()
    shares: Counter[str] = Counter()
    unserved = 0
    fitting = [(_fitting(one.dimensions, groups), one.count) for one in requests]
    for names, count in sorted(fitting, key=lambda item: (len(item[0]), item[0])):
        left = count
        for name in names:
            taken = min(left, ready[name])
            ready[name] -= taken
            shares[name] += taken
            left -= taken
        while left and (able := [name for name in names if room[name] > 0]):
            name = min(able, key=lambda name: (grown[name], name))
            room[name] -= 1
            grown[name] += 1
            shares[name] += 1
            left -= 1
        unserved += left
    return Shares({name: number for name, number in shares.items() if number}, unserved)


def _fitting(asked: Mapping[str, Dimension], groups: Mapping[str, Supply]) -> Sequence[str]:
    return sorted(name for name, supply in groups.items() if fits(asked, supply.dimensions))


def fits(asked: Mapping[str, Dimension], machine: Mapping[str, Dimension]) -> bool:
    """Whether a machine with these dimensions has all that are asked for.

    Args:
        asked: the dimensions of a request; one that names a host name asks for that machine.
        machine: the dimensions of a group's machines.
    """
    return HOSTNAME not in asked and all(
        _has(wanted, machine.get(key)) for key, wanted in asked.items()
    )


def _has(wanted: Dimension, given: Dimension | None) -> bool:
    if given is None:
        return False
    if isinstance(wanted, list | tuple):
        values = given if isinstance(given, list | tuple) else [given]
        return {str(value) for value in wanted} <= {str(value) for value in values}
    if isinstance(wanted, float | int) and isinstance(given, float | int):
        return float(wanted) == float(given)
    return str(wanted) == str(given)
