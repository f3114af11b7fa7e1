"""The identity of a caller, from a verified token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gce_backend.base.dates import UnixSeconds

MAX_SHOWN = 200
"""Characters of a name that are shown and stored."""
MAX_CLAIM = 1000
"""Most characters of a claim; a longer claim matches no pattern."""

_EMAIL = re.compile(r"[^\s@:/\\]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A caller.

    Attributes:
        issuer: the issuer's URL.
        subject: unique within the issuer, and never reused.
        email: a verified address in lower case; "" when there is none.
        claims: the token's other claims, as texts.
        vm: the VM that the token names, `PROJECT/NAME`; "" when it names none.
        expires: when the token expires.
    """

    issuer: str
    subject: str
    email: str = ""
    claims: Mapping[str, str] = {}
    vm: str = ""
    expires: UnixSeconds

    @property
    def name(self) -> str:
        """For logs, leases and people: the e-mail address, else issuer and subject."""
        return self.email or f"{urlsplit(self.issuer).netloc}:{self.subject}"[:MAX_SHOWN]


def email_of(value: object) -> str:
    """An e-mail address in lower case; "" when the text is not one."""
    return value.lower() if isinstance(value, str) and _EMAIL.fullmatch(value) else ""


def vm_of(claims: Mapping[str, Any]) -> str:
    """The VM that Compute Engine's metadata server names in a token, `PROJECT/NAME`; else ""."""
    google = claims.get("google")
    vm = google.get("compute_engine") if isinstance(google, dict) else None
    names = [vm.get(key) for key in ("project_id", "instance_name")] if isinstance(vm, dict) else []
    return "/".join(map(str, names)) if names and all(names) else ""


def texts_of(claims: Mapping[str, Any]) -> dict[str, str]:
    """The claims that are single values, as texts."""
    found = {}
    for key, value in claims.items():
        if isinstance(value, bool):
            found[key] = "true" if value else "false"
        elif isinstance(value, str | int) and len(text := str(value)) <= MAX_CLAIM:
            found[key] = text
    return found
