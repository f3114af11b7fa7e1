"""Google's access tokens: Google is asked seldom, and a revoked one is refused soon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gce_backend.base.errors import InvalidTokenError, TransientError
from support.issuer import issuer_running, verifying
from support.simulation import VirtualClock

ROBOT = "daemon@fleet-1.iam.gserviceaccount.com"


async def test_google_is_asked_once_a_minute_for_all_callers() -> None:
    """Fifty calls at once are one question, and the answer is good for a minute."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.good", "Ann@Example.com")
        found = await asyncio.gather(*(verifier.identify(token) for _ in range(50)))
        assert {one.name for one in found} == {"ann@example.com"}
        await asyncio.sleep(59)
        await verifier.identify(token)
        assert issuer.asked("/tokeninfo") == 1
        await asyncio.sleep(2)
        await verifier.identify(token)
        assert issuer.asked("/tokeninfo") == 2


async def test_a_revoked_token_is_refused_within_a_minute() -> None:
    """And one that expires at that moment."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.good", ROBOT)
        await verifier.identify(token)
        issuer.tokens.clear()
        await asyncio.sleep(61)
        with pytest.raises(InvalidTokenError):
            await verifier.identify(token)
        short = issuer.access_token("ya29.short", ROBOT, exp=str(int(clock.now()) + 30))
        await verifier.identify(short)
        await asyncio.sleep(31)
        with pytest.raises(InvalidTokenError, match="expired"):
            await verifier.identify(short)


@pytest.mark.parametrize("exp", [10**400, "1e999", "NaN", [], None, "soon"])
async def test_an_odd_end_of_a_token_is_no_answer_and_nobodys_crash(exp: object) -> None:
    """Neither is it a token for ever."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.odd", ROBOT, exp=exp)
        with pytest.raises(TransientError, match="when it expires"):
            await verifier.identify(token)


async def test_forged_tokens_are_refused_and_google_is_asked_once_for_each() -> None:
    """A refusal is remembered for some seconds."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        for _ in range(10):
            with pytest.raises(InvalidTokenError):
                await verifier.identify("ya29.forged")
        assert issuer.asked("/tokeninfo") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"azp": "game.apps.googleusercontent.com"}, "another application"),
        ({"email_verified": "false"}, "no verified e-mail"),
        ({"email": None}, "no verified e-mail"),
        ({"email": "nobody"}, "no verified e-mail"),
    ],
)
async def test_a_persons_token_for_another_application_is_of_no_use(
    changes: dict[str, Any], why: str
) -> None:
    """Whoever runs a game must not lease machines in its players' names."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.other", "ann@example.com", **changes)
        with pytest.raises(InvalidTokenError, match=why):
            await verifier.identify(token)


async def test_a_service_accounts_token_names_its_own_client() -> None:
    """Service accounts have no OAuth client that could be listed."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.robot", ROBOT, azp="1234", aud="1234")
        assert (await verifier.identify(token)).name == ROBOT


async def test_who_is_known_stays_known_while_google_is_away() -> None:
    """For ten minutes; who is not known is told to come again, and no error holds the token."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.access_token("ya29.canary", ROBOT)
        await verifier.identify(token)
        issuer.status = 500
        await asyncio.sleep(300)
        await verifier.identify(token)
        with pytest.raises(TransientError) as failed:
            await verifier.identify("ya29.other-canary")
        assert "canary" not in f"{failed.value} {failed.value.__context__}"
        await asyncio.sleep(400)
        with pytest.raises(TransientError):
            await verifier.identify(token)
