"""The jobs, in reading order, and nothing else.

A job is one module: what it is for, `run`, and its declaration `JOB`. Jobs do not import each
other, nor any client: they get what they need through the context.
"""

from gce_backend.context import Context
from gce_backend.job import Job
from gce_backend.loops import (
    catalog_instances,
    create_instance_group_managers,
    create_instance_templates,
    fetch_instances,
    import_config,
    process_config,
    resize_instance_groups,
)

JOBS: tuple[Job[Context], ...] = (
    import_config.JOB,
    process_config.JOB,
    create_instance_templates.JOB,
    create_instance_group_managers.JOB,
    fetch_instances.JOB,
    catalog_instances.JOB,
    resize_instance_groups.JOB,
)
