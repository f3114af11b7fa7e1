"""Where a token may be sent: the addresses of services, checked."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from yarl import URL

from gce_backend.base.errors import (
    SettingsError,
)


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
        allowed_hosts: patterns of the settings.
        what: what the address is of, for the error.
        setting: the setting that would allow it, for the error.

    Raises:
        SettingsError: nothing is stored, or the host is not allowed, or it is plain http.
    """
    if not text:
        raise SettingsError(f"{what} is not known: store it with `gce-backend configure`")
    parts = urlsplit(text if "//" in text else f"//{text}")
    if parts.username or parts.password:
        raise SettingsError(f"{what} holds credentials: store it without them")
    host = parts.hostname or ""
    loopback = _is_loopback(host)
    scheme = parts.scheme or ("http" if loopback else "https")
    if scheme not in {"https", "http"} or (scheme == "http" and not loopback):
        raise SettingsError(f"{what} {text!r} must be https: no token is sent in the clear")
    if not loopback and not any(fnmatch.fnmatch(host, pattern) for pattern in allowed_hosts):
        raise SettingsError(
            f"{what} {text!r} gets no token: its host is not in {setting}. Add it there, or store "
            "the right address with `gce-backend configure`"
        )
    return f"{scheme}://{parts.netloc}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
