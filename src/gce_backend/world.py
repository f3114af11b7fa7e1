"""What was last seen at Compute: groups and their members. In memory; a restart looks again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from gce_backend.models import Key, MachineOrder, Permit


class Member(msgspec.Struct, frozen=True, gc=False):
    """A managed instance, as a group lists it.

    Attributes:
        name: the VM's name.
        gce_id: Compute's numeric id; None before the VM exists.
        status: the VM's status, e.g. `RUNNING`; "" when there is no VM.
        action: what the group is doing to it: `NONE`, `CREATING`, `DELETING`, ...
        error: why the last try of that action failed; "" when it did not.
        error_code: the error's code, e.g. `ZONE_RESOURCE_POOL_EXHAUSTED`.
    """

    name: str
    gce_id: int | None
    status: str
    action: str
    error: str = ""
    error_code: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the VM runs and its group leaves it alone."""
        return self.status == "RUNNING" and self.action in {"NONE", "VERIFYING"}


class Group(msgspec.Struct, frozen=True):
    """A managed instance group, as last seen.

    Attributes:
        target_size: VMs that Compute tries to have, those being created and deleted included.
        stable: nothing is going on in it.
        signature: what changes whenever its membership may have changed.
        changed: when it or its members were last seen to change, monotonic seconds.
        members: its VMs by name, from the last complete listing.
        listed: when that was, monotonic seconds; None before the first one.
        complete: whether the newest listing was complete; if not, `members` may be old.
    """

    target_size: int
    stable: bool
    signature: str
    changed: float
    members: Mapping[str, Member] = {}
    listed: float | None = None
    complete: bool = False


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
