"""What was last seen at Compute: groups and their members. In memory; a restart looks again."""

from __future__ import annotations

from collections.abc import Collection

from gce_backend.model.entities import Permit
from gce_backend.model.keys import Key
from gce_backend.model.observed import Group, Member
from gce_backend.model.orders import MachineOrder


class World:
    """What was last seen, and since when.

    Attributes:
        groups: by their manager's key.
        held: deletions that the caps hold back, by job.
        empty_since: drained groups that were seen to be empty, monotonic seconds.
        since: operations that have not ended, by link, monotonic seconds of the first look.
        tombstones: monotonic seconds of the first look.
        deciding: deletions that are about to begin, by instance: they count against the caps.
        began: when deletions began, monotonic seconds, by instance and wall time of the request.
        lifted: until when, monotonic seconds, an operator's lifting of the caps holds, by its word.
        adding: instances whose add_machine is under way in this process.
        removing: instances whose delete_machine is under way in this process.
        unannounced: cataloged machines of which no SUBSCRIBED has come, monotonic seconds of the
            first look.
        unlisted: groups that a complete list of groups did not show, monotonic seconds of the
            first such list.
        gone: groups that two looks have shown to be gone, though nobody here deleted them.
        next_template_look: when the instance templates are listed again, monotonic seconds.
        next_full_look: when a project's VMs are listed again, monotonic seconds.
        heard: operators' orders about machines whose entities were read again.
        suspects: what carries our mark and has no entity, by kind and project: name to monotonic
            seconds of the first look that found it.
    """

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}
        self.held: dict[str, int] = {}
        self.empty_since: dict[Key, float] = {}
        self.since: dict[str, float] = {}
        self.tombstones: dict[Key, float] = {}
        self.deciding: dict[Key, Permit] = {}
        self.began: dict[tuple[Key, float], float] = {}
        self.lifted: dict[float, float] = {}
        self.adding: set[Key] = set()
        self.removing: set[Key] = set()
        self.unannounced: dict[Key, float] = {}
        self.unlisted: dict[Key, float] = {}
        self.gone: set[Key] = set()
        self.next_template_look = float("-inf")
        self.next_full_look: dict[str, float] = {}
        self.heard: frozenset[MachineOrder] = frozenset()
        self.suspects: dict[str, dict[str, float]] = {}

    def forget(self, managers: Collection[Key]) -> None:
        """Forgets what was seen of groups whose managers are no more."""
        for seen in (self.groups, self.unlisted):
            for key in [key for key in seen if key not in managers]:
                seen.pop(key, None)
        self.gone &= set(managers)

    def member(self, instance: Key) -> Member | None:
        """A VM as its group last listed it; None when it was not listed or never looked at."""
        group = self.groups.get(instance.parent) if instance.parent is not None else None
        return group.members.get(instance.name) if group is not None else None
