"""Puts an embedded cloud together from its services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import aiohttp
from aiohttp import web

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
from gce_backend.machine_provider.provider import Provider

Pages = Callable[
    [Callable[[], Provider | None], Callable[[], Mapping[str, str]], Callable[[], str]],
    Iterable[web.RouteDef],
]
"""Makes pages: given the Machine Provider, what keeps it from answering, and a token for anybody"""


def embedded_cloud(
    state: Path | None,
    clock: Clock,
    options: CloudOptions,
    *,
    connector: Callable[[], aiohttp.BaseConnector] | None = None,
    pages: Pages = lambda _provider, _unready, _token: (),
) -> Cloud:
    """All services on one state file; `start` makes it listen.

    Args:
        state: the SQLite file; None keeps everything in memory.
        options: how it behaves.
        connector: makes the connector of its services' HTTP clients; None: calls to each other take
            no connection.
        pages: makes the pages of its Machine Provider.

    Raises:
        StateFileError: the file cannot be used; the message says what to do.
    """
    cloud = Cloud(Tables(state), clock, options)
    metadata, compute = MetadataService(cloud), ComputeService(cloud)
    provider = MachineProviderService(cloud, connector=connector)
    cloud.add(
        metadata,
        compute,
        DatastoreService(cloud),
        PubSubService(cloud),
        ResourceManagerService(cloud),
        LuciConfigService(cloud),
        provider,
    )
    cloud.add_pages(pages(lambda: provider.provider, provider.unready, metadata.own_token))
    if options.vm_command:
        cloud.add(VmCommands(cloud, compute, metadata))
    return cloud
