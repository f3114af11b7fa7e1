"""From a bearer token of either kind to an identity."""

from __future__ import annotations

import re
from collections.abc import Callable

from gce_backend.base.errors import InvalidTokenError
from gce_backend.machine_provider.access.access_tokens import AccessTokens
from gce_backend.machine_provider.access.identity import Identity
from gce_backend.machine_provider.access.identity_tokens import IdentityTokens
from gce_backend.machine_provider.access.issuer_keys import IssuerKeys
from gce_backend.machine_provider.access.policy import AccessPolicy

MAX_TOKEN = 16 * 1024
"""Characters of a token."""

_TOKEN = re.compile(r"[\x21-\x7e]+")


class TokenVerifier:
    """Verifies tokens.

    Args:
        policy: returns the policy in force.
        access_tokens: verifies Google's access tokens.
        keys: the keys of issuers of identity tokens.
        identity_tokens: verifies identity tokens with these keys.
    """

    def __init__(
        self,
        policy: Callable[[], AccessPolicy],
        *,
        access_tokens: AccessTokens,
        keys: IssuerKeys,
        identity_tokens: IdentityTokens,
    ) -> None:
        self._policy = policy
        self._access_tokens = access_tokens
        self._keys = keys
        self._identity_tokens = identity_tokens

    async def identify(self, token: str) -> Identity:
        """The owner of a token.

        Raises:
            InvalidTokenError: the token is invalid.
            TransientError: the issuer cannot be reached.
        """
        if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise InvalidTokenError("it is not a token")
        if token.startswith("eyJ") and token.count(".") == 2:
            return await self._identity_tokens.identify(token, self._policy())
        return await self._access_tokens.identify(token, self._policy().client_ids)

    async def close(self) -> None:
        """Cancels calls in flight."""
        await self._access_tokens.close()
        await self._keys.close()
