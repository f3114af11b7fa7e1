"""Deleting VMs: the one place from which a VM's destruction is asked for.

Every instance is read again just before, needs a permit, and has its deletion stored, guarded by
its version, before Compute hears of it. A deletion is repeated until the VM is truly gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

from gce_backend import specs
from gce_backend.actuation import LOOK_AGAIN, Step, act_on_each
from gce_backend.caps import EVIDENCE, Evidence, allowance
from gce_backend.context import Context
from gce_backend.errors import NotFoundError
from gce_backend.fleet import Change, when_present
from gce_backend.job import Outcome
from gce_backend.lifecycle import permit, replace
from gce_backend.models import Deletion, Instance, Key

MAX_NAMES = 1000
"""Instances of one deleteInstances call."""
CAP = "deletions"

Apply: TypeAlias = Callable[[Instance | None], Instance | None]
Wanted: TypeAlias = Callable[[Key, Instance], bool]


async def delete(context: Context, job: str, wanted: Wanted) -> Outcome:
    """Deletes the instances that a job wants gone, and follows each to its end.

    Args:
        context: the job's context.
        job: the job's name.
        wanted: whether the job wants this instance gone; asked again of the fresh entity.
    """
    confirmed, waiting = await _confirm(context, job, wanted)
    if context.paused:
        return Outcome(changed=confirmed, facts={"paused": 1, "confirmed": confirmed})
    fresh = [
        key
        for key, instance in context.fleet.instances.items()
        if instance.deletion is None and wanted(key, instance)
    ]
    await context.fleet.refresh(fresh)
    allowed, held = _under_caps(context, fresh, wanted)
    _note_held(context, job, held)
    repeats = [key for key in waiting if _is_due_again(context, key)]
    asked = await _ask(context, job, [*allowed, *repeats], wanted)
    unconfirmed = len(waiting) + asked.changed > 0
    waits = [wait for wait in (asked.again_after, LOOK_AGAIN if unconfirmed else None) if wait]
    return Outcome(
        changed=confirmed + asked.changed,
        again_after=min(waits, default=None),
        facts={
            **asked.facts,
            **({"confirmed": confirmed} if confirmed else {}),
            **({"held": held} if held else {}),
        },
        problems=asked.problems,
    )


async def _confirm(context: Context, job: str, wanted: Wanted) -> tuple[int, list[Key]]:
    """Ends the deletions of VMs that are gone; returns how many, and the others' keys."""
    pending = [
        key
        for key, instance in context.fleet.instances.items()
        if instance.deletion is not None and not instance.is_tombstone and wanted(key, instance)
    ]
    unlisted = [key for key in pending if context.fleet.instances[key].missing_since is not None]
    gone: list[Key] = []

    async def look(key: Key) -> Step:
        if not await is_gone(context, key):
            return Step.NOTHING
        gone.append(key)
        return Step.CHANGED

    await act_on_each(context, job, unlisted, look)
    if gone:
        await context.fleet.change([Change(key, _gone(context.clock.now())) for key in gone])
        for key in gone:
            _log(context, "instance.deleted", job, key)
    return len(gone), [key for key in pending if key not in set(gone)]


async def is_gone(context: Context, key: Key) -> bool:
    """Whether Compute says that it has no such VM, or another one of that name.

    Its group's complete list has not shown it; this is the second look.
    """
    instance = context.fleet.instances[key]
    if key.parent is None:
        return False
    project = context.fleet.revision_of(key.parent).template.project
    try:
        found = await context.compute.get_instance(project, key.parent.name, key.name)
    except NotFoundError:
        return True
    return instance.gce_id is not None and found.id != instance.gce_id


def _under_caps(context: Context, keys: Sequence[Key], wanted: Wanted) -> tuple[list[Key], int]:
    """Those that may be deleted now, and how many the caps hold back."""
    now = context.clock.now()
    instances = context.fleet.instances
    deletions = [i.deletion for i in instances.values() if i.deletion is not None]
    living = sum(not instance.is_tombstone for instance in instances.values())
    lifted = now < context.fleet.control.cap_lifted_until
    allowed = allowance(context.settings.deletion, deletions, living, now, lifted=lifted)
    left = {evidence: allowed.of(evidence) for evidence in Evidence}
    chosen, held = [], 0
    for key in keys:
        instance = instances.get(key)
        granted = permit(instance, now) if instance is not None else None
        if instance is None or granted is None or not wanted(key, instance):
            continue
        if left[EVIDENCE[granted]] > 0:
            left[EVIDENCE[granted]] -= 1
            chosen.append(key)
        else:
            held += 1
    return chosen, held


def _note_held(context: Context, job: str, held: int) -> None:
    context.world.held[job] = held
    context.metrics.deletions_held(sum(context.world.held.values()))
    if not held:
        context.conditions.clear(CAP, job)
        return
    message = (
        f"{held} deletions are held back: more were asked for within "
        f"{context.settings.deletion.window_seconds:.0f} s than the cap allows. Look whether the "
        "Machine Provider is well; then wait, or lift the cap with `gce-backend lift-cap`."
    )
    if context.conditions.note(CAP, job, "DeletionCap", message):
        context.log.error("deletion.held", job=job, held=held)


def _is_due_again(context: Context, key: Key) -> bool:
    deletion = context.fleet.instances[key].deletion
    if deletion is None:
        return False
    age = context.clock.now() - deletion.asked
    return not 0 <= age < context.settings.deletion.repeat_seconds


async def _ask(context: Context, job: str, keys: Sequence[Key], wanted: Wanted) -> Outcome:
    """Asks Compute for the deletion of instances, one call for many of a group."""
    groups: defaultdict[Key, list[Key]] = defaultdict(list)
    for key in keys:
        if key.parent is not None and not context.conditions.blocked(str(key.parent), job):
            groups[key.parent].append(key)

    async def ask(manager: Key) -> Step:
        step = Step.NOTHING
        for start in range(0, len(groups[manager]), MAX_NAMES):
            if await _ask_group(context, job, manager, groups[manager][start:][:MAX_NAMES], wanted):
                step = Step.CHANGED
        return step

    return await act_on_each(context, job, list(groups), ask)


async def _ask_group(
    context: Context, job: str, manager: Key, keys: Sequence[Key], wanted: Wanted
) -> bool:
    request_id, now = context.new_id(), context.clock.now()

    def intend(key: Key) -> Apply:
        def apply(instance: Instance) -> Instance:
            earlier = instance.deletion
            if instance.is_tombstone or (earlier and earlier.request_id == request_id):
                return instance
            if earlier is not None:
                return replace(
                    instance, deletion=replace(earlier, asked=now, request_id=request_id)
                )
            granted = permit(instance, now)
            if granted is None or not wanted(key, instance):
                return instance
            deletion = Deletion(granted, requested=now, asked=now, request_id=request_id)
            return replace(instance, deletion=deletion)

        return when_present(apply)

    await context.fleet.change([Change(key, intend(key)) for key in keys])
    ready = [key for key in keys if _carries(context, key, request_id)]
    if not ready:
        return False
    project = context.fleet.revision_of(manager).template.project
    await context.compute.delete_instances(
        project,
        manager.name,
        specs.group_name_of(manager),
        [key.name for key in ready],
        request_id=request_id,
        skip_invalid=True,
    )
    for key in ready:
        _log(context, "instance.deletion_requested", job, key)
    return True


def _carries(context: Context, key: Key, request_id: str) -> bool:
    instance = context.fleet.instances.get(key)
    return (
        instance is not None
        and instance.deletion is not None
        and instance.deletion.request_id == request_id
    )


def _gone(now: float) -> Apply:
    def apply(instance: Instance) -> Instance:
        deletion = instance.deletion
        if deletion is None or deletion.confirmed is not None:
            return instance
        return replace(
            instance,
            deletion=replace(deletion, confirmed=now),
            pending_metadata_updates=(),
            active_metadata_update=None,
        )

    return when_present(apply)


def _log(context: Context, event: str, job: str, key: Key) -> None:
    instance = context.fleet.instances[key]
    manager = key.parent
    context.log.info(
        event,
        job=job,
        instance=key.name,
        gce_id=str(instance.gce_id),
        zone=manager.name if manager else "",
        template=manager.parent.parent.name
        if manager and manager.parent and manager.parent.parent
        else "",
        permit=instance.deletion.permit.value if instance.deletion else "",
    )
