"""The project's one error tree.

Foreign exceptions are mapped to it where they enter (a client's boundary), with the cause chained
only when it cannot carry a bearer token. What a caller needs to know is in the type, and a delay is
a value that the error carries. An error that one folder alone raises is defined there.

::

    BackendError
    ├── SettingsError                 the process settings are wrong; says which key and the remedy
    ├── InvalidConfigurationError     templates.cfg or managers.cfg; carries every problem
    ├── CorruptEntityError            a stored entity cannot be understood
    ├── MissingEntityError            a stored entity is missing that another one needs
    ├── ContentionError               an entity changed under every attempt to write it
    ├── ForeignResourceError          a resource of a name that we need is somebody else's
    │   └── ReplacedResourceError     one of ours was deleted, and another made under its name
    ├── HostnameReuseError            the catalog holds a machine's host name for another
    ├── InvalidTokenError             a caller's token is invalid or not accepted; says why
    ├── SchemaError                   the store was written by a newer release; says which
    ├── LeadershipLostError           another process leads now
    ├── NoDaemonError                 no daemon answers where a command looks; says what helps
    ├── OrderError                    what an operator asks for cannot be done now
    │   ├── UnknownNameError          it names something that does not exist; says what does
    │   ├── DeniedError               who gives it may not; says who may
    │   └── LeaseLostError            a lease ended before the work on its machines did
    │       └── LeasePreemptedError   because Compute Engine took its VMs back
    ├── InterruptedRequestError       Ctrl-C interrupted a request for a machine
    ├── UnusableFileError             a configuration file is missing, too large, or not text
    ├── UnreadEntityError             a decision needs entities that were not read; read them
    ├── TextSyntaxError               a text is not of its message's language
    ├── PoisonError                   a message that nobody can understand, now or later
    ├── RefusedError                  a request to the daemon is refused; carries the HTTP status
    ├── StateFileError                the embedded cloud's state file cannot be used
    ├── ServiceError                  an answer of the embedded cloud that is an error
    ├── Refusal                       an answer of the Machine Provider that is an error
    ├── DemoFailedError               the demonstration did not show what it should
    └── RemoteError                   a service answered, or did not; carries method and status
        ├── TransientError            may succeed if repeated (5xx, connection, deadline)
        │   ├── RateLimitedError      the quota group is used up until `retry_after` (403, 429)
        │   ├── UnauthenticatedError  401; a fresh token may fix it
        │   └── MalformedResponseError  2xx with a body that is truncated, not JSON, or mistyped
        ├── NotFoundError             404
        ├── AlreadyExistsError        409 alreadyExists
        ├── StaleError                what was read is no longer current; read again and recompute
        │   ├── ConditionNotMetError  412: a stale fingerprint
        │   └── AbortedError          Datastore ABORTED: a conflicting write or transaction
        ├── ResourceInUseError        400 resourceInUseByAnotherResource: wait
        ├── ResourceNotReadyError     400 resourceNotReady: wait
        ├── QuotaExceededError        403 quotaExceeded: a resource quota; an operator can fix it
        ├── PermissionDeniedError     403: only an operator can fix it
        ├── InvalidRequestError       any other 4xx: we sent something wrong
        └── OperationFailedError      an operation is DONE with an error; carries its codes

`TransientError.retryable` is True: these may be repeated by a client, within its retry budget.
After any `TransientError` on a mutation the outcome is unknown: replay it with the same requestId,
or read back before deciding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class BackendError(Exception):
    """The root of everything that this project raises on purpose.

    Attributes:
        retry_after: seconds to wait before the next try; None when nothing is known.
    """

    retry_after: float | None = None


class SettingsError(BackendError):
    """The process settings cannot be used; the message names the key and the remedy."""


class CorruptEntityError(BackendError):
    """A stored entity cannot be understood; the message names its key and the property."""


class MissingEntityError(BackendError):
    """A stored entity is missing that another one needs; the message names its key."""


class ContentionError(BackendError):
    """An entity changed under every attempt to write it; the next run tries again."""


class ForeignResourceError(BackendError):
    """A resource of a name that we need belongs to somebody else."""


class ReplacedResourceError(ForeignResourceError):
    """A resource of ours was deleted by somebody, who made another one under its name."""


class HostnameReuseError(BackendError):
    """The catalog holds a machine's host name for another.

    Attributes:
        retry_after: seconds after which it is asked again.
    """

    retry_after = 300.0


class InvalidTokenError(BackendError):
    """A caller's token is invalid or not accepted; the message says why, and never the token."""


class SchemaError(BackendError):
    """The store has a schema that this release does not understand; the message names both."""


class LeadershipLostError(BackendError):
    """Another process leads now; this one must neither write nor send."""


class NoDaemonError(BackendError):
    """No daemon answers where a command looks for it; the message says what helps."""


class OrderError(BackendError):
    """An operator's order cannot be carried out now; the message says why."""


class UnknownNameError(OrderError):
    """An operator's order names something that does not exist; the message says what does."""


class UnusableFileError(BackendError):
    """A configuration file is missing, cannot be read, is too large or is not text.

    Attributes:
        file: its name, as the configuration has it.
        problem: what is wrong with it, and what helps.
    """

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        self.problem = problem
        super().__init__(f"{file} {problem}")


class RemoteError(BackendError):
    """A call to another service failed.

    Attributes:
        method: what was called, `service.resource.method`, e.g. `compute.instances.get`.
        status: the HTTP status; None when no answer came.
        reason: the service's own machine-readable word (`notFound`, `ABORTED`); "" when there is
            none.
        message: the service's explanation, for people. Never holds a credential.
        retry_after: seconds to wait before the next try; None when nothing is known.
        retryable: whether repeating the same call may succeed.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        method: str,
        message: str,
        *,
        status: int | None = None,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.method = method
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        code = " ".join(str(part) for part in (status, reason) if part)
        super().__init__(f"{method}: {code or 'no answer'}: {message}")


class TransientError(RemoteError):
    """May succeed when repeated; on a mutation the outcome is unknown."""

    retryable = True


class RateLimitedError(TransientError):
    """Too many calls: the quota group is used up until `retry_after` seconds have passed."""


class UnauthenticatedError(TransientError):
    """The service refused the token (401), or no token could be had."""


class MalformedResponseError(TransientError):
    """A success status with a body that is truncated, not JSON, too large or of the wrong type."""


class NotFoundError(RemoteError):
    """The resource does not exist (404)."""


class AlreadyExistsError(RemoteError):
    """A resource of that name exists (409 alreadyExists)."""


class StaleError(RemoteError):
    """What the call was computed from is no longer current: read again and recompute."""


class ConditionNotMetError(StaleError):
    """A stale fingerprint (412 conditionNotMet)."""


class AbortedError(StaleError):
    """Datastore ABORTED (409): a conflicting write, or a transaction to repeat as a whole."""


class ResourceInUseError(RemoteError):
    """Another resource still uses this one (400 resourceInUseByAnotherResource)."""


class ResourceNotReadyError(RemoteError):
    """The resource is being changed (400 resourceNotReady)."""


class QuotaExceededError(RemoteError):
    """A resource quota is used up (403 quotaExceeded)."""


class PermissionDeniedError(RemoteError):
    """The service account may not do this (403); the message names the permission where known."""


class InvalidRequestError(RemoteError):
    """The service did not accept the request (any other 4xx)."""


class OperationFailedError(RemoteError):
    """An operation is DONE with an error.

    Attributes:
        codes: the operation's `error.errors[].code`, e.g. `ZONE_RESOURCE_POOL_EXHAUSTED`.
    """

    def __init__(
        self, method: str, message: str, *, codes: Sequence[str], status: int | None = None
    ) -> None:
        self.codes = tuple(codes)
        super().__init__(method, message, status=status, reason=",".join(self.codes))
