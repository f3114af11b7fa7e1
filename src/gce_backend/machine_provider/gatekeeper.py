"""Lets callers in: who they are, whether they may, and a log line with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from gce_backend.base.clock import Clock
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
        "leases.get",
        "leases.list",
        "leases.keepalive",
        "machines.list",
        "users.whoami",
    }
)
"""Methods that change nothing worth a line: that somebody may call them is counted."""

log = structlog.stdlib.get_logger()


class Verifier(Protocol):
    """Knows whose tokens are."""

    async def identify(self, token: str) -> Identity:
        """Whose a token is.

        Raises:
            InvalidTokenError: nobody's.
            TransientError: who knows cannot be asked.
        """
        ...


class Gatekeeper:
    """Judges calls.

    Args:
        verifier: knows whose tokens are.
        policy: who may do what, as it is now.
        clock: the time.
        decided: notified of every decision: method, and `allowed`, `denied` or `no_token`.
    """

    def __init__(
        self,
        verifier: Verifier,
        policy: Callable[[], AccessPolicy],
        clock: Clock,
        *,
        decided: Callable[[str, str], None] = lambda _method, _outcome: None,
    ) -> None:
        self._verifier = verifier
        self._policy = policy
        self._guesses = Guesses(clock)
        self._decided = decided

    async def admit(self, authorization: str | None, method: str, remote: str) -> Caller:
        """Lets a caller in.

        Args:
            authorization: the header of that name; None without one.
            method: `api.method`.
            remote: the address that the call comes from.

        Raises:
            Refusal: 401: the token is nobody's. 403: there is none, or its owner may not.
            TransientError: who knows whose token it is cannot be asked.
        """
        if authorization is None:
            self._decided(method, "no_token")
            log.warning("machine_provider.no_token", method=method, remote=remote)
            raise Refusal(403, "Access is denied.")
        scheme, _, token = authorization.partition(" ")
        try:
            identity = await self._verifier.identify(
                token.strip() if scheme.lower() == "bearer" else ""
            )
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
            await asyncio.sleep(delay)
            raise Refusal(401, f"The token is refused: {error}.") from None
        return self.judge(identity, method, remote)

    def judge(self, identity: Identity, method: str, remote: str) -> Caller:
        """Decides whether somebody who is known may call a method.

        Raises:
            Refusal: 403: no.
        """
        decision = decide(self._policy(), identity, method)
        self._decided(method, "allowed" if decision.allowed else "denied")
        group = decision.group.name if decision.group else ""
        if not decision.allowed:
            log.warning(
                "machine_provider.denied",
                method=method,
                user=identity.name,
                issuer=identity.issuer,
                remote=remote,
                group=group,
                reason=decision.why,
            )
            raise Refusal(403, f"Access is denied: {decision.why}.")
        if method not in READS:
            log.info(
                "machine_provider.allowed",
                method=method,
                user=identity.name,
                issuer=identity.issuer,
                remote=remote,
                group=group,
                reason=decision.why,
            )
        return Caller(
            user=identity.name,
            account=identity.email or identity.name,
            backend=decision.backend,
            roles=decision.roles,
            group=decision.group,
        )
