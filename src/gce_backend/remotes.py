"""The services whose addresses are in the store: the config service and the Machine Provider.

An operator writes an address into an entity; a token goes there only if the settings allow that
host, over https or on loopback.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp

from gce_backend.auth import TokenSource
from gce_backend.call_observer import CallObserver
from gce_backend.config import referenced_files
from gce_backend.config_source import DirectorySource, LuciConfigV1, LuciConfigV2
from gce_backend.errors import SettingsError
from gce_backend.fleet import Fleet
from gce_backend.json_api import Limits
from gce_backend.machine_provider import MachineProvider
from gce_backend.settings import Settings


def trusted_origin(text: str, allowed_hosts: Sequence[str], *, what: str, setting: str) -> str:
    """The origin at an address from the store, if a token may be sent there.

    Args:
        text: a host name or a URL; without a scheme, https (http on loopback).
        allowed_hosts: patterns of the settings.
        what: what the address is of, for the error.
        setting: the setting that would allow it, for the error.

    Raises:
        SettingsError: nothing is stored, or the host is not allowed, or it is plain http.
    """
    if not text:
        raise SettingsError(f"{what} is not known: store it with `gce-backend configure`")
    parts = urlsplit(text if "//" in text else f"//{text}")
    if parts.username or parts.password:
        raise SettingsError(f"{what} holds credentials: store it without them")
    host = parts.hostname or ""
    loopback = _is_loopback(host)
    scheme = parts.scheme or ("http" if loopback else "https")
    if scheme not in {"https", "http"} or (scheme == "http" and not loopback):
        raise SettingsError(f"{what} {text!r} must be https: no token is sent in the clear")
    if not loopback and not any(fnmatch.fnmatch(host, pattern) for pattern in allowed_hosts):
        raise SettingsError(
            f"{what} {text!r} gets no token: its host is not in {setting}. Add it there, or store "
            "the right address with `gce-backend configure`"
        )
    return f"{scheme}://{parts.netloc}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Remotes:
    """Clients of the services whose addresses are in the store; made anew when an address changes.

    Args:
        session: the shared HTTP session.
        tokens: tokens of the userinfo.email scope, for these services alone.
        settings: the process settings.
        fleet: knows the addresses.
        observer: is told of every request sent.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: TokenSource,
        settings: Settings,
        fleet: Fleet,
        observer: CallObserver | None = None,
    ) -> None:
        self._session = session
        self._tokens = tokens
        self._settings = settings
        self._fleet = fleet
        self._observer = observer
        self._broker: tuple[str, MachineProvider] | None = None

    def broker(self) -> MachineProvider:
        """The Machine Provider.

        Raises:
            SettingsError: its address is not stored, or not allowed.
        """
        settings = self._settings.machine_provider
        origin = trusted_origin(
            self._fleet.machine_provider.instance_url,
            settings.allowed_hosts,
            what="the Machine Provider's address",
            setting="machine_provider.allowed_hosts",
        )
        if self._broker is None or self._broker[0] != origin:
            client = MachineProvider(
                session=self._session,
                tokens=self._tokens,
                instance_url=origin,
                batch_size=settings.batch_size,
                limits=Limits(total_seconds=settings.timeout),
                observer=self._observer,
            )
            self._broker = (origin, client)
        return self._broker[1]

    def source(self) -> DirectorySource | LuciConfigV1 | LuciConfigV2:
        """Where configuration comes from.

        Raises:
            SettingsError: it is not said where, or not allowed.
        """
        settings = self._settings.config
        if settings.source == "directory":
            if settings.directory is None:
                raise SettingsError('config.source "directory" needs config.directory')
            return DirectorySource(settings.directory, referenced_files)
        origin = trusted_origin(
            self._fleet.config_settings.service_hostname,
            settings.allowed_hosts,
            what="the config service's address",
            setting="config.allowed_hosts",
        )
        config_set = self._fleet.configuration.config_set
        if not config_set:
            raise SettingsError(
                "the config set is not known: store it with `gce-backend configure --config-set`"
            )
        kind = LuciConfigV1 if settings.source == "luci-v1" else LuciConfigV2
        return kind(
            session=self._session,
            tokens=self._tokens,
            hostname_url=origin,
            config_set=config_set,
            references=referenced_files,
            observer=self._observer,
        )
