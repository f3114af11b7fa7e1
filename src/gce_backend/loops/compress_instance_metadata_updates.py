"""compress-instance-metadata-updates: all pending updates of an instance become its active one."""

from __future__ import annotations

from gce_backend.context import Context
from gce_backend.fleet import Change, when_present
from gce_backend.job import Job, Outcome
from gce_backend.metadata import compress
from gce_backend.models import Instance

NAME = "compress-instance-metadata-updates"


async def run(context: Context) -> Outcome:
    """Compresses, where no update is active already."""
    keys = [
        key
        for key, instance in context.fleet.instances.items()
        if instance.pending_metadata_updates and instance.active_metadata_update is None
    ]
    changed = await context.fleet.change([Change(key, _compress) for key in keys])
    return Outcome(changed=changed, facts={"compressed": changed} if changed else {})


@when_present
def _compress(instance: Instance) -> Instance:
    return compress(instance)


JOB = Job(name=NAME, run=run, timeout=60.0, wakes=("update-instance-metadata",))
