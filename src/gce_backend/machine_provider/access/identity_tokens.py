"""OpenID Connect identity tokens: signed by an issuer that access.cfg names, for this service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jwt

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import InvalidTokenError
from gce_backend.machine_provider.access.identity import Identity, email_of, texts_of, vm_of
from gce_backend.machine_provider.access.issuer_keys import ALGORITHMS, IssuerKeys
from gce_backend.machine_provider.access.policy import AccessPolicy, Issuer

SKEW_SECONDS = 60.0
"""Seconds that an issuer's clock may differ from ours."""
MAX_LIFE_SECONDS = 24 * 3600.0
"""Seconds of the longest accepted lifetime: a token that never expires is a password."""
MAX_SUBJECT = 500

_OPTIONS: Any = {
    "require": ["iss", "sub", "aud", "exp", "iat"],
    # Times are checked below, with the clock that is passed in.
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class IdentityTokens:
    """Verifies identity tokens.

    Args:
        keys: the issuers' keys.
    """

    def __init__(self, keys: IssuerKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def identify(self, token: str, policy: AccessPolicy) -> Identity:
        """The owner of a token.

        Args:
            token: a JSON Web Token, unchecked.
            policy: names the issuers, their audiences, and their e-mail domains.

        Raises:
            InvalidTokenError: the signature, the issuer, the audience or the time is wrong.
            TransientError: the issuer's keys cannot be read.
        """
        header, url = _unverified(token)
        issuer = policy.issuer(url)
        if issuer is None:
            raise InvalidTokenError(f"its issuer {url[:100]!r} is not among those of access.cfg")
        key_id = header.get("kid")
        if header.get("alg") not in ALGORITHMS:
            raise InvalidTokenError("its signature is of a kind that is not accepted")
        key = await self._keys.key(issuer.url, None if key_id is None else str(key_id))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=list(issuer.audiences),
                issuer=issuer.url,
                options=_OPTIONS,
            )
        except jwt.InvalidAudienceError:
            wanted = " or ".join(issuer.audiences)
            raise InvalidTokenError(
                f"it is for another service: ask for one for {wanted}"
            ) from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise InvalidTokenError(f"it is invalid ({type(error).__name__})") from None
        expires = check_times(claims, self._clock.now())
        subject = claims["sub"]
        named = isinstance(subject, str) and 0 < len(subject) <= MAX_SUBJECT
        if not named or not subject.isprintable():
            raise InvalidTokenError("its subject is not a name")
        email = vouched_email(issuer, claims)
        return Identity(
            issuer=issuer.url,
            subject=subject,
            email=email,
            claims=texts_of(claims),
            vm=vm_of(claims) if email else "",
            expires=expires,
        )


def _unverified(token: str) -> tuple[Mapping[str, Any], str]:
    """The header and the issuer that a token names, both unverified."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidTokenError("it is not a JSON Web Token") from None
    return header, str(claims.get("iss", ""))


def check_times(claims: Mapping[str, Any], now: UnixSeconds) -> UnixSeconds:
    """Checks that a token is valid now, and returns when it expires.

    Args:
        claims: the token's claims.

    Raises:
        InvalidTokenError: it is not valid now, or is valid for too long.
    """
    times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
    moments: dict[str, float] = {}
    for name, value in times.items():
        if value is None and name == "nbf":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidTokenError(f"its {name} is not a time")
        try:
            moments[name] = float(value)
        except OverflowError:
            raise InvalidTokenError(f"its {name} is not a time") from None
        if not math.isfinite(moments[name]):
            raise InvalidTokenError(f"its {name} is not a time")
    if moments["exp"] + SKEW_SECONDS <= now:
        raise InvalidTokenError(f"it expired {now - moments['exp']:.0f} s ago")
    begins = max(moments["iat"], moments.get("nbf", moments["iat"]))
    if begins - SKEW_SECONDS > now:
        raise InvalidTokenError(f"it becomes valid in {begins - now:.0f} s: a clock is wrong")
    if moments["exp"] - moments["iat"] > MAX_LIFE_SECONDS:
        raise InvalidTokenError(f"it is valid for more than {MAX_LIFE_SECONDS / 3600:.0f} h")
    return moments["exp"]


def vouched_email(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    """The e-mail address of a token's subject, if its issuer may vouch for it; else ""."""
    if claims.get("email_verified") is not True:
        return ""
    email = email_of(claims.get("email"))
    domain = email.rpartition("@")[2]
    return email if "*" in issuer.email_domains or domain in issuer.email_domains else ""
