"""The servers that the contract is asked of: the embedded cloud, or those that variables name.

All that a run makes has a name that begins with `PREFIX` and the run's own random part; the guard
lets no request through that would change anything else. What is left is taken away at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from gce_backend.base.clock import SystemClock
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.config_source import LuciConfigV1, LuciConfigV2
from gce_backend.clients.machine_provider import MachineProviderClient
from gce_backend.configuration.parsing import referenced_files
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.local import CONFIG_SET, local_settings
from gce_backend.engine.metrics import Metrics
from gce_backend.gce_client import ComputeClient
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.reader import read
from gce_backend.settings.settings import Settings, is_loopback
from support.served_cloud import PROJECT, served_cloud

PREFIX = "gcebct-"
"""What the name of everything begins with that a run makes."""
NAMESPACE = f"{PREFIX}contract"
"""Where all entities of all runs are."""
VARIABLES = "GCE_BACKEND_CONTRACT_"
READS = (
    ":beginTransaction",
    ":lookup",
    ":rollback",
    ":runAggregationQuery",
    ":runQuery",
    ":testIamPermissions",
    "/wait",
    "/catalog/v1/get",
    "/GetConfig",
)
"""The ends of URLs to which a POST changes nothing."""

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the variables say; a service that none of them names is the embedded cloud's.

    Attributes:
        project: where things are made.
        compute: Compute Engine's root, ending in `/v1/`.
        datastore: Datastore's root, ending in `/v1`.
        pubsub: Pub/Sub's root, ending in `/v1`.
        metadata: the metadata server that gives tokens; without it Google's own way is gone.
        config_v1: a LUCI Config service of the first protocol.
        config_v2: one of the second.
        config_set: what they serve.
        machine_provider: a Machine Provider that takes our backend's machines.
        zone: where VMs are made.
        machine_type: of which kind.
        image: from which image.
        image_project: whose it is.
        accept_costs: that it is known that VMs in a real project cost money.
    """

    project: str = PROJECT
    compute: str = ""
    datastore: str = ""
    pubsub: str = ""
    metadata: str = ""
    config_v1: str = ""
    config_v2: str = ""
    config_set: str = CONFIG_SET
    machine_provider: str = ""
    zone: str = "us-central1-b"
    machine_type: str = "e2-micro"
    image: str = "debian-12-bookworm-v20250610"
    image_project: str = "debian-cloud"
    accept_costs: bool = False

    @property
    def named(self) -> dict[str, str]:
        """Services that variables name, with their URLs."""
        services = ("compute", "datastore", "pubsub", "metadata")
        others = ("config_v1", "config_v2", "machine_provider")
        return {name: url for name in (*services, *others) if (url := getattr(self, name))}


class Untouchable(BaseException):
    """A request would change what the run has not made."""


class Contract:
    """The servers of one run.

    Attributes:
        options: what the variables say.
        run: what the names of this run begin with.

    Args:
        options: what the variables say.
        embedded: the URL of the embedded cloud, for all services that are not named.
    """

    def __init__(self, options: Options, embedded: str) -> None:
        self.options = options
        self.run = f"{PREFIX}{uuid.uuid4().hex[:6]}"
        self.embedded = embedded
        base = local_settings(Settings(), embedded, options.project, Path())
        given = {
            name: getattr(options, name)
            for name in ("compute", "datastore", "pubsub", "metadata")
            if getattr(options, name)
        }
        replace = msgspec.structs.replace
        self.settings = replace(
            base,
            endpoints=replace(base.endpoints, **given),
            store=replace(base.store, namespace=NAMESPACE),
        )

    def ask(self, work: Callable[[Clients], Coroutine[Any, Any, T]]) -> T:
        """Does something with clients of its own, in an event loop of its own."""

        async def act() -> T:
            async with self.clients() as clients:
                return await work(clients)

        return asyncio.run(act())

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[Clients]:
        """Clients whose every request is guarded."""
        clients = Clients(self.settings, SystemClock(), random.Random(), Metrics())
        clients.session._middlewares = (self._guard,)
        try:
            yield clients
        finally:
            await clients.close()

    async def _guard(
        self,
        request: aiohttp.ClientRequest,
        send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        body = await request.body.as_bytes() if request.body else b""
        check_harmless(request.method, str(request.url), body)
        return await send(request)

    def compute(self, clients: Clients) -> ComputeClient:
        """The Compute client."""
        return clients.compute(CallBudget(SystemClock(), dict.fromkeys(QuotaGroup, 1000)))

    def machine_provider(self, clients: Clients) -> MachineProviderClient:
        """The Machine Provider client."""
        url = self.options.machine_provider or self.embedded
        return MachineProviderClient(
            session=clients.session, tokens=clients.identity, instance_url=url
        )

    def source(self, clients: Clients, kind: type[LuciConfigV1 | LuciConfigV2], name: str) -> Any:
        """A client of a config set."""
        named = self.options.config_v1 if kind is LuciConfigV1 else self.options.config_v2
        return kind(
            session=clients.session,
            tokens=clients.identity,
            hostname_url=named or self.embedded,
            config_set=name,
            references=referenced_files,
        )


def check_harmless(verb: str, url: str, body: bytes) -> None:
    """Refuses what would change a thing without the prefix in its name.

    Raises:
        Untouchable: the request names nothing of a run.
    """
    parts = urlsplit(url)
    if verb in {"GET", "HEAD"} or parts.path.endswith(READS):
        return
    if PREFIX not in unquote(parts.path) + body.decode(errors="replace"):
        raise Untouchable(f"{verb} {parts.path} names nothing that begins with {PREFIX}")


def options_from(environ: Mapping[str, str]) -> Options:
    """What the variables say.

    Raises:
        SettingsError: a variable is unknown or of the wrong type.
        ValueError: a real project is named, and not that its costs are accepted.
    """
    options = read(
        Options, path=None, environ=environ, prefix=VARIABLES, names={}, checks={}, from_text={}
    )
    real = [name for name, url in options.named.items() if not is_loopback(_host(url))]
    if real and not options.accept_costs:
        raise ValueError(
            f"{VARIABLES}{real[0].upper()} is not on this machine: what the contract makes there "
            f"costs money (docs/testing.md says how much). Set {VARIABLES}ACCEPT_COSTS=true"
        )
    return options


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


@contextlib.contextmanager
def contract(config: Path) -> Iterator[Contract]:
    """The servers while the block lasts.

    Args:
        config: a directory with the configuration that the embedded config services serve.
    """
    options = options_from(os.environ)
    instant = CloudOptions(project=options.project, config_dir=config).instant()
    with served_cloud(instant) as served:
        yield Contract(options, served.url)
