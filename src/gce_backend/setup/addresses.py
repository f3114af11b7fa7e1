"""`gce-backend configure`: stores the addresses of the daemon's services."""

from __future__ import annotations

from typing import Any

import msgspec

from gce_backend.base.cause import caused_by
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    MACHINE_PROVIDER_KEY,
    ConfigServiceAddress,
    MachineProviderAddress,
    StoredConfiguration,
)


async def configure(
    fleet: Fleet,
    *,
    config_set: str | None = None,
    config_service: str | None = None,
    machine_provider: str | None = None,
    who: str = "",
) -> int:
    """Stores the addresses; an address that is None stays as it is. Safe to run again.

    Args:
        fleet: the entities.
        config_set: the config set to fetch, e.g. `services/gce-backend`.
        config_service: the config service's host name or URL.
        machine_provider: the Machine Provider's URL.
        who: who orders it.

    Returns:
        How many entities were changed.

    Raises:
        RemoteError: Datastore could not be reached.
    """
    await fleet.refresh([CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY])

    def setting(kind: Any, **values: str | None) -> Any:
        given = {name: value for name, value in values.items() if value is not None}
        return lambda entity: msgspec.structs.replace(entity or kind(), **given)

    changes: list[Change[Any]] = [
        Change(CONFIGURATION_KEY, setting(StoredConfiguration, config_set=config_set)),
        Change(CONFIG_SETTINGS_KEY, setting(ConfigServiceAddress, service_hostname=config_service)),
        Change(
            MACHINE_PROVIDER_KEY,
            setting(MachineProviderAddress, instance_url=machine_provider),
        ),
    ]
    with caused_by("operator configure", who):
        return await fleet.change(changes)
