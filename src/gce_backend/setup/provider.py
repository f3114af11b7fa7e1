"""`gce-backend setup --role machine-provider`: prepares the Machine Provider's project.

It needs little: topics and subscriptions come and go with the machines, and a Datastore namespace
begins with its first entity. The steps are independent: when one fails, the others continue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from gce_backend.base.errors import BackendError, RemoteError, SchemaError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.pubsub import PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.machine_provider.access_import import address_of, present_access
from gce_backend.machine_provider.entities import CAPACITY_KIND
from gce_backend.machine_provider.schema import check_schema
from gce_backend.settings.settings import ProviderSettings, Settings
from gce_backend.setup.messaging import Done, allow_publisher
from gce_backend.setup.permissions import DATASTORE, PROVIDER_PUBSUB
from gce_backend.setup.project import check_permissions


async def set_up_provider(
    settings: Settings,
    *,
    project: str,
    datastore: Datastore,
    pubsub: PubSub,
    resource_manager: ResourceManager,
    session: aiohttp.ClientSession,
    identity: TokenSource,
    account: str | None = None,
    dry_run: bool = False,
) -> AsyncIterator[Done]:
    """Creates what is missing, and checks the rest. Safe to run again.

    Args:
        settings: the process settings.
        project: the Machine Provider's project, in which the daemon's topic is, too.
        datastore: its namespace.
        pubsub: Pub/Sub of that project.
        resource_manager: tells what the caller may do.
        session: for LUCI Config, if access.cfg is there.
        identity: tokens that identify the caller, for the same.
        account: its service account, which may publish to the daemon's topic then.
        dry_run: say what would be changed, and change nothing.
    """
    yield await _access(settings.provider, session, identity)
    yield await _namespace(datastore, settings.provider.namespace)
    for service, permissions in (("datastore", DATASTORE), ("pubsub", PROVIDER_PUBSUB)):
        yield await check_permissions(resource_manager, project, service, permissions)
    topic = pubsub.topic(settings.pubsub.topic)
    if account:
        yield await allow_publisher(pubsub, topic, account, dry_run=dry_run)
    else:
        remedy = "run this with --machine-provider-account EMAIL"
        yield Done(f"the right to publish to the daemon's topic {topic}", "unset", remedy)
    yield _address(settings.provider)


async def _access(
    provider: ProviderSettings, session: aiohttp.ClientSession, identity: TokenSource
) -> Done:
    if provider.access_source == "file" and provider.access is None:
        return Done("access.cfg", "missing", "name the file in provider.access")
    what = f"access.cfg: {address_of(provider)}"
    try:
        await present_access(provider, session, identity)
    except BackendError as error:
        return Done(what, "wrong", str(error))
    return Done(what, "present")


async def _namespace(datastore: Datastore, namespace: str) -> Done:
    """A namespace needs no creation, but a database in Datastore mode around it."""
    what = f"Datastore namespace {namespace}"
    try:
        await datastore.query(CAPACITY_KIND, keys_only=True)
        version = await check_schema(datastore)
    except SchemaError as error:
        return Done(what, "wrong", str(error))
    except RemoteError as error:
        return Done(what, "failed", f"{error}. Is there a database in Datastore mode?")
    return Done(f"{what}, schema version {version}", "present")


def _address(provider: ProviderSettings) -> Done:
    if provider.url is None:
        remedy = "set provider.url for those who lease; they reach it through a proxy with TLS"
        return Done("the address that callers use", "unset", remedy)
    return Done(f"the address that callers use: {provider.url}", "present")
