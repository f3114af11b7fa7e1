"""Process settings: a TOML file, overridden by `GCE_BACKEND_*` variables.

The only reader of the environment. A variable's name is the key's path in capitals, its parts
joined by two underscores: `http.port` is `GCE_BACKEND_HTTP__PORT`, and the cron of the job
`fetch-instances` is `GCE_BACKEND_JOBS__FETCH_INSTANCES__CRON`. Lists are comma-separated there.
`config/settings.toml` shows every key with its default.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import cronsim
import msgspec
from msgspec import Meta

from gce_backend.base.errors import SettingsError
from gce_backend.settings.reader import Checks, read

JOB_NAMES = (
    "import-config",
    "process-config",
    "create-instance-templates",
    "create-instance-group-managers",
    "fetch-instances",
    "catalog-instances",
    "process-pubsub-messages",
    "compress-instance-metadata-updates",
    "update-instance-metadata",
    "check-instance-metadata-operations",
    "delete-instances-pending-deletion",
    "resize-instance-groups",
    "remove-cataloged-instances",
    "delete-drained-instances",
    "delete-instance-group-managers",
    "delete-instance-templates",
    "cleanup-entities",
)
"""The jobs, in the order of the spec."""

WEBHOOK_FORMATS = ("json", "slack", "pagerduty")

ENVIRONMENT_PREFIX = "GCE_BACKEND_"
SETTINGS_VARIABLE = "GCE_BACKEND_SETTINGS"
"""Names the settings file of the commands; no setting itself."""
MIN_TOKEN_LENGTH = 16
MIN_TOKEN_VARIETY = 6
"""Different characters in a token at least; 16 random hexadecimal digits have about 10."""
MAX_HOST_LENGTH = 253
MAX_DIMENSION_LENGTH = 256
"""Characters in a dimension."""
_DIMENSION = re.compile(r"[a-z][a-z0-9_]{0,62}(:[^\s:][ -~]*)?")
_HOST_NAME = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
)

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
ProjectId = Annotated[
    str, Meta(pattern=r"^([a-z0-9][a-z0-9.-]*:)?[a-z][-a-z0-9]{1,61}[a-z0-9]\Z", max_length=128)
]
LabelName = Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
Told = Literal["problem", "order", "configuration", "control", "template", "group", "machine"]
PubSubName = Annotated[str, Meta(pattern=r"^(?!goog)[A-Za-z][-A-Za-z0-9._~+%]{2,254}\Z")]


Price = Annotated[
    str,
    Meta(pattern=r"^[a-z][a-z0-9-]*(:[0-9]{1,6}(\.[0-9]{1,9})?){1,2}\Z", max_length=100),
]
LIST_PRICES = (
    "e2-micro:0.008376",
    "e2-small:0.016751",
    "e2-medium:0.033503",
    "e2:0.021811:0.002923",
    "n1:0.031611:0.004237",
    "n2:0.031611:0.004237",
    "n2d:0.027502:0.003686",
    "t2d:0.027502:0.003686",
    "c2:0.03398:0.00455",
    "c2d:0.029563:0.003959",
    "c3:0.03398:0.00456",
    "pd-standard:0.000055",
    "pd-balanced:0.000137",
    "pd-ssd:0.000233",
    "pd-extreme:0.000171",
    "hyperdisk-balanced:0.00011",
)
"""Prices to begin with."""


class Secret:
    """A text that no repr, log line or traceback shows. `reveal()` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share: frozen, named arguments, no unknown keys."""


class EndpointSettings(_Section, frozen=True):
    """Base URLs of the services. Plain http only on loopback, since each call carries a token.

    Attributes:
        compute: Compute Engine REST root, with a slash at its end.
        datastore: Datastore REST root, without one.
        pubsub: Pub/Sub REST root, without one.
        metadata: the metadata server, without a slash at its end; may be plain http under its own
            name or address.
        resource_manager: Cloud Resource Manager REST root, without a slash at its end; `setup` asks
            it what the daemon may do.
        tokeninfo: where a Machine Provider asks Google whose an access token is, and where commands
            for orders ask it whose credentials they use.
    """

    compute: str = "https://compute.googleapis.com/compute/v1/"
    datastore: str = "https://datastore.googleapis.com/v1"
    pubsub: str = "https://pubsub.googleapis.com/v1"
    metadata: str = "http://metadata.google.internal"
    resource_manager: str = "https://cloudresourcemanager.googleapis.com/v1"
    tokeninfo: str = "https://oauth2.googleapis.com/tokeninfo"


class HttpSettings(_Section, frozen=True):
    """The daemon's own HTTP endpoint.

    Attributes:
        host: address to bind to.
        port: TCP port; 0 lets the kernel choose.
        token: bearer token that requests which act must carry, and readers from elsewhere than
            loopback. At least 16 characters that are hard to guess. It is the token `operator` with
            the role `administer`.
        tokens_file: further tokens, each with a name and a role; without any token, requests that
            need one are refused. In the file, relative paths start at the file's own directory.
        open_on_loopback: whether requests from this machine may read without the token. False
            behind a proxy on this machine, whose requests could be taken for them.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    token: Secret | None = None
    tokens_file: Path | None = None
    open_on_loopback: bool = True


class ConfigSettings(_Section, frozen=True):
    """Where templates.cfg and managers.cfg come from.

    Attributes:
        source: a directory, or LUCI Config in its first or second protocol.
        directory: the directory, for the source "directory". In the file, relative paths start at
            the file's own directory.
        allowed_hosts: the hosts that may be asked for configuration with the daemon's token: a
            host's name, or `*.` and a domain for all hosts below it; loopback always may.
    """

    source: Literal["directory", "luci-v1", "luci-v2"] = "luci-v2"
    directory: Path | None = None
    allowed_hosts: tuple[str, ...] = ("config.luci.app", "luci-config.appspot.com")

    def __post_init__(self) -> None:
        if self.source == "directory" and self.directory is None:
            raise ValueError('the source "directory" needs config.directory')


class MachineProviderSettings(_Section, frozen=True):
    """The Machine Provider; its address is in the store.

    Attributes:
        allowed_hosts: the hosts that may get the daemon's token: a host's name, or `*.` and a
            domain for all hosts below it; loopback always may.
        batch_size: machines per add_machines call.
        timeout: seconds per call.
        sweep_per_minute: cataloged machines that the sweep compares with the catalog, to make up
            for lost messages.
        lost_seconds: how long the catalog must lack a machine before the daemon does anything
            about it.
        lost_machines: what becomes of machines that the catalog does not know, and of leases
            without a known end that it denies again and again for lost_seconds, ten minutes at
            least: `delete` deletes the machines within the cap on unconfirmed deletions, `wait`
            keeps machines and leases until an operator drains the machine. A machine that was
            never cataloged does not wait: the catalog need not know it.
        extra_dimensions: dimensions that templates may name besides those of the original Machine
            Provider, as `key` (any value) or `key:value`, e.g. `linux_flavor:FEDORA`.
    """

    allowed_hosts: tuple[str, ...] = ()
    batch_size: Annotated[int, Meta(ge=1, le=1000)] = 250
    timeout: Seconds = 30.0
    sweep_per_minute: PositiveCount = 20
    lost_seconds: Seconds = 300.0
    lost_machines: Literal["delete", "wait"] = "delete"
    extra_dimensions: tuple[str, ...] = ()


class ProviderSettings(_Section, frozen=True):
    """The Machine Provider of `gce-backend machine-provider`; the daemon reads `url` alone.

    Attributes:
        url: where the commands for people and jobs (`lease`, `shell`, `leases`) find it, and where
            the daemon's pages link to. Plain http on loopback only.
        token: the access or identity token that these commands send; None: a job's own at GitHub
            Actions, else one of Google's credentials.
        audience: who a job's identity token is for; None: `provider.url`.
        host: address to bind to. Beyond loopback, put a proxy with TLS before it: callers send
            their tokens.
        port: TCP port; 0 lets the kernel choose.
        access: access.cfg, which says who may do what; required for the source "file". In the file,
            relative paths start at the file's own directory.
        access_source: where access.cfg comes from: a file, or LUCI Config in its first or second
            protocol.
        access_service: host name or base URL of the LUCI Config service. It gets a token that
            identifies the caller. Plain http on loopback only.
        access_config_set: the config set whose access.cfg is used.
        namespace: its Datastore namespace, apart from the daemon's.
        takeover_seconds: how long a process that works may be silent before one that stands by
            takes over.
        pause_seconds: between two looks at its work, so that it comes in batches.
        require_agent: whether a machine is leased only while its agent reports.
        agent_silent_seconds: without a report after which an agent is silent. A machine whose agent
            has become silent is never leased.
    """

    url: str | None = None
    token: Secret | None = None
    audience: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8081
    access: Path | None = None
    access_source: Literal["file", "luci-v1", "luci-v2"] = "file"
    access_service: str = ""
    access_config_set: str = ""
    namespace: Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,100}\Z")] = "machine-provider"
    takeover_seconds: Annotated[float, Meta(ge=2, le=300)] = 10.0
    pause_seconds: Seconds = 0.1
    require_agent: bool = False
    agent_silent_seconds: Annotated[float, Meta(ge=60, le=86400)] = 900.0

    def __post_init__(self) -> None:
        if self.access_source != "file" and not (self.access_service and self.access_config_set):
            raise ValueError(
                f'the source "{self.access_source}" needs provider.access_service and '
                "provider.access_config_set"
            )


class StoreSettings(_Section, frozen=True):
    """The entities in Datastore.

    Attributes:
        namespace: Datastore namespace; "" is the default one.
        resync_seconds: how often the whole picture is read again.
        leader_election: whether several daemons may share the store: one of them leads, and the
            others stand by. Set it for all of them.
        takeover_seconds: how long the leader may be silent before a standby daemon takes over.
    """

    namespace: Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{0,100}\Z")] = ""
    resync_seconds: Seconds = 3600.0
    leader_election: bool = False
    takeover_seconds: Annotated[float, Meta(ge=2, le=300)] = 10.0


class PubSubSettings(_Section, frozen=True):
    """The Machine Provider's messages.

    Attributes:
        topic: topic that the Machine Provider publishes to.
        subscription: its pull subscription.
        max_messages: messages per pull.
        queue_size: messages held in memory at most.
        ack_deadline_seconds: lease of a pulled message, extended while the job processes it.
    """

    topic: PubSubName = "machine-provider"
    subscription: PubSubName = "machine-provider"
    max_messages: Annotated[int, Meta(ge=1, le=1000)] = 1000
    queue_size: PositiveCount = 2000
    ack_deadline_seconds: Annotated[int, Meta(ge=10, le=600)] = 60


class JobSettings(_Section, frozen=True):
    """What you can change about a job.

    Attributes:
        cron: when it runs at the latest, in UTC: five fields, or six with seconds first; None
            keeps the job's own (every minute).
        timeout: deadline of one run in seconds; None keeps the job's own.
    """

    cron: str | None = None
    timeout: Seconds | None = None


class ComputeSettings(_Section, frozen=True):
    """Calls to Compute Engine.

    Attributes:
        calls_per_minute: budget per project, region and quota group; below Google's own of
            about 1,500.
        operation_wait_seconds: how long a run waits for the operations that it started.
        max_concurrency: calls in flight at most.
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte; `wait` calls, which Google holds for two minutes, have
            their own.
        total_timeout: seconds for a call as a whole.
    """

    calls_per_minute: PositiveCount = 1400
    operation_wait_seconds: Seconds = 20.0
    max_concurrency: PositiveCount = 32
    connect_timeout: Seconds = 10.0
    read_timeout: Seconds = 60.0
    total_timeout: Seconds = 150.0


class FetchSettings(_Section, frozen=True):
    """Looking at groups and their members.

    Attributes:
        poll_seconds: how soon groups in transition are looked at again.
        resync_seconds: how often groups and their members are listed although nothing changed.
    """

    poll_seconds: Seconds = 1.0
    resync_seconds: Seconds = 600.0


class DeletionSettings(_Section, frozen=True):
    """Caps on deletions per window: the larger of a count and a share of the fleet.

    They hold for all processes on one store together.

    Attributes:
        window_seconds: length of the window.
        reclaimed_count: machines that the Machine Provider has reclaimed: their leases have ended.
        reclaimed_share: the same as a share of the fleet, 0 to 1.
        permitted_count: machines deleted for another reason: they drain, stopped, are lost,
            or were never in the catalog.
        permitted_share: the same as a share of the fleet, 0 to 1.
        unconfirmed_count: of those, machines whose deletion rests on the Machine Provider not
            knowing them.
        unconfirmed_share: the same as a share of the fleet, 0 to 1.
        stopped_seconds: how long a VM that stopped may take to come back before it is deleted and
            replaced. It leaves the catalog immediately.
        repeat_seconds: after which a deletion that has not ended is requested again.
        tombstone_seconds: how long the tombstone of a deleted machine stays, against slow lists.
    """

    window_seconds: Seconds = 600.0
    reclaimed_count: Count = 500
    reclaimed_share: Share = 1.0
    permitted_count: Count = 5
    permitted_share: Share = 0.5
    unconfirmed_count: Count = 2
    unconfirmed_share: Share = 0.05
    stopped_seconds: Seconds = 120.0
    repeat_seconds: Seconds = 120.0
    tombstone_seconds: Seconds = 3600.0


class RolloutSettings(_Section, frozen=True):
    """Replacing a template's old revision by its new one.

    Attributes:
        canary: machines of a new revision that must be leasable before it gets more, and before an
            old machine leaves for it; 0 for none.
        max_unavailable: machines by which the number to lease from may drop, per zone or pool.
        exchange_share: share of a group's machines, 0 to 1 and at least one machine, that are
            exchanged at a time where its maximum leaves no room for old and new beside each other.
        empty_seconds: how long a drained group must be empty before it is deleted.
    """

    canary: Count = 1
    max_unavailable: Count = 0
    exchange_share: Share = 0.1
    empty_seconds: Seconds = 5.0


class GuardSettings(_Section, frozen=True):
    """What waits for an operator's approval.

    Attributes:
        max_config_loss_share: share of the machines, 0 to 1, that a new configuration may delete
            without approval; those that it replaces do not count.
        max_config_growth: how many times as many machines as there are, at least 20, a new
            configuration may add without approval.
    """

    max_config_loss_share: Share = 0.5
    max_config_growth: Annotated[float, Meta(ge=0)] = 10.0


class CostSettings(_Section, frozen=True):
    """About what machines cost, for metrics, pages and `plan`.

    Attributes:
        currency: of the prices.
        prices: `TYPE:HOUR` of a machine type, or `FAMILY:VCPU_HOUR:GB_HOUR` of a family's vCPUs and
            memory; the list replaces the default, which has Google's prices on demand in
            us-central1.
    """

    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] = "USD"
    prices: tuple[Price, ...] = LIST_PRICES


class HistorySettings(_Section, frozen=True):
    """What happened, kept in the store.

    Attributes:
        max_age_days: for how many days events are kept.
        max_events: how many events are kept; the newest ones.
    """

    max_age_days: Annotated[float, Meta(gt=0, le=36500)] = 30.0
    max_events: PositiveCount = 100_000


class WebhookSettings(_Section, frozen=True):
    """An address that is told of events and problems.

    Attributes:
        url: the address; None tells nobody. https, or plain http on loopback.
        secret: for `json`, signs each request; for `pagerduty`, the integration key, which is
            required. At least 16 characters that are hard to guess.
        events: what it is told: `problem`, `order` (whatever an operator orders), and kinds of
            events: `configuration`, `control`, `template`, `group`, `machine`.
        severity: the least severity of problems that it is told: `notice`, `warning`, `critical`.
    """

    url: str | None = None
    secret: Secret | None = None
    events: tuple[Told, ...] = ("problem", "order", "configuration")
    severity: Literal["notice", "warning", "critical"] = "warning"


class LogSettings(_Section, frozen=True):
    """The log on standard error.

    Attributes:
        level: the least severe level that is written.
        format: "auto" is console on a terminal and JSON elsewhere.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(_Section, frozen=True):
    """All settings of the process.

    Attributes:
        project: the Google Cloud project of store and messages; None asks the metadata server.
        owner: the label that marks the daemon's resources at Compute Engine: a lower-case RFC 1035
    name.
        url: where the commands find the daemon; None: at http.host and http.port.
        endpoints: base URLs of the services.
        http: the daemon's own HTTP endpoint.
        config: where the configuration comes from.
        machine_provider: calls to the Machine Provider.
        provider: the Machine Provider that `gce-backend machine-provider` runs.
        store: the entities in Datastore.
        pubsub: the Machine Provider's messages.
        jobs: job name, one of `JOB_NAMES`, to what is changed about it.
        compute: calls to Compute Engine.
        fetch: looking at groups and their members.
        deletion: caps on deletions.
        rollout: replacing old revisions.
        guard: what waits for an operator.
        cost: about what machines cost.
        history: what happened.
        actuate: False stops all changes to the fleet; observing continues.
        webhooks: who is told of events and problems: the format (`json`, `slack` or `pagerduty`) to
            the address.
        log: the log.
        shutdown_seconds: how long running jobs may take to finish when the process stops; with
            leader election, half a second at most.
    """

    project: ProjectId | None = None
    owner: LabelName = "gce-backend"
    url: str | None = None
    endpoints: EndpointSettings = EndpointSettings()
    http: HttpSettings = HttpSettings()
    config: ConfigSettings = ConfigSettings()
    machine_provider: MachineProviderSettings = MachineProviderSettings()
    provider: ProviderSettings = ProviderSettings()
    store: StoreSettings = StoreSettings()
    pubsub: PubSubSettings = PubSubSettings()
    jobs: Mapping[str, JobSettings] = msgspec.field(default_factory=dict)
    compute: ComputeSettings = ComputeSettings()
    fetch: FetchSettings = FetchSettings()
    deletion: DeletionSettings = DeletionSettings()
    rollout: RolloutSettings = RolloutSettings()
    guard: GuardSettings = GuardSettings()
    cost: CostSettings = CostSettings()
    history: HistorySettings = HistorySettings()
    actuate: bool = True
    webhooks: Mapping[str, WebhookSettings] = msgspec.field(default_factory=dict)
    log: LogSettings = LogSettings()
    shutdown_seconds: Seconds = 20.0


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Reads the settings file, if there is one, and the environment's overrides.

    Args:
        path: a TOML file; None when there is none.
        environ: the environment; only names that begin with `GCE_BACKEND_` matter, but for
            `SETTINGS_VARIABLE`.

    Raises:
        SettingsError: with a line for every problem found.
    """
    settings = read(
        Settings,
        path=path,
        environ={name: text for name, text in environ.items() if name != SETTINGS_VARIABLE},
        prefix=ENVIRONMENT_PREFIX,
        names={"jobs": JOB_NAMES, "webhooks": WEBHOOK_FORMATS},
        checks=_CHECKS,
        from_text={Path: Path, Secret: secret},
    )
    pagerduty = settings.webhooks.get("pagerduty")
    if pagerduty is not None and pagerduty.url is not None and pagerduty.secret is None:
        raise SettingsError("webhooks.pagerduty.secret: is missing; set the integration key")
    return settings


def _cron(text: str) -> str:
    try:
        next(cronsim.CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except cronsim.CronSimError as error:
        fields = "five fields (minute hour day month weekday), or six with seconds first"
        raise ValueError(f'"{text}" is not a cron expression ({error}): write {fields}') from None
    except StopIteration:
        raise ValueError(f'"{text}" names no date that exists') from None
    return text


def secret(text: str) -> Secret:
    """A token that nobody can guess.

    Raises:
        ValueError: it is too easy to guess; the message does not quote it.
    """
    repeats = text in (text + text)[1:-1]
    if len(text) < MIN_TOKEN_LENGTH or len(set(text)) < MIN_TOKEN_VARIETY or repeats:
        raise ValueError(
            f"is too easy to guess: a token has at least {MIN_TOKEN_LENGTH} characters, "
            f"{MIN_TOKEN_VARIETY} of them different, and repeats nothing; make one with "
            "`openssl rand -hex 24`"
        )
    return Secret(text)


def _dimension(text: str) -> str:
    """A dimension's key, alone or with one value."""
    if len(text) > MAX_DIMENSION_LENGTH or not _DIMENSION.fullmatch(text):
        raise ValueError(
            f'"{text[:MAX_DIMENSION_LENGTH]}" is not a dimension: write "key" for any value, or '
            '"key:value", e.g. "linux_flavor:FEDORA"'
        )
    return text


def _host_pattern(text: str) -> str:
    """A host's name, or `*.` and a domain, in lower case."""
    pattern = text.strip().lower().removesuffix(".")
    domain = pattern.removeprefix("*.")
    wide = domain != pattern and "." not in domain
    if wide or not _HOST_NAME.fullmatch(domain) or len(domain) > MAX_HOST_LENGTH:
        raise ValueError(
            f'"{text[:MAX_HOST_LENGTH]}" is not a host: write its name, e.g. '
            '"machine-provider.example.com", or "*.example.com" for all hosts below that domain; '
            "no scheme, no port, no other wildcard"
        )
    return pattern


def _api_root(text: str) -> str:
    """A base URL with one slash at its end."""
    return _url(text) + "/"


def _metadata_root(text: str) -> str:
    return _url(text, plain_hosts=_METADATA_HOSTS)


_METADATA_HOSTS = frozenset({"metadata.google.internal", "169.254.169.254", "fd20:ce::254"})


def daemon_url(text: str) -> str:
    """Where a daemon is, without a slash at its end.

    Raises:
        ValueError: it is no URL, or would show a token to the network.
    """
    return _url(text)


def _webhook_url(text: str) -> str:
    """An address with path and query. Never quoted in an error: whoever knows it can use it."""
    base, _, query = text.partition("?")
    _url(base)
    if "#" in query or not text.isprintable() or " " in text:
        raise ValueError("is not a URL; write https://host[:port][/path][?query]")
    return text


def _url(text: str, *, plain_hosts: frozenset[str] = frozenset()) -> str:
    """A base URL without slashes at its end. Never quoted in an error: it may hold a password."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        valid = parts.scheme in {"http", "https"} and host and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not a URL; write https://host[:port][/path]")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must hold neither a user, a query nor a fragment")
    if parts.scheme == "http" and not (host in plain_hosts or is_loopback(host)):
        raise ValueError("plain http would show the token to the network; use https")
    return text.rstrip("/")


@functools.lru_cache(maxsize=256)  # each request to a server asks, of a few names
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this computer only.

    Args:
        host: as in `urlsplit(...).hostname`: lower case, IPv6 addresses without brackets.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:@/]*)(?::[0-9]{1,5})?", re.IGNORECASE)


def names_loopback(host: str) -> bool:
    """Whether a Host header names this computer only.

    Args:
        host: a name or an address, with a port or without.
    """
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1].strip("[]").lower())


_CHECKS: Checks = {
    (Settings, "url"): daemon_url,
    (ProviderSettings, "url"): daemon_url,
    (EndpointSettings, "compute"): _api_root,
    (EndpointSettings, "datastore"): _url,
    (EndpointSettings, "pubsub"): _url,
    (EndpointSettings, "metadata"): _metadata_root,
    (EndpointSettings, "resource_manager"): _url,
    (EndpointSettings, "tokeninfo"): _url,
    (JobSettings, "cron"): _cron,
    (WebhookSettings, "url"): _webhook_url,
    (ConfigSettings, "allowed_hosts"): _host_pattern,
    (MachineProviderSettings, "allowed_hosts"): _host_pattern,
    (MachineProviderSettings, "extra_dimensions"): _dimension,
}
