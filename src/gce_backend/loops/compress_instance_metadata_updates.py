"""compress-instance-metadata-updates: all pending updates of an instance become its active one."""

from __future__ import annotations

from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import Instance
from gce_backend.rules.facets import Facet
from gce_backend.rules.metadata_updates import compress


async def run(context: Context) -> Outcome:
    """Compresses the updates of instances without an active update."""
    keys = [
        key
        for key, instance in context.fleet.having(Facet.UPDATING)
        if instance.pending_metadata_updates and instance.active_metadata_update is None
    ]
    changed = await context.fleet.change([Change(key, _compress) for key in keys])
    return Outcome(changed=changed, facts={"compressed": changed} if changed else {})


@when_present
def _compress(instance: Instance) -> Instance:
    return compress(instance)


JOB = Job(
    name="compress-instance-metadata-updates",
    run=run,
    timeout=60.0,
    wakes=("update-instance-metadata",),
)
