"""The metadata server: the project, the VM and its default service account's tokens.

It also plays Google's sign-in: it names the owner of an access token (tokeninfo), and publishes the
keys of the identity tokens that it signs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.cloud import Call, Cloud, CloudControl, Handler, Route, Service
from gce_backend.localcloud.statuses import ServiceError

FLAVOR = {"Metadata-Flavor": "Google"}
DEFAULT_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
OAUTH_CLIENT = "localcloud.apps.googleusercontent.com"
"""The OAuth client that tokeninfo names for access tokens."""
REUSE_SHARE = 0.5
"""A token is issued again while more than this share of its life is left."""

_ROOT = "/computeMetadata/v1"
_ACCOUNT = _ROOT + "/instance/service-accounts/{account:default|[^/]+@[^/]+}"
_INSTANCE_ID = "1000000000000000001"
_ACCOUNT_ID = "100000000000000000001"
_ZONE = "us-central1-a"
_UNIVERSE = "googleapis.com"
_MEMBERS = "aliases\nemail\nidentity\nscopes\ntoken\n"
IDENTITY_SECONDS = 3600
"""Life of an identity token."""


class IssuedToken(msgspec.Struct, frozen=True):
    """An access token.

    Attributes:
        scopes: its scopes, separated by spaces.
        expires: Unix time in seconds.
        account: whose it is; "" is the cloud's own account.
    """

    scopes: str
    expires: UnixSeconds
    account: str = ""


class MetadataService(Service):
    """The metadata server of the VM that the daemon appears to run on.

    Args:
        cloud: the cloud that it is part of; it checks the bearer tokens of this cloud.
    """

    name = "metadata"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._tokens = cloud.tables.table("metadata.tokens", IssuedToken)
        cloud.authenticate_with(self.is_valid, self._account_of)
        cloud.add_controls(
            CloudControl("POST", "/_localcloud/tokens/{account}", self._post_token),
            CloudControl("POST", "/_localcloud/identity-tokens", self._post_identity_token),
        )

    def routes(self) -> Iterable[Route]:
        """The root, by which clients find the server, and the paths below it."""
        root = self._route("root", "/", "computeMetadata/\n")
        yield root._replace(handler=self._home_or(root.handler))
        texts = {
            "project.project-id": ("/project/project-id", self._cloud.options.project),
            "instance.id": ("/instance/id", _INSTANCE_ID),
            "universe.universe-domain": ("/universe/universe-domain", _UNIVERSE),
            "instance.zone": ("/instance/zone", f"projects/{_INSTANCE_ID}/zones/{_ZONE}"),
        }
        for name, (path, text) in texts.items():
            yield self._route(name, _ROOT + path, text)
        account = "instance.service-accounts"
        yield self._route(f"{account}.email", _ACCOUNT + "/email", self._email())
        yield self._route(f"{account}.scopes", _ACCOUNT + "/scopes", "\n".join(DEFAULT_SCOPES))
        methods = {
            f"{account}.get": ("GET", _ACCOUNT + "/", self._whole_account),
            f"{account}.token": ("GET", _ACCOUNT + "/token", self._token),
            f"{account}.identity": ("GET", _ACCOUNT + "/identity", self._identity),
            "tokeninfo": ("POST", "/tokeninfo", self._tokeninfo),
            "openid-configuration": ("GET", "/.well-known/openid-configuration", self._discovery),
            "certs": ("GET", "/oauth2/v3/certs", self._certs),
        }
        for name, (verb, path, handler) in methods.items():
            yield Route(f"metadata.{name}", verb, path, handler, authenticated=False)

    def error_body(self, error: ServiceError) -> dict[str, str]:
        """The real server answers in HTML; its status is what clients read."""
        return {"error": error.reason, "error_description": error.message}

    def state(self) -> dict[str, int]:
        """The number of valid tokens; never the tokens."""
        return {"valid_tokens": sum(1 for token in self._tokens if self.is_valid(token))}

    def is_valid(self, token: str) -> bool:
        """Whether it is an access token that has not expired or been revoked."""
        issued = self._tokens.get(token)
        return issued is not None and issued.expires > self._cloud.clock.now()

    def revoke_all(self) -> None:
        """Revokes every token."""
        self._tokens.clear()
        self._cloud.tables.commit()

    def _email(self) -> str:
        return self._cloud.own_account

    def _account_of(self, token: str) -> str:
        return self._tokens[token].account or self._cloud.own_account

    async def _post_token(self, request: web.Request) -> web.Response:
        """A token, as for a VM of this account."""
        account, scopes = request.match_info["account"], " ".join(DEFAULT_SCOPES)
        return web.json_response(self.access_token(scopes, account, new=True))

    def own_token(self) -> str:
        """An access token of the cloud's own account."""
        scopes = " ".join(DEFAULT_SCOPES)
        return str(self.access_token(scopes, self._email())["access_token"])

    def access_token(self, scopes: str, account: str, *, new: bool = False) -> dict[str, Any]:
        """An access token of an account, in the form of the metadata server's answer.

        Args:
            scopes: what it is good for, space-separated.
            account: whose it is.
            new: whether it must be a new one.
        """
        account = "" if account == self._email() else account
        found = None if new else self._current(scopes, account)
        token, expires = found or self._issue(scopes, account)
        self._cloud.tables.commit()
        seconds = int(expires - self._cloud.clock.now())
        return {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}

    def _route(self, name: str, path: str, text: str) -> Route:
        async def answer(call: Call) -> web.Response:
            _check_flavor(call)
            return web.Response(text=text, headers=FLAVOR, content_type="application/text")

        return Route(f"metadata.{name}", "GET", path, answer, authenticated=False)

    def _home_or(self, handler: Handler) -> Handler:
        """Shows a browser the cloud's page; a metadata client says what it is."""

        async def answer(call: Call) -> Any:
            home = self._cloud.home
            if home is None or "Metadata-Flavor" in call.request.headers:
                return await handler(call)
            return await home(call.request)

        return answer

    async def _whole_account(self, call: Call) -> web.Response:
        """The account's members: their names, or with `recursive` their values without tokens."""
        self._check_account(call)
        if call.query.get("recursive", "").lower() != "true":
            return web.Response(text=_MEMBERS, headers=FLAVOR, content_type="application/text")
        account = {"aliases": ["default"], "email": self._email(), "scopes": DEFAULT_SCOPES}
        body = msgspec.json.encode(account)
        return web.Response(body=body, headers=FLAVOR, content_type="application/json")

    def _check_account(self, call: Call) -> None:
        _check_flavor(call)
        if call.path["account"] not in {"default", self._email()}:
            raise ServiceError(404, "notFound", f"no service account {call.path['account']}")

    async def _token(self, call: Call) -> web.Response:
        self._check_account(call)
        asked = call.query.get("scopes", "").replace(",", " ").split()
        scopes = " ".join(asked or DEFAULT_SCOPES)
        body = msgspec.json.encode(self.access_token(scopes, self._email()))
        return web.Response(body=body, headers=FLAVOR, content_type="application/json")

    @cached_property
    def _key(self) -> tuple[str, rsa.RSAPrivateKey]:
        """The name and the key that sign identity tokens; a restart rotates them."""
        return secrets.token_hex(8), rsa.generate_private_key(65537, 2048)

    def identity_token(self, claims: dict[str, Any]) -> str:
        """An identity token with these claims, signed with the key that the cloud publishes."""
        name, key = self._key
        now = int(self._cloud.clock.now())
        times = {"iss": self._cloud.base_url, "iat": now, "exp": now + IDENTITY_SECONDS}
        return jwt.encode({**times, **claims}, key, algorithm="RS256", headers={"kid": name})

    async def _identity(self, call: Call) -> web.Response:
        """An identity token of the account, for an audience."""
        self._check_account(call)
        audience = call.query.get("audience", "")
        if not audience:
            raise ServiceError(400, "badRequest", "non-empty audience parameter required")
        claims: dict[str, Any] = {"aud": audience, "azp": _ACCOUNT_ID, "sub": _ACCOUNT_ID}
        if call.query.get("format") == "full":
            claims |= {"email": self._email(), "email_verified": True}
        token = self.identity_token(claims)
        return web.Response(text=token, headers=FLAVOR, content_type="application/text")

    async def _post_identity_token(self, request: web.Request) -> web.Response:
        """An identity token with the claims in the body."""
        try:
            claims = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            return web.json_response({"error": f"not an object of claims: {error}"}, status=400)
        return web.json_response({"id_token": self.identity_token(claims)})

    async def _tokeninfo(self, call: Call) -> web.Response:
        """The owner of an access token; unlike Google, whatever the token's scopes."""
        form = await call.request.post()
        token = str(form.get("access_token", call.query.get("access_token", "")))
        if not self.is_valid(token):
            answer = {"error": "invalid_token", "error_description": "Invalid Value"}
            return web.json_response(answer, status=400)
        issued = self._tokens[token]
        return web.json_response(
            {
                "azp": OAUTH_CLIENT,
                "aud": OAUTH_CLIENT,
                "sub": self._account_of(token),
                "scope": issued.scopes,
                "exp": str(int(issued.expires)),
                "expires_in": str(int(issued.expires - self._cloud.clock.now())),
                "email": self._account_of(token),
                "email_verified": "true",
                "access_type": "online",
            }
        )

    async def _discovery(self, _: Call) -> dict[str, Any]:
        """The discovery document, with the address of the keys."""
        url = self._cloud.base_url
        return {
            "issuer": url,
            "jwks_uri": f"{url}/oauth2/v3/certs",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    async def _certs(self, _: Call) -> dict[str, Any]:
        """The key that identity tokens are signed with."""
        name, key = self._key
        public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": name, "alg": "RS256", "use": "sig"}]}

    def _current(self, scopes: str, account: str) -> tuple[str, float] | None:
        fresh = self._cloud.clock.now() + self._cloud.options.token_seconds * REUSE_SHARE
        for token, issued in self._tokens.items():
            if (issued.scopes, issued.account) == (scopes, account) and issued.expires > fresh:
                return token, issued.expires
        return None

    def _issue(self, scopes: str, account: str) -> tuple[str, float]:
        now = self._cloud.clock.now()
        for token in [token for token, old in self._tokens.items() if old.expires <= now]:
            del self._tokens[token]
        expires = now + self._cloud.options.token_seconds
        token = "ya29." + secrets.token_urlsafe(48)
        self._tokens[token] = IssuedToken(scopes, expires, account)
        return token, expires


def _check_flavor(call: Call) -> None:
    if call.request.headers.get("Metadata-Flavor") != "Google":
        raise ServiceError(403, "forbidden", "the header Metadata-Flavor: Google is missing")
    if "X-Forwarded-For" in call.request.headers:
        raise ServiceError(403, "forbidden", "the metadata server answers no forwarded requests")
