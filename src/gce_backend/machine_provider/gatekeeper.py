"""Identifies callers, decides whether they may call, and logs the reason."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import InvalidTokenError
from gce_backend.base.guesses import Guesses
from gce_backend.machine_provider.access.decision import decide
from gce_backend.machine_provider.access.identity import Identity
from gce_backend.machine_provider.access.policy import AccessPolicy
from gce_backend.machine_provider.api import Caller, Refusal

READS = frozenset(
    {
        "catalog.get",
        "machine.poll",
        "service.metrics",
        "service.pages",
        "leases.get",
        "leases.list",
        "leases.keepalive",
        "machines.report",
        "machines.list",
        "machines.get",
        "users.list",
        "demand.get",
        "users.whoami",
    }
)
"""Methods that only read, or are called all the time: allowed calls are counted, not logged."""

MAX_REFUSALS = 100
"""Refused calls that are remembered for people."""

log = structlog.stdlib.get_logger()


class RefusedCall(NamedTuple):
    """A call that was refused.

    Attributes:
        at: when.
        user: the caller; "" when the call had no valid token.
        method: what was called.
        remote: the address that the call came from.
        reason: why it was refused.
    """

    at: UnixSeconds
    user: str
    method: str
    remote: str
    reason: str


class Gatekeeper:
    """Judges calls.

    Args:
        identify: the owner of a token; raises InvalidTokenError if it is invalid, TransientError if
            its issuer cannot be reached.
        policy: returns the policy in force.
        decided: notified of every decision: method, and `allowed`, `denied` or `no_token`.

    Attributes:
        refusals: the last calls that were refused, the newest first.
    """

    def __init__(
        self,
        identify: Callable[[str], Awaitable[Identity]],
        policy: Callable[[], AccessPolicy],
        clock: Clock,
        *,
        decided: Callable[[str, str], None] = lambda _method, _outcome: None,
    ) -> None:
        self._identify = identify
        self._policy = policy
        self._clock = clock
        self._guesses = Guesses(clock)
        self._decided = decided
        self.refusals: deque[RefusedCall] = deque(maxlen=MAX_REFUSALS)

    async def admit(self, authorization: str | None, method: str, remote: str) -> Caller:
        """Lets a caller in.

        Args:
            authorization: the Authorization header; None without one.
            method: `api.method`.
            remote: the address that the call comes from.

        Raises:
            Refusal: 401: the token is invalid. 403: there is none, or its owner may not call.
            TransientError: the issuer cannot be reached.
        """
        if authorization is None:
            self._decided(method, "no_token")
            log.warning("machine_provider.no_token", method=method, remote=remote)
            self._remember("", method, remote, "it carried no token")
            raise Refusal(403, "Access is denied.")
        scheme, _, token = authorization.partition(" ")
        try:
            identity = await self._identify(token.strip() if scheme.lower() == "bearer" else "")
        except InvalidTokenError as error:
            tries, delay = self._guesses.note(remote)
            self._decided(method, "bad_token")
            log.warning(
                "machine_provider.token_refused",
                method=method,
                remote=remote,
                reason=str(error),
                tries=tries,
            )
            self._remember("", method, remote, str(error))
            await asyncio.sleep(delay)
            raise Refusal(401, f"The token is refused: {error}.") from None
        return self.judge(identity, method, remote)

    def judge(self, identity: Identity, method: str, remote: str) -> Caller:
        """Decides whether an identified caller may call a method.

        Raises:
            Refusal: 403: the caller may not.
        """
        decision = decide(self._policy(), identity, method)
        self._decided(method, "allowed" if decision.allowed else "denied")
        caller_log = log.bind(
            method=method,
            user=identity.name,
            issuer=identity.issuer,
            remote=remote,
            group=decision.group.name if decision.group else "",
            reason=decision.why,
        )
        if not decision.allowed:
            caller_log.warning("machine_provider.denied")
            self._remember(identity.name, method, remote, decision.why)
            raise Refusal(403, f"Access is denied: {decision.why}.")
        if method not in READS:
            caller_log.info("machine_provider.allowed")
        return Caller(
            user=identity.name,
            account=identity.email or identity.name,
            backend=decision.backend,
            roles=decision.roles,
            group=decision.group,
            vm=identity.vm,
        )

    def _remember(self, user: str, method: str, remote: str, reason: str) -> None:
        self.refusals.appendleft(RefusedCall(self._clock.now(), user, method, remote, reason))
