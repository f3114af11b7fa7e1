"""Identity tokens: whom they are of, and every way in which one is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gce_backend.base.errors import InvalidTokenError, TransientError
from gce_backend.machine_provider.access.identity_tokens import check_times
from support.issuer import AUDIENCE, JWKS, issuer_running, verifying
from support.simulation import VirtualClock

SECRET = "a shared secret that is long enough to be accepted"


async def test_a_sound_token_names_its_subject_and_what_it_claims() -> None:
    """Claims are texts; an e-mail address counts where its issuer may vouch for its domain."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        known = await verifier.identify(
            issuer.token(
                email="Ann@Example.com", email_verified=True, run=7, protected=True, list=["x"]
            )
        )
        assert known.email == known.name == "ann@example.com"
        assert (known.claims["run"], known.claims["protected"]) == ("7", "true")
        assert "list" not in known.claims
        job = await verifier.identify(issuer.token(aud=["other", AUDIENCE]))
        assert job.email == ""
        assert job.name == f"{issuer.url.removeprefix('http://')}:job-1"


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "ann@elsewhere.com", "email_verified": True},
        {"email": "ann@example.com", "email_verified": False},
        {"email": "ann@example.com", "email_verified": "true"},
        {"email": "ann@example.com"},
        {"email": "x@example.com@example.com", "email_verified": True},
        {"email": ["ann@example.com"], "email_verified": True},
        {"email": "ann@evil.example.com", "email_verified": True},
    ],
)
async def test_an_address_that_is_not_vouched_for_is_none(claims: dict[str, Any]) -> None:
    """A self-hosted issuer cannot make somebody of another domain."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        assert (await verifier.identify(issuer.token(**claims))).email == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": "https://other.example.com"}, "another service"),
        ({"aud": None}, "it is invalid"),
        ({"aud": ["mp"]}, "another service"),
        ({"iss": "https://stranger.example.com"}, "not among those of access.cfg"),
        ({"iss": None}, "not among those of access.cfg"),
        ({"sub": None}, "it is invalid"),
        ({"sub": ""}, "not a name"),
        ({"sub": "job\x1b[2J"}, "not a name"),
        ({"exp": None}, "it is invalid"),
        ({"iat": None}, "it is invalid"),
        ({"exp": "tomorrow"}, "not a time"),
        ({"exp": True}, "not a time"),
        ({"exp": 1e400}, "not a time"),
        ({"kid": "unknown"}, "does not have"),
    ],
)
async def test_what_is_wrong_with_a_token_is_said(changes: dict[str, Any], why: str) -> None:
    """Each is refused with its reason, which never holds the token."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.token(**changes)
        with pytest.raises(InvalidTokenError, match=why) as refused:
            await verifier.identify(token)
        assert token not in str(refused.value)


async def test_forged_tokens_are_refused() -> None:
    """Another's key, no signature, a shared secret made of the public key, changed claims."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        claims, good = issuer.claims(), issuer.token()
        stranger = ec.generate_private_key(ec.SECP256R1())
        head, _, signature = good.split(".")
        other = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "admin"}).encode()).decode()
        forged = [
            jwt.encode(claims, stranger, "ES256", headers={"kid": "first"}),
            jwt.encode(claims, "", "none", headers={"kid": "first"}),
            jwt.encode(claims, SECRET, "HS256", headers={"kid": "first"}),
            f"{head}.{other.rstrip('=')}.{signature}",
            f"{head}.{head}.{signature}",
            good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
            "eyJ.eyJ.x",
            "eyJ..",
        ]
        for token in forged:
            with pytest.raises(InvalidTokenError):
                await verifier.identify(token)
        assert (await verifier.identify(good)).subject == "job-1"


@pytest.mark.parametrize("token", ["", "x y", "é", "t" * 20_000, "\n"])
async def test_what_is_no_token_asks_nobody(token: str) -> None:
    """Neither an issuer nor Google hears of it."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        with pytest.raises(InvalidTokenError):
            await verifier.identify(token)
        assert issuer.server.requests == []


@pytest.mark.parametrize(
    ("iat", "exp", "nbf", "valid"),
    [
        (0, 600, None, True),
        (59, 600, None, True),
        (61, 600, None, False),
        (-600, -59, None, True),
        (-600, -60, None, False),
        (0, 600, 61, False),
        (0, 24 * 3600, None, True),
        (0, 24 * 3600 + 1, None, False),
    ],
)
def test_clocks_may_differ_by_a_minute(
    iat: float, exp: float, nbf: float | None, valid: bool
) -> None:
    """Not yet, no longer, and for too long: each has its bound."""
    now = 1_700_000_000.0
    claims = {"iat": now + iat, "exp": now + exp, **({} if nbf is None else {"nbf": now + nbf})}
    if valid:
        assert check_times(claims, now) == now + exp
        return
    with pytest.raises(InvalidTokenError):
        check_times(claims, now)


async def test_a_token_is_refused_when_its_time_is_over() -> None:
    """Verified each time, not remembered."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        token = issuer.token()
        await verifier.identify(token)
        await asyncio.sleep(661)
        with pytest.raises(InvalidTokenError, match="expired"):
            await verifier.identify(token)


async def test_keys_are_read_once_and_again_when_a_token_names_a_new_one() -> None:
    """Rotation needs no restart: the new key is read, and the old one, once gone, is refused."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        first = issuer.token()
        await asyncio.gather(*(verifier.identify(first) for _ in range(50)))
        assert issuer.asked(JWKS) == 1
        await asyncio.sleep(11)
        issuer.rotate("second", keep=True)
        await verifier.identify(issuer.token())
        await verifier.identify(first)
        assert issuer.asked(JWKS) == 2
        issuer.rotate("third")
        await asyncio.sleep(11)
        await verifier.identify(issuer.token())
        with pytest.raises(InvalidTokenError, match="does not have"):
            await verifier.identify(first)


async def test_a_key_that_was_taken_back_is_refused_within_the_hour() -> None:
    """Also when no token names a new one."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        long = issuer.token(exp=int(clock.now()) + 3 * 3600)
        await verifier.identify(long)
        issuer.rotate("second")
        await verifier.identify(long)
        await asyncio.sleep(3601)
        with pytest.raises(InvalidTokenError, match="does not have"):
            await verifier.identify(long)


async def test_made_up_key_names_cause_few_reads() -> None:
    """A stranger cannot have the issuer asked with every call."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        for number in range(100):
            with pytest.raises(InvalidTokenError):
                await verifier.identify(issuer.token(kid=f"made-up-{number}"))
        assert issuer.asked(JWKS) <= 2


async def test_known_keys_stay_good_for_a_day_while_the_issuer_is_away() -> None:
    """After it, nobody is believed; with the issuer back, all are."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        await verifier.identify(issuer.token())
        issuer.status = 503
        await asyncio.sleep(23 * 3600)
        await verifier.identify(issuer.token())
        await asyncio.sleep(2 * 3600)
        with pytest.raises(TransientError, match="unknown: HTTP 503"):
            await verifier.identify(issuer.token())
        issuer.status = 200
        await asyncio.sleep(11)
        await verifier.identify(issuer.token())


@pytest.mark.parametrize(
    "documents",
    [
        {"issuer": "https://stranger.example.com"},
        {"jwks_uri": "http://stranger.example.com/keys"},
        {"jwks_uri": None},
        {"jwks_uri": "https://[x"},
    ],
)
async def test_a_discovery_document_of_somebody_else_gives_no_keys(
    documents: dict[str, Any],
) -> None:
    """Nor one whose keys would come in the clear."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        issuer.documents = documents
        with pytest.raises(TransientError):
            await verifier.identify(issuer.token())
        assert issuer.asked(JWKS) == 0


async def test_a_token_without_a_key_name_is_enough_where_there_is_one_key() -> None:
    """With two it is ambiguous, and refused."""
    clock = VirtualClock()
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        assert (await verifier.identify(issuer.token(kid=None))).subject == "job-1"
    async with issuer_running(clock) as issuer, verifying(issuer, clock) as verifier:
        issuer.rotate("second", keep=True)
        with pytest.raises(InvalidTokenError):
            await verifier.identify(issuer.token(kid=None))
