"""Which machines have a facet, by group: what jobs ask for is found without a look at the others.

The picture tells it of every change of a machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, MachineKey
from gce_backend.rules.facets import Facet, facets_of
from gce_backend.rules.permits import lease_runs


class _Leases(NamedTuple):
    """How many leases of a group run, and from when until when that is so; Unix seconds."""

    running: int
    since: UnixSeconds
    until: UnixSeconds


class FacetIndex:
    """The machines of each facet, in the order in which they got it."""

    def __init__(self) -> None:
        self._groups: dict[Facet, dict[GroupKey, dict[MachineKey, None]]] = {
            facet: {} for facet in Facet
        }
        self._counts: Counter[Facet] = Counter()
        self._leases: defaultdict[GroupKey, _Leases | None] = defaultdict(lambda: None)

    def note(self, key: MachineKey, before: Instance | None, after: Instance | None) -> None:
        """Notes a machine's change; None is an absent entity."""
        had, has = facets_of(before), facets_of(after)
        for facet in had - has:
            groups = self._groups[facet]
            del groups[key.group][key]
            self._counts[facet] -= 1
            if not groups[key.group]:
                del groups[key.group]
        for facet in has - had:
            self._groups[facet].setdefault(key.group, {})[key] = None
            self._counts[facet] += 1
        if Facet.LEASED in had | has:
            self._leases.pop(key.group, None)

    def keys(self, facets: Iterable[Facet], group: GroupKey | None = None) -> Iterator[MachineKey]:
        """The machines that have one of the facets, each once; of a group, or of all."""
        wanted = [self._groups[facet] for facet in facets]
        if group is None:
            groups = dict.fromkeys(key for found in wanted for key in found)
        else:
            groups = {group: None}
        for one in groups:
            yield from dict.fromkeys(key for found in wanted for key in found.get(one, ()))

    def count(self, facet: Facet, group: GroupKey | None = None) -> int:
        """How many machines have a facet: of a group, or of all."""
        if group is None:
            return self._counts[facet]
        return len(self._groups[facet].get(group, ()))

    def leased(
        self, group: GroupKey, now: UnixSeconds, instances: Mapping[MachineKey, Instance]
    ) -> int:
        """How many leases of a group run; they are looked at again when one changes or ends."""
        known = self._leases[group]
        if known is None or not known.since <= now < known.until:
            leased = [instances[key] for key in self._groups[Facet.LEASED].get(group, ())]
            running = [one for one in leased if lease_runs(one, now)]
            ends = [one.lease.expiration for one in running if one.lease is not None]
            until = min((end for end in ends if end is not None), default=float("inf"))
            known = self._leases[group] = _Leases(len(running), now, until)
        return known.running
