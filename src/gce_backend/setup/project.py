"""`gce-backend setup`: creates and checks what the daemon needs in a real cloud, step by step.

The steps are independent: when one fails, the others continue.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from gce_backend import __version__
from gce_backend.base.errors import BackendError, NotFoundError, RemoteError, SettingsError
from gce_backend.clients.addresses import trusted_origin
from gce_backend.clients.pubsub import PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.configuration.parsing import examine
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.schema import check, migrate
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
    StoredConfiguration,
)
from gce_backend.rules.ownership import new_store_id
from gce_backend.settings.settings import Settings
from gce_backend.setup.addresses import configure
from gce_backend.setup.messaging import Done, of_permissions, provision_messages
from gce_backend.setup.permissions import COMPUTE, DATASTORE

ACT_AS = (
    "grant the daemon's service account roles/iam.serviceAccountUser on each service account that "
    "templates.cfg names, and on no others"
)
NOT_IMPLEMENTED = 501
"""The status of the embedded cloud for what it does not serve; Google answers 404."""
NO_SUCH_PROJECT = (
    "Either there is no such project, or endpoints.resource_manager is wrong: it must end in `/v1`"
)


class Addresses(NamedTuple):
    """The addresses from the command; None keeps what is stored.

    Attributes:
        config_set: the config set to fetch, e.g. `services/gce-backend`.
        config_service: the config service's host name or URL.
        machine_provider: the Machine Provider's URL.
    """

    config_set: str | None = None
    config_service: str | None = None
    machine_provider: str | None = None


async def set_up(
    settings: Settings,
    *,
    project: str,
    store: Store,
    pubsub: PubSub,
    resource_manager: ResourceManager,
    addresses: Addresses,
    publisher: str | None = None,
    rng: random.Random,
    who: str = "",
    dry_run: bool = False,
) -> AsyncIterator[Done]:
    """Creates what is missing, and checks the rest. Safe to run again.

    Args:
        project: the project of store and messages.
        store: the entities.
        pubsub: Pub/Sub of that project.
        resource_manager: tells what the caller may do.
        addresses: what to store.
        publisher: the Machine Provider's service account, which may publish then.
        rng: for the id of the store.
        who: whose credentials are used; "" is not known.
        dry_run: say what would be made, and make nothing.
    """
    async for step in provision_messages(pubsub, settings, publisher=publisher, dry_run=dry_run):
        yield step
    try:
        found = await check(store) if dry_run else (await migrate(store, __version__)).after
    except BackendError as error:
        yield Done("the schema of the store", "failed", str(error))
        return
    yield Done(f"the schema of the store: version {found}", "present")
    fleet = Fleet(store)
    for step in await _store_addresses(settings, fleet, addresses, who, dry_run=dry_run):
        yield step
    yield await _identify(fleet, new_store_id(rng), dry_run=dry_run)
    yield await check_permissions(resource_manager, project, "datastore", DATASTORE)
    for compute_project in sorted({project, *named_projects(fleet.configuration)}):
        yield await check_permissions(resource_manager, compute_project, "compute", COMPUTE)
    yield Done("permission to use the machines' service accounts", "by hand", ACT_AS)


async def _store_addresses(
    settings: Settings,
    fleet: Fleet,
    given: Addresses,
    who: str,
    *,
    dry_run: bool,
) -> list[Done]:
    try:
        await fleet.refresh([CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY])
        stored = Addresses(
            fleet.configuration.config_set,
            fleet.config_settings.service_hostname,
            fleet.machine_provider.instance_url,
        )
        steps = list(judge(settings, stored, given, dry_run=dry_run))
        if not dry_run and all(step.outcome != "wrong" for step in steps):
            await configure(fleet, **given._asdict(), who=who)
    except BackendError as error:
        return [Done("the three entities in Datastore", "failed", str(error))]
    return steps


async def _identify(fleet: Fleet, fresh: str, *, dry_run: bool) -> Done:
    """The step that gives the store an id, which everything created from it carries."""
    what = "the id of the store"
    try:
        await fleet.refresh([STORE_IDENTITY_KEY])
        known = fleet.identity
        if dry_run and not known:
            return Done(what, "would make")
        return Done(f"{what}: {await fleet.identify(fresh)}", "present" if known else "made")
    except BackendError as error:
        return Done(what, "failed", str(error))


def judge(
    settings: Settings, stored: Addresses, given: Addresses, *, dry_run: bool
) -> Iterator[Done]:
    """The step of each address; an address that the daemon would refuse is not stored."""
    named = {
        "config_set": ("Configuration.config_set", "--config-set"),
        "config_service": ("ConfigSettings.service_hostname", "--config-service"),
        "machine_provider": ("MachineProviderConfiguration.instance_url", "--machine-provider"),
    }
    hosts = {
        "config_service": (settings.config.allowed_hosts, "config.allowed_hosts"),
        "machine_provider": (
            settings.machine_provider.allowed_hosts,
            "machine_provider.allowed_hosts",
        ),
    }
    for name, (what, option) in named.items():
        before, wanted = getattr(stored, name), getattr(given, name)
        value = before if wanted is None else wanted
        if not value:
            if settings.config.source == "directory" and name != "machine_provider":
                yield Done(what, "not needed", "the configuration comes from a directory")
            else:
                yield Done(what, "missing", f"run setup with {option}")
            continue
        if name in hosts:
            allowed, setting = hosts[name]
            try:
                trusted_origin(value, allowed, what=what, setting=setting)
            except SettingsError as error:
                yield Done(what, "wrong", str(error))
                continue
        changed = "would change" if dry_run else "changed"
        yield Done(f"{what} = {value}", "present" if value == before else changed)


def refuse_wrong(settings: Settings, given: Addresses) -> None:
    """Refuses addresses that the daemon would refuse.

    Raises:
        SettingsError: one of them may not be used.
    """
    for step in judge(settings, Addresses(), given, dry_run=True):
        if step.outcome == "wrong":
            raise SettingsError(step.remedy)


async def check_permissions(
    resource_manager: ResourceManager, project: str, service: str, permissions: tuple[str, ...]
) -> Done:
    """Checks the caller's permissions in a project; the outcome names the missing ones."""
    what = f"{service} permissions of this account in project {project}"
    try:
        granted = await resource_manager.granted(project, permissions)
    except RemoteError as error:
        wrong_place = isinstance(error, NotFoundError) or error.status == NOT_IMPLEMENTED
        return Done(what, "failed", f"{error}. {NO_SUCH_PROJECT}" if wrong_place else str(error))
    return of_permissions(what, permissions, granted)


def named_projects(configuration: StoredConfiguration) -> set[str]:
    """The projects that the stored configuration's templates name."""
    found = examine(
        configuration.template_config, configuration.manager_config, configuration.files
    )
    return {template.project for template in found.configuration.templates}
