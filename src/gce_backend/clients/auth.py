"""Access tokens: one refresh for all waiting callers, then back-off, and no secret in any error.

gcloud-aio-auth finds the credentials and knows how to get a token from them. This module adds:
the metadata server's address as a setting, a reaction to 401, and waiters that do not share each
other's cancellation (awaiting its refresh task directly, one cancelled caller cancels them all).
"""

from __future__ import annotations

import asyncio
import copy
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from gcloud.aio.auth import Token
from gcloud.aio.auth.token import Type
from yarl import URL

from gce_backend.base.errors import RemoteError, SettingsError, TransientError, UnauthenticatedError
from gce_backend.base.tasks import end
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest
from gce_backend.clients.gcloud import LibrarySession

METADATA_PATH = "/computeMetadata/v1"
METADATA_HEADERS: Mapping[str, str] = {"Metadata-Flavor": "Google"}

REFRESH_TIMEOUT_SECONDS = 10
WAIT_SECONDS = 15.0
FRESH_PART = 0.5
"""The fraction of its lifetime after which a token is renewed in the background."""
USABLE_PART = 0.95
"""The fraction of its lifetime after which a token is no longer used."""
INVALIDATION_SECONDS = 5.0
"""The least time between two refreshes that a refused token causes."""
MIN_LIFE_SECONDS = 30
"""Seconds for which a token is used, even if its lifetime is shorter."""
MAX_LIFE_SECONDS = 12 * 3600
"""The longest lifetime that Google gives."""
MAX_TOKEN_BYTES = 2**16
"""Largest answer of a token server that is read."""
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 30.0

AWAY = ". Away from Google Cloud, log in with `gcloud auth application-default login`"
"""What to do where there is no metadata server, and no credentials were found elsewhere."""

_TOKEN = re.compile(r"[\x21-\x7e]+")
_MAX_PROJECT_BYTES = 256


class _SharedToken(Token):
    """A gcloud token whose refresh is single-flight, bounded, and backs off when it fails.

    Time is the event loop's, not the wall clock's: a clock that jumps neither keeps a dead token
    nor throws away a good one.
    """

    def __init__(
        self, session: aiohttp.ClientSession, scopes: Sequence[str], *, metadata_only: bool
    ) -> None:
        super().__init__(
            # To gcloud, empty credentials mean the metadata server; None means to search.
            service_file=io.StringIO("{}") if metadata_only else None,
            session=session,  # type: ignore[arg-type]  # gcloud's alias hides aiohttp's type
            scopes=list(scopes),
        )
        self.session = LibrarySession(  # type: ignore[assignment]  # it has the same methods
            Exchange(session, None, None),
            method_of=lambda _verb, _url: "auth.token",
            timeout=Deadlines(total=REFRESH_TIMEOUT_SECONDS),
            limit=MAX_TOKEN_BYTES,
        )
        self._fresh_until = 0.0
        self._usable_until = 0.0
        self._not_before = float("-inf")
        self._refused = False
        self._was_refused = False
        self._forced_at = float("-inf")
        self._failures = 0
        self._error: RemoteError | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def ensure_token(self) -> None:
        """Makes `access_token` a usable one.

        Raises:
            UnauthenticatedError: the credentials are refused, or refreshing has to wait.
            TransientError: the token server gives no valid answer in time.
        """
        now = asyncio.get_running_loop().time()
        usable = self.access_token is not None and now < self._usable_until
        if usable and now < self._fresh_until:
            return
        if self._refreshing is None:
            if now >= self._not_before:
                if self._refused:
                    self._refused = False
                    self._forced_at = now
                self._refreshing = asyncio.create_task(self._refresh_once(), name="auth.refresh")
            elif not usable:
                raise self._repeated(self._not_before - now)
        if usable or self._refreshing is None:
            return
        # asyncio.wait, unlike awaiting the task, leaves it running when this waiter is cancelled.
        done, _ = await asyncio.wait({self._refreshing}, timeout=WAIT_SECONDS)
        if not done:
            raise TransientError("auth.token", f"no token within {WAIT_SECONDS:g} s")
        now = asyncio.get_running_loop().time()
        if self.access_token is None or now >= self._usable_until:
            raise self._repeated(max(self._not_before - now, 0.0))

    def invalidate(self, token: str) -> None:
        """Forgets `token` if it is the cached one, so that the next call gets another."""
        if self.access_token != token:
            return
        self.access_token = None
        self._refused = self._was_refused = True
        self._not_before = max(self._not_before, self._forced_at + INVALIDATION_SECONDS)

    async def stop(self) -> None:
        """Ends a refresh in flight."""
        if self._refreshing is not None:
            await end(self._refreshing)

    def _repeated(self, delay: float) -> RemoteError:
        """The last failure, as a new exception for one more caller."""
        if self._error is None:
            refused = self._was_refused
            message = "the token was refused a moment ago" if refused else "there is no token yet"
            return UnauthenticatedError("auth.token", message, retry_after=delay)
        kind, error = type(self._error), self._error
        return kind("auth.token", error.message, status=error.status, retry_after=delay)

    async def _refresh_once(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            response = await self.refresh(timeout=REFRESH_TIMEOUT_SECONDS)
            if not _TOKEN.fullmatch(response.value):
                raise ValueError  # noqa: TRY301  (an unsendable token is one more bad answer)
            seconds = min(max(response.expires_in, MIN_LIFE_SECONDS), MAX_LIFE_SECONDS)
        except Exception as error:  # noqa: BLE001  (gcloud raises whatever its parts raise)
            on_metadata = self.token_type is Type.GCE_METADATA
            self._error = _described(error, AWAY if on_metadata else "")
            self._was_refused = False
            delay = FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failures, 10)
            self._failures += 1
            self._not_before = loop.time() + min(delay, LAST_BACKOFF_SECONDS)
        else:
            self._error = None
            self._failures = 0
            self._was_refused = False
            self.access_token = response.value
            self._fresh_until = begun + seconds * FRESH_PART
            self._usable_until = begun + seconds * USABLE_PART
        finally:
            self._refreshing = None


def _described(error: Exception, remedy: str) -> RemoteError:
    """What went wrong, without the answer's body and without the request: both may hold secrets.

    Args:
        remedy: what to do where no token server can be reached.
    """
    if isinstance(error, RemoteError) and error.status is None:
        message = f"the token server cannot be reached ({error.message}){remedy}"
        return TransientError("auth.token", message)
    if isinstance(error, RemoteError) and error.status != 200:
        status = error.status or 0
        message = f"the token server answered {status}"
        refused = 400 <= status < 500 and status not in {408, 429}
        kind = UnauthenticatedError if refused else TransientError
        return kind("auth.token", message, status=status)
    message = f"the token server's answer cannot be used ({type(error).__name__})"
    return TransientError("auth.token", message)


class TokenSource:
    """Bearer tokens for one set of scopes.

    Args:
        session: the aiohttp session used for refreshes; stays the caller's.
        metadata_root: the metadata server's origin, e.g. `http://metadata.google.internal`. Used
            unless credentials are found where gcloud looks for them (see `describe`).
        scopes: OAuth scopes. A token of narrower scopes needs its own source.
        metadata_only: use no other credentials, whatever is found: for endpoints that are not
            Google's, to which an account's real tokens must not go.

    Raises:
        SettingsError: credentials were named in the environment, but cannot be used.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        metadata_root: str,
        scopes: Sequence[str],
        metadata_only: bool = False,
    ) -> None:
        self._session = session
        self._metadata_root = metadata_root.rstrip("/")
        self._check: Callable[[], None] = lambda: None
        problem = ""
        try:
            self._token = _SharedToken(session, scopes, metadata_only=metadata_only)
        except (OSError, KeyError, ValueError) as error:
            problem = type(error).__name__
        if problem:
            raise SettingsError(
                "the credentials file cannot be used "
                f"({problem}); correct or unset GOOGLE_APPLICATION_CREDENTIALS"
            )
        if self._token.token_type is Type.GCE_METADATA:
            # gcloud takes the metadata server's address from the environment, once, at import.
            wanted = quote(",".join(scopes), safe=":/,")
            self._token.token_uri = (
                f"{self._metadata_root}{METADATA_PATH}/instance/service-accounts/default/token"
                f"?recursive=true&scopes={wanted}"
            )

    @property
    def token(self) -> Token:
        """The same tokens, in the form that the gcloud-aio clients accept."""
        return self._token

    async def get(self) -> str:
        """A usable access token.

        Raises:
            UnauthenticatedError: the credentials are refused; `retry_after` says how long to wait.
            TransientError: the token server gives no valid answer within 15 s.
        """
        await self._token.ensure_token()
        self._check()
        return str(self._token.access_token)

    def only_while(self, check: Callable[[], None]) -> TokenSource:
        """The same tokens, given out only while nothing speaks against a request.

        Args:
            check: called just before each request; what it raises, `get` raises.
        """
        guarded = copy.copy(self)
        guarded._check = check  # noqa: SLF001 -- its own class
        return guarded

    def invalidate(self, token: str) -> None:
        """Says that a service refused `token` with 401.

        It drops only the token in use, so many callers refused together cause one refresh.
        """
        self._token.invalidate(token)

    def account(self) -> str:
        """The e-mail address that the credentials name; "" when they name none."""
        return str(self._token.service_data.get("client_email", ""))

    def describe(self) -> str:
        """Which credentials are in use, for people; never their content."""
        data: Mapping[str, Any] = self._token.service_data
        kind = self._token.token_type
        if kind is Type.GCE_METADATA:
            return f"metadata server at {self._metadata_root}"
        if kind is Type.SERVICE_ACCOUNT:
            return f"service account {data.get('client_email', 'without a name')}"
        return f"{str(kind.value).replace('_', ' ')} credentials from a file"

    async def project(self) -> str:
        """The project that the credentials belong to.

        Raises:
            SettingsError: the credentials do not name one.
            TransientError: the metadata server gives no valid answer.
        """
        if self._token.token_type is not Type.GCE_METADATA:
            project = self._token.service_data.get("project_id")
            if not project:
                raise SettingsError(f"project: {self.describe()} name none; set it")
            return str(project)
        method = "metadata.project"
        url = URL(f"{self._metadata_root}{METADATA_PATH}/project/project-id")
        timeout = Deadlines(total=REFRESH_TIMEOUT_SECONDS)
        exchange = Exchange(self._session, None, None)
        status = None
        try:
            request = HttpRequest(method, "GET", url, timeout, _MAX_PROJECT_BYTES, METADATA_HEADERS)
            answer = await exchange.send(request, None)
        except TransientError as error:
            failure = f"the metadata server cannot be reached ({error.message})"
        else:
            status = answer.status
            genuine = answer.headers.get("Metadata-Flavor") == "Google"
            if status == 200 and genuine:
                return answer.body.decode("utf-8", "replace").strip()
            failure = "the server there is not a working metadata server"
        remedy = "Away from Google Cloud, name the project: `project` in the settings"
        raise TransientError(method, f"{failure}. {remedy}", status=status)

    async def close(self) -> None:
        """Ends a refresh in flight; the session stays open."""
        await self._token.stop()
