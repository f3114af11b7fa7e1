"""Puts an embedded cloud together from its services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp

from gce_backend.base.clock import Clock
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.compute import ComputeService
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.localcloud.luci_config import LuciConfigService
from gce_backend.localcloud.machine_provider import MachineProviderService
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.resource_manager import ResourceManagerService
from gce_backend.localcloud.tables import Tables
from gce_backend.localcloud.vm_commands import VmCommands


def embedded_cloud(
    state: Path | None,
    clock: Clock,
    options: CloudOptions,
    *,
    connector: Callable[[], aiohttp.BaseConnector] = aiohttp.TCPConnector,
) -> Cloud:
    """All services on one state file; `start` makes it listen.

    Args:
        state: the SQLite file; None keeps everything in memory.
        options: how it behaves.
        connector: makes the connector of its services' HTTP clients.

    Raises:
        StateFileError: the file cannot be used; the message says what to do.
    """
    cloud = Cloud(Tables(state), clock, options)
    metadata, compute = MetadataService(cloud), ComputeService(cloud)
    cloud.add(
        metadata,
        compute,
        DatastoreService(cloud),
        PubSubService(cloud),
        ResourceManagerService(cloud),
        LuciConfigService(cloud),
        MachineProviderService(cloud, connector=connector),
    )
    if options.vm_command:
        cloud.add(VmCommands(cloud, compute, metadata))
    return cloud
