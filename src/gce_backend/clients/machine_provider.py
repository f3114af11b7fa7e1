"""Client of the Machine Provider: the catalog of machines, and their leases.

The protocol is `POST {instance_url}/_ah/api/{api}/v1/{method}`. A business error is part of a
result (`error`), not an exception: the caller decides what `HOSTNAME_REUSE` or `LEASED` means.
Unknown error words are kept as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from gce_backend.base.errors import MalformedResponseError, RemoteError
from gce_backend.base.plurals import plural
from gce_backend.clients.batches import Batches
from gce_backend.clients.error_table import said_in
from gce_backend.clients.exchange import Answer, Tokens, decode
from gce_backend.clients.json_api import JsonApi, Limits, success
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Retrier
from gce_backend.model.machine_token import BACKEND, ID_ATTRIBUTE, KEY_ATTRIBUTE, Dimension
from gce_backend.model.observed import RequestedMachines

PATIENT_SECONDS = 70.0
"""Deadline in seconds of a call that waits for news."""

T = TypeVar("T")
E = TypeVar("E", bound=enum.StrEnum)


class CatalogError(enum.StrEnum):
    """Why the catalog refused."""

    HOSTNAME_REUSE = "HOSTNAME_REUSE"
    ENTRY_NOT_FOUND = "ENTRY_NOT_FOUND"
    UNSPECIFIED_BACKEND = "UNSPECIFIED_BACKEND"
    MISMATCHED_BACKEND = "MISMATCHED_BACKEND"
    UNSPECIFIED_HOSTNAME = "UNSPECIFIED_HOSTNAME"
    INVALID_TOPIC = "INVALID_TOPIC"
    INVALID_PROJECT = "INVALID_PROJECT"
    UNSPECIFIED_TOPIC = "UNSPECIFIED_TOPIC"
    LEASED = "LEASED"


class LeaseError(enum.StrEnum):
    """Why a lease request was refused."""

    REQUEST_ID_REUSE = "REQUEST_ID_REUSE"
    INVALID_TOPIC = "INVALID_TOPIC"
    INVALID_PROJECT = "INVALID_PROJECT"
    UNSPECIFIED_TOPIC = "UNSPECIFIED_TOPIC"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    TRANSIENT_ERROR = "TRANSIENT_ERROR"
    MUTUAL_EXCLUSION_ERROR = "MUTUAL_EXCLUSION_ERROR"
    NONPOSITIVE_DEADLINE = "NONPOSITIVE_DEADLINE"
    LEASE_EXPIRATION_TS_ERROR = "LEASE_EXPIRATION_TS_ERROR"
    LEASE_LENGTH_UNSPECIFIED = "LEASE_LENGTH_UNSPECIFIED"
    LEASE_TOO_LONG = "LEASE_TOO_LONG"


class ReleaseError(enum.StrEnum):
    """Why a release was refused."""

    NOT_FOUND = "NOT_FOUND"
    NOT_FULFILLED = "NOT_FULFILLED"
    ALREADY_RECLAIMED = "ALREADY_RECLAIMED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    TRANSIENT_ERROR = "TRANSIENT_ERROR"


class Attribute(msgspec.Struct, frozen=True):
    """One attribute that every message about a machine carries."""

    key: str
    value: str


class CatalogMachine(msgspec.Struct, frozen=True):
    """A machine to be added to the catalog.

    Attributes:
        dimensions: its dimensions, including `backend` and `hostname`.
        policies: its policies: `backend_project` and `backend_topic` for messages about it,
            `backend_attributes` (a list of `{key, value}`) that they carry,
            `machine_service_account` that may read its subscription, and `on_reclamation`.
    """

    dimensions: Mapping[str, Dimension]
    policies: Mapping[str, object]

    @property
    def hostname(self) -> str:
        """Its host name, unique in the catalog."""
        return str(self.dimensions["hostname"])


class Addition(msgspec.Struct, frozen=True):
    """The result of `add_machines` for one machine.

    Attributes:
        hostname: the machine's host name.
        error: the catalog's error word (a `CatalogError` if known); None when there was none.
        failure: the error of its batch; whether the machine was added is then unknown.
    """

    hostname: str
    error: str | None = None
    failure: RemoteError | None = None

    @property
    def added(self) -> bool:
        """Whether this call added it to the catalog."""
        return self.error is None and self.failure is None


class CatalogDeletion(msgspec.Struct, frozen=True):
    """The result of `delete_machine`.

    Attributes:
        hostname: the machine's host name.
        error: the catalog's error word (a `CatalogError` if known); None: the entry was deleted.
    """

    hostname: str
    error: str | None = None


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A machine in the catalog.

    Attributes:
        hostname: its host name.
        backend: the backend that manages it, e.g. `GCE`.
        attributes: its backend attributes; GCE Backend's machines have `key`.
        state: NEW, AVAILABLE, LEASED or RECLAIMED; "" when the server does not say.
        lease_expiration_ts: end of the lease in Unix seconds.
        leased_indefinitely: whether the lease has no end.
        awaits_agent: whether it cannot be leased because its agent has never reported.
    """

    hostname: str
    backend: str = ""
    attributes: Mapping[str, str] = {}
    state: str = ""
    lease_expiration_ts: int | None = None
    leased_indefinitely: bool = False
    awaits_agent: bool = False

    def is_of(self, token: str, gce_id: int | None) -> bool:
        """Whether it is this VM's entry, not that of another VM or an earlier one of its name.

        Args:
            token: the instance's token.
            gce_id: the VM's numeric id.
        """
        told = self.attributes.get(ID_ATTRIBUTE, str(gce_id))
        return self.attributes.get(KEY_ATTRIBUTE) == token and told == str(gce_id)


class EntryOf(NamedTuple):
    """Whose entry is meant.

    Attributes:
        token: the instance's token.
        gce_id: the VM's numeric id; None for whatever VM of that name.
    """

    token: str
    gce_id: int | None

    def names(self, entry: CatalogEntry) -> bool:
        """Whether that is the entry."""
        if self.gce_id is None:
            return entry.attributes.get(KEY_ATTRIBUTE) == self.token
        return entry.is_of(self.token, self.gce_id)


FIRST_LOOKS = 50
"""Machines of the first `catalog.get_machines`."""


class _Removal(NamedTuple):
    hostname: str
    of: EntryOf | None

    def request(self) -> dict[str, Any]:
        request: dict[str, Any] = {
            "dimensions": {"backend": BACKEND, "hostname": self.hostname},
        }
        if self.of is not None:
            told = {KEY_ATTRIBUTE: self.of.token}
            if self.of.gce_id is not None:
                told[ID_ATTRIBUTE] = str(self.of.gce_id)
            request["backend_attributes"] = [{"key": k, "value": v} for k, v in told.items()]
        return request


class NotCataloged(msgspec.Struct, frozen=True):
    """The server says that it has no such machine. Never a permit to delete anything."""


class MethodNotOffered(msgspec.Struct, frozen=True):
    """The server is too old for the method, or is not a Machine Provider: nothing is known."""


class WaitingRequests(msgspec.Struct, frozen=True):
    """What requests wait for.

    Attributes:
        version: changes with the content.
        waiting: the kinds of machines.
    """

    version: str
    waiting: tuple[RequestedMachines, ...]


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a machine; set exactly one of the three lengths.

    Attributes:
        request_id: unique among the caller's requests; the same request again gets the same answer.
        dimensions: the dimensions that the machine must have.
        duration: length of the lease in seconds from its start.
        lease_expiration_ts: its end in Unix seconds.
        indefinite: a lease without end.
    """

    request_id: str
    dimensions: Mapping[str, Dimension]
    duration: int | None = None
    lease_expiration_ts: int | None = None
    indefinite: bool = False


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a lease request.

    Attributes:
        request_hash: the server's own name for the request.
        error: why it was refused (a `LeaseError` if known); None when it was not.
        state: UNTRIAGED, PENDING, FULFILLED or DENIED; "" with an error.
        hostname: the leased machine, once FULFILLED; None again when the lease has ended.
        lease_expiration_ts: end of the lease in Unix seconds; None of one without end.
        leased_indefinitely: whether the lease has no end.
    """

    client_request_id: str = ""
    request_hash: str = ""
    error: str | None = None
    state: str = ""
    hostname: str | None = None
    lease_expiration_ts: int | None = None
    leased_indefinitely: bool = False


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a release.

    Attributes:
        client_request_id: the lease request's id.
        request_hash: the server's own name for the request.
        error: why it was refused (a `ReleaseError` if known); None when it was not.
    """

    client_request_id: str = ""
    request_hash: str = ""
    error: str | None = None


class _Dimensions(msgspec.Struct):
    hostname: str | None = None
    backend: str | None = None


class _Request(msgspec.Struct):
    dimensions: _Dimensions = msgspec.field(default_factory=_Dimensions)


class _AddResponse(msgspec.Struct):
    machine_addition_request: _Request | None = None
    error: str | None = None


class _AddResponses(msgspec.Struct):
    responses: list[_AddResponse]


class _DeleteResponse(msgspec.Struct):
    machine_deletion_request: _Request | None = None
    error: str | None = None


class _DeleteResponses(msgspec.Struct):
    responses: list[_DeleteResponse]


class _EntryPolicies(msgspec.Struct):
    backend_attributes: list[Attribute] | Attribute = []


class _Entry(msgspec.Struct):
    dimensions: _Dimensions
    policies: _EntryPolicies = msgspec.field(default_factory=_EntryPolicies)
    state: str = ""
    lease_expiration_ts: int | None = None
    leased_indefinitely: bool = False
    awaits_agent: bool = False


class _GetResponse(msgspec.Struct):
    hostname: str | None = None
    entry: _Entry | None = None
    error: str | None = None


class _GetResponses(msgspec.Struct):
    responses: list[_GetResponse]


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind, strict=False)  # not strict: int64 may come as a string


_UNEXPLAINED = {"", "not found"}
"""What a server that does not know the method says with a 404, in lower case."""

_ADDED = _decoder(_AddResponses)
_DELETED = _decoder(_DeleteResponse)
_ALL_DELETED = _decoder(_DeleteResponses)
_ENTRY = _decoder(_Entry)
_ALL_ENTRIES = _decoder(_GetResponses)
_LEASE = _decoder(LeaseAnswer)
_DEMAND = _decoder(WaitingRequests)
_RELEASE = _decoder(Release)


def _word(known: type[E], text: str | None) -> E | str | None:
    return known(text) if text in set(known) else text


class MachineProviderClient:
    """The Machine Provider at one address.

    Args:
        tokens: gives tokens of the userinfo.email scope for this service alone.
        instance_url: its base URL, e.g. `https://machine-provider.example.com`.
        batch_size: machines per `catalog.add_machines`.
        limits: deadlines and sizes of one call.
        retrier: repeats reads.

    Raises:
        SettingsError: `instance_url` is not usable.

    All methods raise a `RemoteError`: `TransientError` (try later; after a mutation the outcome is
    unknown), `PermissionDeniedError`, `InvalidRequestError`. Only `get` is repeated automatically.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        instance_url: str,
        batch_size: int = 250,
        limits: Limits | None = None,
        retrier: Retrier | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        self._batch_size = batch_size
        self._removals = Batches(
            self._delete_alone,
            self._delete_together,
            most=batch_size,
            never_alone=lambda removal: removal.of is not None,
        )
        self._looks = Batches(self.get, self._get_together, most=batch_size, first=FIRST_LOOKS)
        given = limits or Limits()
        api = partial(
            JsonApi,
            session=session,
            tokens=tokens,
            root=instance_url,
            retrier=retrier,
            observer=observer,
        )
        self._api = api(limits=given)
        patient = {"read_seconds": PATIENT_SECONDS, "total_seconds": PATIENT_SECONDS}
        self._patient_api = api(limits=msgspec.structs.replace(given, **patient))

    async def add_machines(self, machines: Sequence[CatalogMachine]) -> list[Addition]:
        """Adds machines to the catalog, in batches one after the other.

        A failed batch is reported in the results of its machines, and ends the work: the machines
        of later batches get the same failure without being sent.

        Returns:
            One result for each machine, in their order.
        """
        results: list[Addition] = []
        for start in range(0, len(machines), self._batch_size):
            try:
                results += await self._add_batch(machines[start : start + self._batch_size])
            except RemoteError as failure:
                results += [Addition(m.hostname, failure=failure) for m in machines[start:]]
                break
        return results

    async def _add_batch(self, batch: Sequence[CatalogMachine]) -> list[Addition]:
        method = "machine_provider.catalog.add_machines"
        body = {"requests": batch}
        raw = await self._call(method, body, repeat=False)
        responses = decode(method, raw, _ADDED).responses
        _check_number(method, responses, batch)
        for machine, response in zip(batch, responses, strict=True):
            echo = response.machine_addition_request
            if echo and echo.dimensions.hostname not in {None, machine.hostname}:
                raise MalformedResponseError(method, "answers in another order", status=200)
        return [
            Addition(machine.hostname, _word(CatalogError, response.error))
            for machine, response in zip(batch, responses, strict=True)
        ]

    async def delete_machine(self, hostname: str, of: EntryOf | None = None) -> CatalogDeletion:
        """Removes a machine from the catalog.

        Args:
            hostname: the machine's name.
            of: whose entry is to be removed, if that under its name may be another's: that one
                stays, and the answer is HOSTNAME_REUSE. A Machine Provider without
                `catalog.delete_machines` cannot tell, and is asked with `get` before.

        Removals that are asked for at the same moment go in one `catalog.delete_machines` where the
        Machine Provider offers it; the original does not. Each has its own answer.

        A result without error is a permit to destroy the machine, so an answer that does not name
        the machine counts as malformed.
        """
        return await self._removals.ask(_Removal(hostname, of))

    async def _delete_together(
        self, removals: Sequence[_Removal]
    ) -> list[CatalogDeletion | RemoteError]:
        method = "machine_provider.catalog.delete_machines"
        body = {"requests": [removal.request() for removal in removals]}
        raw = await self._call(method, body, repeat=False)
        responses = decode(method, raw, _ALL_DELETED).responses
        _check_number(method, responses, removals)
        return [
            _deletion(method, removal.hostname, response, always_named=True)
            for removal, response in zip(removals, responses, strict=True)
        ]

    async def _delete_alone(self, removal: _Removal) -> CatalogDeletion:
        method, hostname = "machine_provider.catalog.delete_machine", removal.hostname
        if removal.of is not None:
            entry = await self.get(hostname)
            if isinstance(entry, NotCataloged):
                return CatalogDeletion(hostname, CatalogError.ENTRY_NOT_FOUND)
            if isinstance(entry, CatalogEntry) and not removal.of.names(entry):
                return CatalogDeletion(hostname, CatalogError.HOSTNAME_REUSE)
        body = {"dimensions": {"backend": BACKEND, "hostname": hostname}}
        response = decode(method, await self._call(method, body, repeat=False), _DELETED)
        found = _deletion(method, hostname, response, always_named=False)
        if isinstance(found, RemoteError):
            raise found
        return found

    async def get(self, hostname: str) -> CatalogEntry | NotCataloged | MethodNotOffered:
        """Looks a machine up.

        Returns:
            The entry; `NotCataloged` when the server explains that there is none; otherwise, on a
            404 that explains nothing, `MethodNotOffered`.
        """
        method = "machine_provider.catalog.get"
        answer = await self._answer(method, {"backend": BACKEND, "hostname": hostname}, repeat=True)
        if answer.status == 404:
            said = said_in(answer.body)
            explained = said is not None and said.message.rstrip(".").lower() not in _UNEXPLAINED
            return NotCataloged() if explained else MethodNotOffered()
        return _catalog_entry(method, hostname, decode(method, success(method, answer), _ENTRY))

    async def get_with_others(
        self, hostname: str
    ) -> CatalogEntry | NotCataloged | MethodNotOffered:
        """As `get`; who looks at the same moment goes in one `catalog.get_machines`.

        The original does not offer it: there, each goes alone.
        """
        return await self._looks.ask(hostname)

    async def _get_together(
        self, hostnames: Sequence[str]
    ) -> list[CatalogEntry | NotCataloged | MethodNotOffered | RemoteError]:
        method = "machine_provider.catalog.get_machines"
        names = [{"backend": BACKEND, "hostname": hostname} for hostname in hostnames]
        raw = await self._call(method, {"requests": names}, repeat=True)
        responses = decode(method, raw, _ALL_ENTRIES).responses
        _check_number(method, responses, hostnames)
        return [
            _looked_up(method, hostname, response)
            for hostname, response in zip(hostnames, responses, strict=True)
        ]

    async def demand(self, after: str, *, wait: int) -> WaitingRequests | MethodNotOffered:
        """What requests wait for.

        Args:
            after: the version that is known; "" when none is.
            wait: seconds, at most 55, for which the server waits for another version.

        Returns:
            What it says; `MethodNotOffered` when it is too old to say it.
        """
        method = "machine_provider.demand.get"
        path = f"/api/v1/demand?after={quote(after)}&wait={wait}"
        answer = await self._patient_api.call(method, "GET", path, repeat=False)
        if answer.status == 404:
            return MethodNotOffered()
        return decode(method, success(method, answer), _DEMAND)

    async def offer(
        self, source: str, kinds: Sequence[RequestedMachines]
    ) -> MethodNotOffered | None:
        """Says which machines are made if requests ask for them.

        Args:
            source: which of the backend's daemons says so.
            kinds: the machines, each kind with how many there are at most.

        Returns:
            `MethodNotOffered` when the server is too old.
        """
        method = "machine_provider.backends.offer"
        body = {"source": source, "kinds": kinds}
        answer = await self._api.call(method, "PUT", "/api/v1/offer", body=body, repeat=False)
        if answer.status in {404, 405}:
            return MethodNotOffered()
        success(method, answer)
        return None

    async def report_trouble(
        self, hostname: str, message: str, *, gone: bool, preempted: bool = False
    ) -> MethodNotOffered | None:
        """Reports what is wrong with a leased machine's VM, for its lessee.

        Args:
            hostname: the machine's name.
            message: a sentence; "" when nothing is wrong any longer.
            gone: whether the VM no longer exists.
            preempted: whether Compute Engine took it back.

        Returns:
            `MethodNotOffered` when the server is too old, or the catalog has no such machine.
        """
        method = "machine_provider.machines.trouble"
        path = f"/api/v1/machines/{quote(hostname)}:trouble"
        body = {"message": message, "gone": gone, "preempted": preempted}
        answer = await self._api.call(method, "POST", path, body=body, repeat=False)
        if answer.status == 404:
            return MethodNotOffered()
        success(method, answer)
        return None

    async def lease(self, request: LeaseRequest) -> LeaseAnswer:
        """Asks for a machine, or for the state of the same request made before."""
        method = "machine_provider.machine_provider.lease"
        lease = decode(method, await self._call(method, request, repeat=False), _LEASE)
        # For a lease without end, the original names a time decades ahead.
        end = None if lease.leased_indefinitely else lease.lease_expiration_ts
        return msgspec.structs.replace(
            lease, error=_word(LeaseError, lease.error), lease_expiration_ts=end
        )

    async def release(self, request_id: str) -> Release:
        """Releases a leased machine before its lease ends."""
        method = "machine_provider.machine_provider.release"
        body = {"request_id": request_id}
        release = decode(method, await self._call(method, body, repeat=False), _RELEASE)
        return msgspec.structs.replace(release, error=_word(ReleaseError, release.error))

    async def _call(self, method: str, body: object, *, repeat: bool) -> bytes:
        return success(method, await self._answer(method, body, repeat=repeat))

    async def _answer(self, method: str, body: object, *, repeat: bool) -> Answer:
        _, api, name = method.split(".")
        path = f"/_ah/api/{api}/v1/{name}"
        return await self._api.call(method, "POST", path, body=body, repeat=repeat)


def _catalog_entry(method: str, hostname: str, entry: _Entry) -> CatalogEntry:
    """The entry that an answer holds.

    Raises:
        MalformedResponseError: it is that of another machine.
    """
    if entry.dimensions.hostname != hostname:
        raise MalformedResponseError(method, "the entry of another machine", status=200)
    attributes = entry.policies.backend_attributes
    pairs = [attributes] if isinstance(attributes, Attribute) else attributes
    return CatalogEntry(
        hostname=hostname,
        backend=entry.dimensions.backend or "",
        attributes={pair.key: pair.value for pair in pairs},
        state=entry.state,
        lease_expiration_ts=entry.lease_expiration_ts,
        leased_indefinitely=entry.leased_indefinitely,
        awaits_agent=entry.awaits_agent,
    )


def _looked_up(
    method: str, hostname: str, response: _GetResponse
) -> CatalogEntry | NotCataloged | RemoteError:
    """What a batch says of one machine."""
    if response.hostname != hostname:
        return MalformedResponseError(method, "the answer does not name the machine", status=200)
    if response.entry is not None:
        try:
            return _catalog_entry(method, hostname, response.entry)
        except MalformedResponseError as error:
            return error
    if response.error == CatalogError.ENTRY_NOT_FOUND:
        return NotCataloged()
    return MalformedResponseError(method, "neither an entry nor why there is none", status=200)


def _check_number(method: str, answers: Sequence[object], requests: Sequence[object]) -> None:
    """Refuses an answer in which requests have no answer, or answers no request."""
    if len(answers) != len(requests):
        message = f"{plural(len(answers), 'answer')} to {plural(len(requests), 'request')}"
        raise MalformedResponseError(method, message, status=200)


def _deletion(
    method: str, hostname: str, response: _DeleteResponse, *, always_named: bool
) -> CatalogDeletion | RemoteError:
    """What an answer says of a machine's removal.

    Args:
        always_named: whether a refusal, too, must name the machine.
    """
    echo = response.machine_deletion_request
    named = echo.dimensions.hostname if echo else None
    if named != hostname and (always_named or response.error is None):
        message = "the answer does not name the machine"
        return MalformedResponseError(method, message, status=200)
    return CatalogDeletion(hostname, _word(CatalogError, response.error))
