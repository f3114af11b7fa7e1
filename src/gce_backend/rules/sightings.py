"""What a listed or an unlisted VM means for its entity. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.plurals import plural
from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
)
from gce_backend.model.observed import Member
from gce_backend.model.orders import Drain


def seen_instance(
    instance: Instance | None,
    gce_id: int | None,
    url: str,
    now: UnixSeconds,
    *,
    stopped: bool = False,
) -> Instance:
    """The change to an entity whose VM is listed.

    Args:
        instance: the entity; None when there is none.
        gce_id: the listed VM's id; None before the VM exists.
        url: its resource link.
        stopped: whether the listed VM is stopped.

    Returns:
        The entity to store; the same object when nothing changes.
    """
    seen = _matched(instance, gce_id, url, now)
    if seen.gce_id != gce_id or seen.is_tombstone:
        return seen
    if not stopped:
        woken = seen.stopped_since is not None or seen.preempted_since is not None
        return replace(seen, stopped_since=None, preempted_since=None) if woken else seen
    return seen if seen.stopped_since is not None else replace(seen, stopped_since=now)


def _matched(instance: Instance | None, gce_id: int | None, url: str, now: UnixSeconds) -> Instance:
    if instance is None:
        return Instance(gce_id=gce_id, url=url, rising_since=now, listed_since=now)
    if gce_id is None or gce_id == instance.gce_id:
        same = gce_id == instance.gce_id  # where it has lost its id, the one we know is gone
        if instance.missing_since is not None and same and not instance.is_tombstone:
            return replace(instance, missing_since=None, abandoned_since=None)
        return instance
    if instance.is_tombstone:  # another VM uses the name again
        drain = _replacement(instance.deletion, now)
        return Instance(gce_id=gce_id, url=url, rising_since=now, listed_since=now, drain=drain)
    if instance.gce_id is None:  # the VM of a member whose deletion may have begun before
        return replace(instance, gce_id=gce_id, url=url, missing_since=None)
    if instance.catalog is CatalogState.NEVER and instance.deletion is None:
        news = replace(instance, gce_id=gce_id, url=url, missing_since=None, rising_since=now)
        news = replace(news, stopped_since=None, preempted_since=None)
        return replace(news, listed_since=now, drain=None, cordon=None)
    # Another VM under the name of one that the catalog knows: the one we know is missing.
    return instance if instance.missing_since is not None else replace(instance, missing_since=now)


def _replacement(deletion: Deletion | None, now: UnixSeconds) -> Drain | None:
    """Why a VM is never offered that has the name of one that was deleted.

    Compute deletes by name: a call that takes effect late hits the VM that has the name then.
    """
    if deletion is None or deletion.unsent:
        return None
    reason = (
        "A deletion that was sent for the earlier VM of its name may still take effect. "
        "Machines that are deleted here need not be recreated: their groups are refilled."
    )
    return Drain(reason, now, endangered=True)


def unseen_instance(instance: Instance, now: UnixSeconds) -> Instance:
    """The change to an entity whose VM is missing from a complete list."""
    if instance.is_tombstone or instance.missing_since is not None:
        return instance
    return replace(instance, missing_since=now)


_MAKING = frozenset({"CREATING", "CREATING_WITHOUT_RETRIES"})
_LEAVING = frozenset({"DELETING", "ABANDONING"})


def is_empty(member: Member, instance: Instance | None) -> bool:
    """Whether a group counts a member whose VM no longer exists, and will not make it again.

    Compute lists such a member without id and status.

    Args:
        instance: the entity of the member's name; None when there is none.
    """
    if member.status or member.action in _MAKING:
        return False
    if instance is None or instance.gce_id is None:  # it may be waiting for its first VM
        return member.action not in _LEAVING | {"RECREATING"}
    if member.action == "RECREATING" and instance.catalog is CatalogState.NEVER:
        return False
    return member.gce_id in {None, instance.gce_id}


def emptied_instance(instance: Instance | None, url: str, now: UnixSeconds) -> Instance:
    """The change to an entity whose group counts it without a VM.

    A member without an entity gets one: only its deletion frees its place in the group.

    Args:
        url: the resource link of the VM that there was.
    """
    if instance is None:
        return Instance(url=url, missing_since=now)
    seen = unseen_instance(instance, now)
    if seen.is_tombstone or seen.abandoned_since is None:
        return seen
    return replace(seen, abandoned_since=None)  # its group deletes it


OUTDATED_SECONDS = 120.0
"""How old a list may be that Compute answers."""
MISSING_SECONDS = 10.0
"""How long a group must omit a VM from its list before anything is done about it."""


def abandoned_instance(instance: Instance, now: UnixSeconds, *, exists: bool) -> Instance:
    """What a look at a VM that its group no longer lists makes of its entity.

    Args:
        exists: whether Compute has that very VM all the same.
    """
    if instance.missing_since is None or instance.is_tombstone:
        return instance
    if not exists:
        known = instance.abandoned_since is not None
        return replace(instance, abandoned_since=None) if known else instance
    return instance if instance.abandoned_since else replace(instance, abandoned_since=now)


def has_left_its_group(instance: Instance, elapsed: Elapsed) -> bool:
    """Whether a VM was abandoned so long ago that its group cannot delete it any more."""
    since = instance.abandoned_since
    return since is not None and elapsed(since) >= OUTDATED_SECONDS


def has_gone_missing(instance: Instance, elapsed: Elapsed) -> bool:
    """Whether a VM's group has not listed it for so long that something is done about it."""
    return instance.missing_since is not None and elapsed(instance.missing_since) >= MISSING_SECONDS


def is_stopped_for_good(instance: Instance, elapsed: Elapsed, patience: float) -> bool:
    """Whether a VM has not run for so long that another takes its place.

    Args:
        patience: seconds in which it may come back.
    """
    return instance.stopped_since is not None and elapsed(instance.stopped_since) >= patience


TAKEN_BACK = "Compute Engine took the VM back (preemption)."
"""What is told of a preempted VM."""


def is_unexplained(instance: Instance) -> bool:
    """Whether a VM stopped or vanished, and it is not known yet that it was preempted."""
    if instance.deletion is not None or instance.gce_id is None:
        return False
    if instance.preempted_since is not None or instance.abandoned_since is not None:
        return False
    return instance.stopped_since is not None or instance.missing_since is not None


def trouble_began(instance: Instance) -> tuple[float | None, float | None]:
    """When a VM stopped, and when it vanished, in Unix seconds; None for what it did not."""
    return instance.stopped_since, instance.missing_since


def preempted_instance(instance: Instance, gce_id: int | None, now: UnixSeconds) -> Instance:
    """What a preemption of a VM makes of its entity.

    Args:
        instance: the entity.
        gce_id: the id of the VM that Compute took back.
    """
    if not is_unexplained(instance) or instance.gce_id != gce_id:
        return instance
    return replace(instance, preempted_since=now)


class LesseeNews(enum.Enum):
    """What a lessee must know about the VM of a leased machine."""

    STOPPED = enum.auto()
    PREEMPTED = enum.auto()
    """Compute Engine takes it back; it may still be listed for 30 s."""
    GONE = enum.auto()
    PREEMPTED_AND_GONE = enum.auto()

    @property
    def is_gone(self) -> bool:
        """Whether the VM no longer exists."""
        return self in {LesseeNews.GONE, LesseeNews.PREEMPTED_AND_GONE}

    @property
    def is_preempted(self) -> bool:
        """Whether Compute Engine took the VM back."""
        return self in {LesseeNews.PREEMPTED, LesseeNews.PREEMPTED_AND_GONE}

    def __str__(self) -> str:
        """A sentence for people."""
        if self.is_preempted:
            return TAKEN_BACK
        if self.is_gone:
            return "The VM no longer exists."
        return "The VM does not run: it was stopped or suspended, or its host failed."


def news_for_lessee(instance: Instance, elapsed: Elapsed) -> LesseeNews | None:
    """What the lessee of a machine must know about its VM; None while all is well.

    That the VM is gone still has to be confirmed at Compute.
    """
    preempted = instance.preempted_since is not None
    if has_gone_missing(instance, elapsed):
        if instance.abandoned_since is not None:
            return None
        return LesseeNews.PREEMPTED_AND_GONE if preempted else LesseeNews.GONE
    if preempted and instance.stopped_since is not None:
        return LesseeNews.PREEMPTED
    return LesseeNews.STOPPED if instance.stopped_since is not None else None


def is_lost(instance: Instance, elapsed: Elapsed, patience: float) -> bool:
    """Whether a machine is to leave the catalog although the configuration names it.

    Its group no longer lists it, its VM does not run, or the catalog itself has not known it
    for a while. One that does not run must not be offered, even should it come back.

    Args:
        patience: seconds for which the catalog must lack it.
    """
    if instance.missing_since is not None:
        return has_gone_missing(instance, elapsed)
    if instance.stopped_since is not None:
        return True
    return instance.lost_since is not None and elapsed(instance.lost_since) >= patience


NOT_RUNNING = "NotRunning"
"""The condition of a group whose VMs do not start."""
START_MINUTES = 15
START_SECONDS = START_MINUTES * 60.0
"""Seconds that a VM may take to run before it is reported."""


def not_running_message(slow: Sequence[Member]) -> str:
    """The message about requested VMs that do not start."""
    statuses = ", ".join(sorted({member.status or member.action for member in slow}))
    count = plural(len(slow), "VM")
    return (
        f"{count} of the group did not start within {START_MINUTES} minutes, for "
        f"example {slow[0].name} ({statuses}). Look at its serial console and its operations. "
        "`gce-backend drain NAME` has one replaced."
    )


WITHOUT_VM = "MemberWithoutVM"
"""The condition of a group that keeps members whose VMs are gone."""
DROP_SECONDS = 300.0
"""Seconds that a group may take to delete such a member before it is reported."""


def without_vm_message(names: Sequence[str]) -> str:
    """The message about members without a VM whose deletion a group does not carry out."""
    count = plural(len(names), "member")
    return (
        f"The group keeps {count} without a VM, for example {names[0]}. Compute has been asked to "
        "delete them again and again. Until it does, the group has fewer machines."
    )


_CANNOT = {
    "CREATING": "cannot be created",
    "CREATING_WITHOUT_RETRIES": "cannot be created",
    "RECREATING": "cannot be made again",
    "DELETING": "cannot be deleted",
    "ABANDONING": "cannot be abandoned",
    "RESTARTING": "cannot be restarted",
    "REFRESHING": "cannot be refreshed",
    "STOPPING": "cannot be stopped",
    "SUSPENDING": "cannot be suspended",
    "STARTING": "cannot be started",
    "RESUMING": "cannot be resumed",
}


def trouble_of(failing: Sequence[Member]) -> str:
    """What a group fails to do with its VMs, and why, in the words of the first of them."""
    action = failing[0].action
    count = sum(member.action == action for member in failing)
    what = _CANNOT.get(action, f"fail in {action}")
    error, code = failing[0].error, failing[0].error_code
    why = error if code in error else f"{code}: {error}" if error else code
    return f"{plural(count, 'VM')} {what}: {why}"
