"""The machines of a group by age, for groups whose machines are replaced at an age.

The picture tells it of every change of a machine. A group is sorted when somebody first asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, MachineKey


class AgeIndex:
    """The machines of groups that are not proven gone, by when each was first listed."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, list[tuple[UnixSeconds, str]]] = {}

    def note(self, key: MachineKey, before: Instance | None, after: Instance | None) -> None:
        """Notes a machine's change; None is an absent entity."""
        group = self._groups.get(key.group)
        had, has = _listed(before), _listed(after)
        if group is None or had == has:
            return
        if had is not None:
            place = bisect_left(group, (had, key.name))
            del group[place]
        if has is not None:
            insort(group, (has, key.name))

    def forget(self, group: GroupKey) -> None:
        """Forgets a group that is gone."""
        self._groups.pop(group, None)

    def of(
        self,
        group: GroupKey,
        machines: Callable[[GroupKey], Iterable[tuple[MachineKey, Instance]]],
        *,
        newest_first: bool = False,
    ) -> Iterator[MachineKey]:
        """A group's machines that were ever listed, the oldest first.

        Args:
            machines: all of a group, which are looked at the first time.
            newest_first: the other way round.
        """
        found = self._groups.get(group)
        if found is None:
            listed = ((_listed(machine), key.name) for key, machine in machines(group))
            found = sorted((since, name) for since, name in listed if since is not None)
            self._groups[group] = found
        for _, name in reversed(found) if newest_first else found:
            yield group.child(name)


def _listed(instance: Instance | None) -> UnixSeconds | None:
    return None if instance is None or instance.is_tombstone else instance.listed_since
