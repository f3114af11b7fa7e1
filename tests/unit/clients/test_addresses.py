"""Where the tokens for the Machine Provider and the config service may go (hazard 5)."""

from __future__ import annotations

import pytest

from gce_backend.base.errors import SettingsError
from gce_backend.clients.addresses import trusted_origin

ALLOWED = ("*.appspot.com", "mp.example.com")


def origin(text: str) -> str:
    """The origin at a stored address."""
    return trusted_origin(
        text, ALLOWED, what="the address", setting="machine_provider.allowed_hosts"
    )


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("https://machine-provider.appspot.com", "https://machine-provider.appspot.com"),
        ("machine-provider.appspot.com", "https://machine-provider.appspot.com"),
        ("https://mp.example.com/some/path", "https://mp.example.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost:1", "http://localhost:1"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("https://MP.Example.com.:8443/path?query", "https://mp.example.com:8443"),
        ("https://a.b.appspot.com", "https://a.b.appspot.com"),
    ],
)
def test_hazard_05_a_token_goes_to_an_allowed_host_over_https_or_to_loopback(
    stored: str, wanted: str
) -> None:
    """Only the origin of the address counts."""
    assert origin(stored) == wanted


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        ("", "gce-backend configure"),
        ("https://evil.example.org", "machine_provider.allowed_hosts"),
        ("https://appspot.com.evil.org", "machine_provider.allowed_hosts"),
        ("https://127.0.0.1.evil.org", "machine_provider.allowed_hosts"),
        ("http://machine-provider.appspot.com", "https"),
        ("ftp://machine-provider.appspot.com", "https"),
        ("https://user:secret@mp.example.com", "credentials"),
        ("https://@mp.example.com", "credentials"),
        ("https://mp.example.com\\@evil.example.org", "credentials"),
        ("https://evilappspot.com", "machine_provider.allowed_hosts"),
        ("https://appspot.com", "machine_provider.allowed_hosts"),
        ("https://.appspot.com", "machine_provider.allowed_hosts"),
        ("https://mp.example.com..", "machine_provider.allowed_hosts"),
        ("https://evil.org\\.appspot.com", "machine_provider.allowed_hosts"),
        ("https://evil.org%2f.appspot.com", "machine_provider.allowed_hosts"),
        ("https://xmp.example.com", "machine_provider.allowed_hosts"),
        ("https://mp.example.com:99999", "malformed"),
        ("https://mp.example.com:8080x", "malformed"),
        ("https://[::1", "malformed"),
    ],
)
def test_hazard_05_no_token_goes_to_whatever_was_stored(stored: str, word: str) -> None:
    """The refusal names the remedy, and does not repeat a password."""
    with pytest.raises(SettingsError, match=word) as caught:
        origin(stored)
    assert "secret" not in str(caught.value)
