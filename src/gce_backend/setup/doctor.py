"""`gce-backend doctor`: checks what a daemon with these settings needs. Changes nothing.

Each check stands alone and has its own time limit: one that fails or hangs hides no other. Checks
that need the credentials, the store or the configuration are skipped without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum

import aiohttp
import msgspec

from gce_backend.base.errors import (
    BackendError,
    MalformedResponseError,
    NoDaemonError,
    NotFoundError,
    PermissionDeniedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.base.plurals import plural
from gce_backend.base.tasks import off_loop
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.config_source import ConfigSource
from gce_backend.clients.daemon import address
from gce_backend.clients.machine_provider import (
    CatalogEntry,
    MachineProviderClient,
    MethodNotOffered,
)
from gce_backend.clients.pubsub import PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import MAX_LISTED, InvalidConfigurationError, listed
from gce_backend.configuration.types import Configuration as ParsedConfiguration
from gce_backend.configuration.types import TemplateConfig
from gce_backend.fleet.picture import Fleet
from gce_backend.gce_client import ComputeClient
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
)
from gce_backend.settings.settings import Settings
from gce_backend.setup.messaging import Done, provision_messages
from gce_backend.setup.named_resources import Lookup, named_resources
from gce_backend.setup.permissions import COMPUTE, DATASTORE
from gce_backend.setup.project import ACT_AS, Addresses, check_permissions, judge

NOBODY = "gce-backend-doctor.invalid"
"""A host name that no machine has: a call about it changes nothing and tests the permission."""

_DISABLED = ("accessNotConfigured", "SERVICE_DISABLED", "has not been used in project")
"""Phrases in Google's answers when an API is not enabled."""
_ENDPOINTS = {"cloudresourcemanager": "resource_manager", "auth": "metadata"}
"""The setting of a service's address, by the first part of its methods' names, if they differ."""


class CheckVerdict(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """The daemon works, but somebody should look at this."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """A check that it needs has failed, or there is nothing to check."""


class Finding(msgspec.Struct, frozen=True):
    """One row of the table.

    Attributes:
        check: the name of the check.
        verdict: its outcome.
        seen: what it found, for people.
        remedy: what to do about it; "" when there is nothing to do.
    """

    check: str
    verdict: CheckVerdict
    seen: str
    remedy: str = ""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at.

    Attributes:
        project: the project of store and messages.
        tokens: Google's tokens.
        session: for the daemon's own endpoint.
        pubsub: Pub/Sub of that project.
        compute: the Compute Engine client.
        resource_manager: tells what the caller may do.
        fleet: where the stored addresses are read into.
        source: where configuration comes from, once the addresses are read.
        place: the same in a word: the setting `config.source`, or a directory.
        broker: the Machine Provider, once the addresses are read.
    """

    settings: Settings
    project: str
    tokens: TokenSource
    session: aiohttp.ClientSession
    pubsub: PubSub
    compute: ComputeClient
    resource_manager: ResourceManager
    fleet: Fleet
    source: Callable[[], ConfigSource]
    place: str
    broker: Callable[[], MachineProviderClient]


Rows = Awaitable[list[Finding]]


async def examine(
    patient: Subject, *, seconds: float, begun: Callable[[str], None]
) -> AsyncIterator[Finding]:
    """Runs all checks, those that do not need each other at the same time.

    Args:
        patient: the subject of the checks.
        seconds: how long each may take.
        begun: called with the name of each check that begins.

    Yields:
        The findings, in a fixed order.
    """
    ward = _Checks(patient, seconds)
    for words, checks in (
        ("credentials", (ward.credentials,)),
        ("Datastore", (ward.datastore,)),
        (
            "permissions, messages, configuration, Machine Provider",
            (ward.store_rights, ward.messages, ward.addresses, ward.configuration, ward.provider),
        ),
        ("Compute Engine", (ward.compute, ward.resources)),
        ("the daemon", (ward.daemon,)),
    ):
        begun(words)
        for rows in await asyncio.gather(*(check() for check in checks)):
            for row in rows:
                yield row


class _Checks:
    """The checks, and what they pass to each other."""

    def __init__(self, patient: Subject, seconds: float) -> None:
        self._patient = patient
        self._seconds = seconds
        self._has_token = False
        self._has_store = False
        self._configuration: ParsedConfiguration | None = None

    async def credentials(self) -> list[Finding]:
        """A token can be had."""
        tokens = self._patient.tokens

        async def look() -> list[Finding]:
            await tokens.get()
            self._has_token = True
            seen = f"{tokens.describe()}; project {self._patient.project}"
            return [Finding("credentials", CheckVerdict.OK, seen)]

        return await self._within("credentials", look)

    async def datastore(self) -> list[Finding]:
        """The entities can be read."""
        what = f"Datastore of project {self._patient.project}"

        async def look() -> list[Finding]:
            fleet = self._patient.fleet
            keys = (
                CONTROL_KEY,
                CONFIGURATION_KEY,
                CONFIG_SETTINGS_KEY,
                MACHINE_PROVIDER_KEY,
                STORE_IDENTITY_KEY,
            )
            await fleet.refresh(keys)
            self._has_store = True
            corrupt = [f"{key}: {problem}" for key, problem in fleet.corrupt.items()]
            if corrupt:
                remedy = "correct or delete these entities in Datastore"
                return [Finding(what, CheckVerdict.FAILED, "; ".join(corrupt), remedy)]
            namespace = self._patient.settings.store.namespace or "the default one"
            store_id = fleet.identity or "none yet"
            seen = f"readable; namespace: {namespace}; id of the store: {store_id}"
            rows = [Finding(what, CheckVerdict.OK, seen)]
            if fleet.control.paused:
                seen = fleet.control.pause_reason or "no reason was given"
                by = f" by {fleet.control.paused_by}" if fleet.control.paused_by else ""
                remedy = "`gce-backend resume` ends it"
                rows.append(Finding("pause", CheckVerdict.WARNING, f"paused{by}: {seen}", remedy))
            return rows

        return await self._within(what, look, needs=self._has_token)

    async def store_rights(self) -> list[Finding]:
        """The entities may be written."""

        async def look() -> list[Finding]:
            return [await self._permitted(self._patient.project, "datastore", DATASTORE)]

        return await self._within("permissions in Datastore", look, needs=self._has_token)

    async def messages(self) -> list[Finding]:
        """Topic and subscription are as `setup` creates them."""

        async def look() -> list[Finding]:
            steps = provision_messages(self._patient.pubsub, self._patient.settings, dry_run=True)
            return [self._of(step) async for step in steps]

        return await self._within("topic and subscription", look, needs=self._has_token)

    async def addresses(self) -> list[Finding]:
        """The store says where configuration and Machine Provider are."""

        async def look() -> list[Finding]:
            fleet = self._patient.fleet
            stored = Addresses(
                fleet.configuration.config_set,
                fleet.config_settings.service_hostname,
                fleet.machine_provider.instance_url,
            )
            given = judge(self._patient.settings, stored, Addresses(), dry_run=True)
            return [self._of(step) for step in given]

        return await self._within("stored addresses", look, needs=self._has_store)

    async def configuration(self) -> list[Finding]:
        """templates.cfg and managers.cfg can be read, and are valid."""
        what = f"configuration from {self._patient.place}"

        async def look() -> list[Finding]:
            bundle = await self._patient.source().fetch(None)
            if bundle is None:
                raise MalformedResponseError("config.fetch", "no revision was served")
            try:
                texts = bundle.templates_text, bundle.managers_text, bundle.files
                extra = self._patient.settings.machine_provider.extra_dimensions
                size = sum(map(len, texts[:2]))
                found = await off_loop(lambda: parse(*texts, extra), size)
            except InvalidConfigurationError as error:
                remedy = "correct it; `gce-backend validate DIR` shows the same in a checkout"
                lines = listed(error.problems, error.total)
                where = f"revision {bundle.revision}"
                return [
                    Finding(what, CheckVerdict.FAILED, f"{where}: {line}", remedy) for line in lines
                ]
            self._configuration = found
            seen = (
                f"revision {bundle.revision}: {plural(len(found.templates), 'template')}, "
                f"{plural(len(found.managers), 'manager')}, at least "
                f"{plural(found.minimum_total, 'machine')}"
            )
            odd = found.warnings[:MAX_LISTED]
            return [
                Finding(what, CheckVerdict.OK, seen),
                *(
                    Finding(what, CheckVerdict.WARNING, str(w), "check that it is intended")
                    for w in odd
                ),
            ]

        needs = self._has_token and self._has_store
        return await self._within(what, look, needs=needs)

    async def provider(self) -> list[Finding]:
        """The Machine Provider answers, and lets us ask."""

        async def look() -> list[Finding]:
            answer = await self._patient.broker().get(NOBODY)
            where = self._patient.fleet.machine_provider.instance_url
            if isinstance(answer, MethodNotOffered):
                remedy = (
                    "lost messages and leases cannot be found again. Check that "
                    "MachineProviderConfiguration.instance_url is a Machine Provider's"
                )
                seen = f"{where} answers, but offers no catalog.get"
                return [Finding("Machine Provider", CheckVerdict.WARNING, seen, remedy)]
            known = "knows" if isinstance(answer, CatalogEntry) else "does not know"
            seen = f"{where} answers, and {known} {NOBODY}"
            return [Finding("Machine Provider", CheckVerdict.OK, seen)]

        needs = self._has_token and self._has_store
        return await self._within("Machine Provider", look, needs=needs)

    async def compute(self) -> list[Finding]:
        """In each project that templates name: the API is there, and permits what is needed."""

        async def look() -> list[Finding]:
            rows = []
            for project in sorted({template.project for template in self._templates()}):
                rows.append(await self._api(project))
                rows.append(await self._permitted(project, "compute", COMPUTE))
            return rows or [_nothing_named("Compute Engine")]

        return await self._within("Compute Engine", look, needs=self._has_token)

    async def _api(self, project: str) -> Finding:
        what = f"Compute Engine in project {project}"
        try:
            await self._patient.compute.list_instance_templates(project, f'name = "{NOBODY}"')
        except RemoteError as error:
            return Finding(what, CheckVerdict.FAILED, str(error), self._remedy(error, project))
        return Finding(what, CheckVerdict.OK, "answers")

    async def resources(self) -> list[Finding]:
        """What templates name exists, at Compute Engine and in their zones."""

        async def look() -> list[Finding]:
            wanted: Mapping[str, Lookup] = {}
            if self._configuration is not None:
                wanted = named_resources(self._patient.compute, self._configuration)
            answers = await asyncio.gather(*map(self._exists, wanted.items()))
            rows = [row for row in answers if row is not None]
            if not wanted:
                rows.append(_nothing_named("what templates name"))
            elif not rows:
                seen = f"{len(wanted)} named by templates.cfg, all found"
                rows.append(Finding("what templates name", CheckVerdict.OK, seen))
            seen = "only their owner can see who may use them"
            rows.append(Finding("machines' service accounts", CheckVerdict.SKIPPED, seen, ACT_AS))
            return rows

        return await self._within("what templates name", look, needs=self._has_token)

    async def _exists(self, item: tuple[str, Lookup]) -> Finding | None:
        what, lookup = item
        try:
            await lookup.ask()
        except NotFoundError as error:
            remedy = "name another one in templates.cfg or managers.cfg, or create this one"
            return Finding(what, CheckVerdict.FAILED, str(error), remedy)
        except RemoteError as error:
            if lookup.permission and isinstance(error, PermissionDeniedError):
                remedy = f"the daemon does not need it; grant {lookup.permission} to see it here"
                return Finding(what, CheckVerdict.SKIPPED, "cannot be seen", remedy)
            return Finding(what, CheckVerdict.FAILED, str(error), self._remedy(error))
        return None

    async def daemon(self) -> list[Finding]:
        """A daemon that runs with these settings is live and ready."""
        try:
            url = f"{address(self._patient.settings)}/readyz"
        except NoDaemonError as error:
            return [Finding("daemon", CheckVerdict.SKIPPED, str(error))]

        async def look() -> list[Finding]:
            try:
                async with self._patient.session.get(url, allow_redirects=False) as response:
                    answer = _READINESS.decode(await response.read())
            except (aiohttp.ClientError, OSError, msgspec.DecodeError):
                remedy = "start one with `gce-backend run`"
                return [Finding("daemon", CheckVerdict.SKIPPED, f"none answers at {url}", remedy)]
            bad = [f"{check.name}: {check.message}" for check in answer.checks if not check.ok]
            if bad:
                remedy = "see its log, and the rows above"
                return [Finding("daemon", CheckVerdict.WARNING, "; ".join(bad), remedy)]
            return [Finding("daemon", CheckVerdict.OK, f"ready at {url}")]

        return await self._within("daemon", look)

    def _templates(self) -> Sequence[TemplateConfig]:
        return self._configuration.templates if self._configuration is not None else ()

    async def _permitted(self, project: str, service: str, wanted: tuple[str, ...]) -> Finding:
        manager = self._patient.resource_manager
        return self._of(await check_permissions(manager, project, service, wanted))

    async def _within(
        self, what: str, look: Callable[[], Rows], *, needs: bool = True
    ) -> list[Finding]:
        """Runs a check within its time limit; its failure is a finding."""
        if not needs:
            return [
                Finding(what, CheckVerdict.SKIPPED, "a check that it needs has failed: see above")
            ]
        try:
            async with asyncio.timeout(self._seconds):
                return await look()
        except TimeoutError:
            seen = f"no answer within {self._seconds:g} s"
            remedy = "check the network, or allow more time with --timeout"
            return [Finding(what, CheckVerdict.FAILED, seen, remedy)]
        except BackendError as error:
            return [Finding(what, CheckVerdict.FAILED, str(error), self._remedy(error))]

    def _remedy(self, error: BackendError, project: str | None = None) -> str:
        service, _, _ = str(error).partition(".")
        if any(word in str(error) for word in _DISABLED):
            where = project or self._patient.project
            return f"gcloud services enable {service}.googleapis.com --project {where}"
        setting = f"endpoints.{_ENDPOINTS.get(service, service)}"
        if isinstance(error, UnauthenticatedError):
            return "check the service account of this VM, or GOOGLE_APPLICATION_CREDENTIALS"
        if isinstance(error, PermissionDeniedError):
            return "grant what it names; docs/operations.md lists all permissions"
        if isinstance(error, TransientError):
            return f"try again; if it still fails, check {setting} and the network"
        return ""

    def _of(self, step: Done) -> Finding:
        """The finding of a dry-run step of `setup`."""
        verdict = _OUTCOMES.get(step.outcome, CheckVerdict.FAILED)
        if step.outcome.startswith("would"):
            return Finding(step.what, verdict, "missing or different", "run `gce-backend setup`")
        if step.outcome == "wrong":
            return Finding(step.what, verdict, step.remedy)
        if step.outcome == "failed":  # the remedy is the error
            return Finding(step.what, verdict, step.remedy, self._remedy(BackendError(step.remedy)))
        return Finding(step.what, verdict, step.outcome, step.remedy)


_OUTCOMES = {
    "present": CheckVerdict.OK,
    "not needed": CheckVerdict.OK,
    "unset": CheckVerdict.WARNING,
    "by hand": CheckVerdict.WARNING,
    "unknown": CheckVerdict.WARNING,
    "would change": CheckVerdict.WARNING,
}
"""Of `setup`'s outcomes; all others mean that the daemon cannot work."""


class _Check(msgspec.Struct):
    name: str
    ok: bool
    message: str


class _Readiness(msgspec.Struct):
    checks: list[_Check]


_READINESS = msgspec.json.Decoder(_Readiness)


def _nothing_named(what: str) -> Finding:
    return Finding(what, CheckVerdict.SKIPPED, "no valid configuration says what is needed")
