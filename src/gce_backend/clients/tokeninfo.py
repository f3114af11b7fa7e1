"""Client of Google's tokeninfo, which says whose an access token is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from yarl import URL

from gce_backend.base.errors import TransientError
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, decode

MAX_BYTES = 2**16
METHOD = "oauth2.tokeninfo"

_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


async def tokeninfo(
    exchange: Exchange, url: URL, token: str, deadlines: Deadlines
) -> Mapping[str, Any] | None:
    """The facts about an access token; None when Google does not know it, or it has expired.

    Args:
        exchange: sends the request, without another token.
        url: the URL of tokeninfo.
        token: the access token, unchecked.

    Raises:
        MalformedResponseError: the answer cannot be understood.
        TransientError: Google cannot be reached.
    """
    body = urlencode({"access_token": token})
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    request = HttpRequest(METHOD, "POST", url, deadlines, MAX_BYTES, headers, body)
    answer = await exchange.send(request, None)
    if answer.status in {400, 401}:
        return None
    if answer.status != 200:
        raise TransientError(METHOD, f"HTTP {answer.status}", status=answer.status)
    found = decode(METHOD, answer.body, _ANYTHING)
    if not isinstance(found, dict):
        raise TransientError(METHOD, "the answer is not an object")
    return found


def verified_email(found: Mapping[str, Any]) -> str:
    """The e-mail address that tokeninfo vouches for; "" when there is none."""
    email = found.get("email")
    verified = str(found.get("email_verified", "")).lower() == "true"
    return email if verified and isinstance(email, str) else ""
