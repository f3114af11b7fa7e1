"""The clients of all services, on one HTTP session: each is loaded by what asks for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import aiohttp

from gce_backend.base.clock import Clock
from gce_backend.base.errors import RemoteError, SettingsError
from gce_backend.clients.addresses import trusted_origin
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.observer import CallObserver
from gce_backend.settings.settings import EndpointSettings, Settings, WebhookSettings

if TYPE_CHECKING:  # a command that needs only the store does not load the others
    from structlog.typing import FilteringBoundLogger

    from gce_backend.clients.compute.call_budget import CallBudget
    from gce_backend.clients.config_source import ConfigSource
    from gce_backend.clients.datastore.client import Datastore
    from gce_backend.clients.machine_provider import MachineProviderClient
    from gce_backend.clients.pubsub import PubSub
    from gce_backend.clients.resource_manager import ResourceManager
    from gce_backend.clients.webhook import Webhook
    from gce_backend.engine.metrics import Metrics
    from gce_backend.fleet.picture import Fleet
    from gce_backend.gce_client import ComputeClient


class Remotes:
    """Clients of the services whose addresses are in the store; made anew when an address changes.

    Args:
        tokens: tokens of the userinfo.email scope, for these services alone.
        fleet: knows the addresses.
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
        self._broker: tuple[str, MachineProviderClient] | None = None

    def broker(self) -> MachineProviderClient:
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
            from gce_backend.clients.json_api import Limits
            from gce_backend.clients.machine_provider import MachineProviderClient

            client = MachineProviderClient(
                session=self._session,
                tokens=self._tokens,
                instance_url=origin,
                batch_size=settings.batch_size,
                limits=Limits(total_seconds=settings.timeout),
                observer=self._observer,
            )
            self._broker = (origin, client)
        return self._broker[1]

    def source(self) -> ConfigSource:
        """Where configuration comes from.

        Raises:
            SettingsError: its address is not stored, or not allowed.
        """
        from gce_backend.clients.config_source import DirectorySource, LuciConfigV1, LuciConfigV2
        from gce_backend.configuration.parsing import referenced_files

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


GOOGLE_SCOPES = (
    "https://www.googleapis.com/auth/compute",
    "https://www.googleapis.com/auth/datastore",
    "https://www.googleapis.com/auth/pubsub",
)


IDENTITY_SCOPES = ("https://www.googleapis.com/auth/userinfo.email",)
"""Tokens for the Machine Provider and the config service: they only identify the daemon."""


INSPECTION_SCOPES = ("https://www.googleapis.com/auth/cloudplatformprojects.readonly",)
"""Tokens for Cloud Resource Manager, which lists the caller's permissions."""


ACCOUNT_SECONDS = 5.0
"""How long Google may take to say whose credentials are used."""
MAX_CONNECTIONS = 100

Connector = Callable[[], aiohttp.BaseConnector]
"""Makes what a session opens its connections with."""


def tcp_connector() -> aiohttp.BaseConnector:
    """A connector for TCP, with `MAX_CONNECTIONS` connections at most."""
    return aiohttp.TCPConnector(limit=MAX_CONNECTIONS)


class Clients:
    """The clients of Google's services, on one HTTP session; closed together.

    Args:
        rng: jitter.
        metrics: counts every call; None counts nothing.
        connector: makes what the session opens its connections with.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        rng: random.Random,
        metrics: CallObserver | None,
        *,
        connector: Connector = tcp_connector,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self.session = aiohttp.ClientSession(connector=connector())
        self.tokens = self._token_source(GOOGLE_SCOPES)
        self.identity = self._token_source(IDENTITY_SCOPES)
        self._inspection = self._token_source(INSPECTION_SCOPES)
        self._acting = self.tokens

    def only_while(self, check: Callable[[], None]) -> None:
        """Lets clients that are made from now on send nothing unless `check` lets them.

        Datastore's are not meant: they are fenced by each transaction.

        Args:
            check: called just before each request; what it raises, the client raises.
        """
        self._acting = self.tokens.only_while(check)
        self.identity = self.identity.only_while(check)

    def _token_source(self, scopes: Sequence[str]) -> TokenSource:
        metadata = self._settings.endpoints.metadata
        return TokenSource(
            self.session,
            metadata_root=metadata,
            scopes=scopes,
            metadata_only=metadata != EndpointSettings().metadata,
        )

    async def project(self) -> str:
        """The project of store and messages: the settings', else the credentials' own.

        Raises:
            RemoteError: the metadata server could not be reached.
        """
        return self._settings.project or await self.tokens.project()

    async def account(self) -> str:
        """The e-mail address of the account whose credentials are used; "" is not known."""
        if known := self.identity.account():
            return known
        from yarl import URL

        from gce_backend.clients.exchange import Deadlines, Exchange
        from gce_backend.clients.tokeninfo import tokeninfo, verified_email

        exchange = Exchange(self.session, None, None)
        url = URL(self._settings.endpoints.tokeninfo)
        try:
            token = await self.identity.get()
            found = await tokeninfo(exchange, url, token, Deadlines(total=ACCOUNT_SECONDS))
        except RemoteError:
            return ""
        return verified_email(found or {})

    def datastore(self, project: str, namespace: str | None = None) -> Datastore:
        """The Datastore client.

        Args:
            namespace: None for the daemon's own.
        """
        from gce_backend.clients.datastore.client import Datastore

        return Datastore(
            session=self.session,
            tokens=self.tokens,
            project=project,
            api_root=self._settings.endpoints.datastore,
            clock=self._clock,
            namespace=self._settings.store.namespace if namespace is None else namespace,
            rng=self._rng,
            observer=self._metrics,
        )

    def pubsub(self, project: str) -> PubSub:
        """The Pub/Sub client."""
        from gce_backend.clients.pubsub import PubSub

        return PubSub(
            session=self.session,
            tokens=self._acting,
            api_root=self._settings.endpoints.pubsub,
            project=project,
            observer=self._metrics,
        )

    def compute(self, budget: CallBudget) -> ComputeClient:
        """The Compute Engine client."""
        from gce_backend.gce_client import ComputeClient, Timeouts

        settings = self._settings.compute
        return ComputeClient(
            session=self.session,
            tokens=self._acting,
            root=self._settings.endpoints.compute,
            budget=budget,
            clock=self._clock,
            random=self._rng,
            observer=self._metrics,
            timeouts=Timeouts(
                connect=settings.connect_timeout,
                read=settings.read_timeout,
                total=settings.total_timeout,
            ),
        )

    def webhook(
        self, style: str, settings: WebhookSettings, log: FilteringBoundLogger, metrics: Metrics
    ) -> Webhook:
        """The client of a webhook.

        Args:
            style: its format.
            settings: its settings, with a URL.
        """
        from gce_backend.clients.exchange import Exchange
        from gce_backend.clients.webhook import Webhook

        signs = style == "json" and settings.secret is not None
        return Webhook(
            Exchange(self.session, None, metrics),
            settings.url or "",
            key=settings.secret.reveal() if signs and settings.secret is not None else None,
            name=style,
            clock=self._clock,
            rng=self._rng,
            log=log,
            counted=metrics.notice,
            waits=metrics.notices_waiting,
            retried=metrics.retry,
        )

    def resource_manager(self) -> ResourceManager:
        """The client that asks what the caller may do."""
        from gce_backend.clients.json_api import JsonApi, Limits
        from gce_backend.clients.resource_manager import ResourceManager

        return ResourceManager(
            JsonApi(
                session=self.session,
                tokens=self._inspection,
                root=self._settings.endpoints.resource_manager,
                limits=Limits(),
                retrier=None,
            )
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._inspection.close()
        await self.tokens.close()
        await self.identity.close()
        await self.session.close()
