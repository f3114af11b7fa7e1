"""Where a token may be sent: the addresses of services, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from yarl import URL

from gce_backend.base.errors import SettingsError
from gce_backend.settings.settings import is_loopback

_HOST = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


def origin(text: str) -> str:
    """The base URL that an operator means, without a trailing slash.

    Args:
        text: a URL, or a bare host name, which means https.

    Raises:
        SettingsError: it is not an http or https URL, or holds credentials, a query or a fragment.
    """
    try:
        url = URL(text if "://" in text else f"https://{text}")
        sound = url.scheme in {"http", "https"} and bool(url.host)
        sound = sound and not (url.user or url.password or url.query_string or url.fragment)
    except ValueError:
        sound = False
    if not sound:
        raise SettingsError(
            "The address of a service must be a host name, or an http(s) URL without credentials, "
            "query and fragment, e.g. https://machine-provider.example.com."
        )
    return str(url).rstrip("/")


def trusted_origin(text: str, allowed_hosts: Sequence[str], *, what: str, setting: str) -> str:
    """The origin at an address from the store, if a token may be sent there.

    Args:
        text: a host name or a URL; without a scheme, https (http on loopback).
        allowed_hosts: those of the settings: host names, and `*.` with a domain.
        what: the service at the address, for the error.
        setting: the setting that would allow it, for the error.

    Raises:
        SettingsError: nothing is stored, it is malformed, its host is not allowed, or it is plain
            http.
    """
    if not text:
        raise SettingsError(f"{what} is not known: store it with `gce-backend configure`")
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        raise SettingsError(f"{what} is malformed: write https://HOST[:PORT]") from None
    if "@" in parts.netloc:
        raise SettingsError(f"{what} holds credentials: store it without them")
    loopback = is_loopback(host)
    scheme = parts.scheme or ("http" if loopback else "https")
    if scheme not in {"https", "http"} or (scheme == "http" and not loopback):
        raise SettingsError(f"{what} {text!r} must be https: no token is sent in the clear")
    if not loopback and not (_HOST.fullmatch(host) and is_allowed(host, allowed_hosts)):
        raise SettingsError(
            f"{what} {text!r} gets no token: {setting} does not allow its host. Add the host "
            "there, or store the right address with `gce-backend configure`"
        )
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + (f":{port}" if port is not None else "")


def is_allowed(host: str, allowed_hosts: Sequence[str]) -> bool:
    """Whether a host is among those of the settings.

    Args:
        host: its name in lower case, without a port and without a trailing dot.
        allowed_hosts: host names, and `*.` with a domain: all hosts below that domain, but neither
            the domain itself nor one whose name only ends like it.
    """
    return any(
        host.endswith(pattern[1:]) and len(host) >= len(pattern)
        if pattern.startswith("*.")
        else host == pattern
        for pattern in allowed_hosts
    )
