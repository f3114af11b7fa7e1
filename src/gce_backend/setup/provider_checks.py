"""`gce-backend doctor --machine-provider`: checks what one needs. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from gce_backend.base.errors import BackendError, RemoteError, SchemaError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.machine_provider.access_import import address_of, present_access
from gce_backend.machine_provider.entities import CAPACITY_KIND
from gce_backend.machine_provider.schema import check_schema
from gce_backend.settings.settings import ProviderSettings
from gce_backend.setup.doctor import CheckVerdict, Finding
from gce_backend.setup.permissions import DATASTORE, PROVIDER_PUBSUB
from gce_backend.setup.project import check_permissions

PROBE_SECONDS = 5.0


class ProviderSubject(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at.

    Attributes:
        settings: of the Machine Provider.
        project: of its Datastore and Pub/Sub.
        datastore: its namespace.
        resource_manager: tells what the caller may do.
        session: for its own endpoint.
        identity: tokens that identify the caller, for LUCI Config.
    """

    settings: ProviderSettings
    project: str
    datastore: Datastore
    resource_manager: ResourceManager
    session: aiohttp.ClientSession
    identity: TokenSource


async def examine_provider(subject: ProviderSubject) -> AsyncIterator[Finding]:
    """Makes all checks, one after the other."""
    yield await _access(subject)
    for service, permissions in (("datastore", DATASTORE), ("pubsub", PROVIDER_PUBSUB)):
        done = await check_permissions(
            subject.resource_manager, subject.project, service, permissions
        )
        verdict = CheckVerdict.OK if done.ok else CheckVerdict.FAILED
        yield Finding(f"{service} permissions", verdict, done.outcome, done.remedy)
    yield await _store(subject)
    yield await _endpoint(subject)


async def _access(subject: ProviderSubject) -> Finding:
    settings = subject.settings
    try:
        policy = await present_access(settings, subject.session, subject.identity)
    except BackendError as error:
        remedy = "correct it, or say where it is: provider.access or provider.access_source"
        return Finding("access.cfg", CheckVerdict.FAILED, str(error), remedy)
    if policy.warnings:
        seen = "; ".join(str(problem) for problem in policy.warnings)
        return Finding("access.cfg", CheckVerdict.WARNING, seen, "look whether it is meant so")
    return Finding("access.cfg", CheckVerdict.OK, f"{address_of(settings)} is valid")


async def _store(subject: ProviderSubject) -> Finding:
    name = f"Datastore namespace {subject.settings.namespace}"
    try:
        await subject.datastore.query(CAPACITY_KIND, keys_only=True)
        version = await check_schema(subject.datastore)
    except SchemaError as error:
        remedy = "use the release that wrote it, or a newer one"
        return Finding(name, CheckVerdict.FAILED, str(error), remedy)
    except RemoteError as error:
        remedy = "make the database in Datastore mode, and grant its permissions"
        return Finding(name, CheckVerdict.FAILED, str(error), remedy)
    return Finding(name, CheckVerdict.OK, f"it can be read; schema version {version}")


async def _endpoint(subject: ProviderSubject) -> Finding:
    """Whether a process works where callers look for one."""
    url = subject.settings.url
    if url is None:
        remedy = "set provider.url to the address that callers use"
        seen = "provider.url is not set"
        return Finding("running process", CheckVerdict.SKIPPED, seen, remedy)
    limit = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        async with subject.session.get(
            f"{url}/readyz", timeout=limit, allow_redirects=False
        ) as response:
            if response.status == 200:
                return Finding("running process", CheckVerdict.OK, f"{url} works")
            seen = f"{url}/readyz answers {response.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        seen = f"{url} does not answer ({type(error).__name__})"
    remedy = "start `gce-backend machine-provider`; its log says what keeps it from working"
    return Finding("running process", CheckVerdict.WARNING, seen, remedy)
