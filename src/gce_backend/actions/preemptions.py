"""Finds out whether Spot VMs that stopped or vanished were preempted: Compute's operations tell it.

A preempted VM has an operation of Compute's own. One list of a zone's newest operations is asked
for, once for each change of such VMs: no answer costs a list in a quiet minute.
"""

from __future__ import annotations

from collections import defaultdict

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError, MissingEntityError
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.sightings import is_unexplained, preempted_instance, trouble_began

PREEMPTED = "compute.instances.preempted"
"""The type of the operation of a VM that Compute Engine takes back."""
PAGE = 500
"""Operations of a page."""


async def look(context: Context) -> int:
    """Stores which Spot VMs were preempted.

    A list that fails is asked for again by the next run, until when the condition's pause ends.

    Returns:
        How many entities were written.

    Raises:
        RemoteError: Datastore could not be written.
    """
    changed = 0
    for group in context.memory.seen.groups:
        context.metrics.preempted(group.base_name, group.zone, 0)
    for (project, zone), keys in _unexplained(context).items():
        subject = f"operations in {zone} of project {project}"
        if context.conditions.blocked(subject):
            continue
        try:
            # The newest ones: among them are those that groups start for VMs in their place.
            pages = 1 + 2 * len(keys) // PAGE
            listing = await context.compute.list_operations(project, zone, pages=pages)
        except BackendError as error:
            context.conditions.fail(subject, error)
            continue
        context.conditions.clear(subject)
        taken = {one.target_id for one in listing.items if one.operation_type == PREEMPTED}
        changed += await _store(context, keys, taken)
    return changed


def _unexplained(context: Context) -> dict[tuple[str, str], list[MachineKey]]:
    """The Spot VMs that stopped or vanished and that were not asked about since, by zone."""
    asked = context.memory.seen.asked_preempted
    troubled = {
        key: instance
        for key, instance in context.fleet.having(Facet.TROUBLED)
        if is_unexplained(instance)
    }
    for key in asked.keys() - troubled.keys():
        del asked[key]
    found: defaultdict[tuple[str, str], list[MachineKey]] = defaultdict(list)
    for key, instance in troubled.items():
        if asked.get(key) == trouble_began(instance):
            continue
        try:
            template = context.fleet.revision_of(key.group).template
        except MissingEntityError:
            continue  # the jobs that need it report it
        if template.is_spot:
            found[template.project, key.zone].append(key)
    return found


async def _store(context: Context, keys: list[MachineKey], taken: set[int]) -> int:
    now, taken_back = context.clock.now(), dict[MachineKey, Instance]()
    for key in keys:
        instance = context.fleet.instances.get(key)
        if instance is None:
            continue
        context.memory.seen.asked_preempted[key] = trouble_began(instance)
        if instance.gce_id in taken:
            taken_back[key] = instance
    written = await context.fleet.change(
        [Change(key, _preempted(instance, now)) for key, instance in taken_back.items()]
    )
    for key in taken_back:
        context.metrics.preempted(key.base_name, key.zone, 1)
        context.log.warning("instance.preempted", **key.log_fields)
    return written


def _preempted(asked: Instance, now: UnixSeconds) -> Apply[Instance]:
    return when_present(lambda instance: preempted_instance(instance, asked.gce_id, now))
