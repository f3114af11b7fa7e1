"""Tokens of the embedded cloud's metadata server, as google-auth's credentials."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from google.oauth2.credentials import Credentials

from support.patience import PATIENCE

_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"


def issued_token(url: str) -> tuple[str, int]:
    """The token that the metadata server gives, and for how many seconds it is good."""
    response = requests.get(url + _TOKEN, headers={"Metadata-Flavor": "Google"}, timeout=PATIENCE)
    answer = response.json()
    return answer["access_token"], answer["expires_in"]


def credentials(url: str, token: str | None = None) -> Credentials:
    """Credentials that ask the metadata server.

    Args:
        url: the cloud.
        token: a token to begin with; without one the metadata server is asked at once.
    """

    def refresh(_request: Any, scopes: Any) -> tuple[str, datetime]:
        token, seconds = issued_token(url)
        expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=seconds)
        return token, expiry  # naive, as google-auth wants it

    return Credentials(token, refresh_handler=refresh)
