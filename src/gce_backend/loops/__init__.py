"""The jobs, in reading order, and nothing else.

A job is one module: what it is for, `run`, and its declaration `JOB`. What may not live here:
decisions, which are in `rules`, and steps that two jobs share, which are in `actions`. Jobs do
not import each other, nor any client: they get what they need through the context.
"""

from gce_backend.engine.context import Context
from gce_backend.engine.forgetting import forgetting
from gce_backend.engine.job import Job
from gce_backend.loops import (
    catalog_instances,
    check_instance_metadata_operations,
    cleanup_entities,
    compress_instance_metadata_updates,
    create_instance_group_managers,
    create_instance_templates,
    delete_drained_instances,
    delete_instance_group_managers,
    delete_instance_templates,
    delete_instances_pending_deletion,
    fetch_instances,
    import_config,
    process_config,
    process_pubsub_messages,
    remove_cataloged_instances,
    resize_instance_groups,
    update_instance_metadata,
)

JOBS: tuple[Job[Context], ...] = tuple(
    forgetting(module.JOB)
    for module in (
        import_config,
        process_config,
        create_instance_templates,
        create_instance_group_managers,
        fetch_instances,
        catalog_instances,
        process_pubsub_messages,
        compress_instance_metadata_updates,
        update_instance_metadata,
        check_instance_metadata_operations,
        delete_instances_pending_deletion,
        resize_instance_groups,
        remove_cataloged_instances,
        delete_drained_instances,
        delete_instance_group_managers,
        delete_instance_templates,
        cleanup_entities,
    )
)
