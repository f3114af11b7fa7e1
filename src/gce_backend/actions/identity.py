"""Identifies our resources: by the mark that they carry, and the numeric ids in entities.

The mark is the owner in the settings and the id of the store. The id is stored once. The process
remembers it, so that a store that has lost the entity gets the same id again.
"""

from __future__ import annotations

from gce_backend.base.errors import ReplacedResourceError
from gce_backend.clients.compute.types import ComputeGroup, ComputeTemplate
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey, RevisionKey
from gce_backend.rules import ownership
from gce_backend.rules.ownership import Mark, new_store_id

Resource = ComputeGroup | ComputeTemplate
"""A resource of ours, as Compute gives it back."""


def known_mark(context: Context) -> Mark:
    """The mark as far as it is known; nothing is written."""
    store_id = context.fleet.identity or context.memory.store_id
    return Mark(context.settings.owner, store_id)


def is_meant(context: Context, found: Resource, known: int | None, revision: RevisionKey) -> bool:
    """Whether a resource is an entity's own, not another one of its name.

    Args:
        found: the resource, as Compute has it.
        known: the numeric id in the entity; None where it is not known.
        revision: what the resource was made for.
    """
    return ownership.is_meant(found.id, found.description, known, known_mark(context), revision)


async def our_group(context: Context, key: GroupKey) -> ComputeGroup:
    """A manager's group, as Compute has it.

    Raises:
        NotFoundError: there is none of its name.
        ReplacedResourceError: there is another one of its name.
        RemoteError: Compute does not say.
    """
    manager, name = context.fleet.managers[key], context.fleet.group_name(key)
    project = context.fleet.revision_of(key).template.project
    found = await context.compute.get_group(project, key.zone, name)
    if not is_meant(context, found, manager.gce_id, key.revision):
        what = f"group {name} in {project}, {key.zone}"
        raise ReplacedResourceError(ownership.replaced(what, found.id, manager.gce_id))
    return found


async def our_template(context: Context, key: RevisionKey) -> ComputeTemplate:
    """A revision's instance template, as Compute has it.

    Raises:
        NotFoundError: there is none of its name.
        ReplacedResourceError: there is another one of its name.
        RemoteError: Compute does not say.
    """
    revision, name = context.fleet.revisions[key], context.fleet.template_name(key)
    project = revision.template.project
    found = await context.compute.get_instance_template(project, name)
    if not is_meant(context, found, revision.gce_id, key):
        what = f"instance template {name} in {project}"
        raise ReplacedResourceError(ownership.replaced(what, found.id, revision.gce_id))
    return found


async def mark(context: Context) -> Mark:
    """The mark for new resources; gives the store an id if it has none.

    Raises:
        RemoteError: Datastore could not be reached.
        CorruptEntityError: the stored id cannot be understood, so nothing can be made.
    """
    if not context.fleet.identity:
        fresh = context.memory.store_id or new_store_id(context.rng)
        await context.fleet.identify(fresh)
    context.memory.store_id = context.fleet.identity
    return Mark(context.settings.owner, context.fleet.identity)
