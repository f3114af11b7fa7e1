"""Where templates.cfg and managers.cfg come from: a directory, LUCI Config v1 or LUCI Config v2.

Every source gives a `ConfigBundle`, all of it from one revision, or raises: a file that is missing
or cannot be read is never an empty file.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import (
    MalformedResponseError,
    NotFoundError,
    SettingsError,
    TransientError,
    UnusableFileError,
)
from gce_backend.base.tasks import off_loop
from gce_backend.clients.addresses import origin
from gce_backend.clients.config_files import (
    MAX_FILE_BYTES,
    check_total,
    read_text,
    required_text,
    text_of,
)
from gce_backend.clients.exchange import Tokens, decode
from gce_backend.clients.json_api import JsonApi, Limits, success
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Retrier
from gce_backend.configuration.types import MANAGERS_FILE as MANAGERS
from gce_backend.configuration.types import TEMPLATES_FILE as TEMPLATES

MAX_REVISION = 200
"""Characters in the name of a revision."""
MAX_TRIES = 5
"""How often files are read again because they changed during the read."""
PAUSE_SECONDS = 0.2
"""Seconds between two such tries."""

References = Callable[[str], Iterable[str]]
"""The further files that a templates.cfg names, as paths in the config set."""

# An answer holds a file in base64 (4/3 of its size), and a little more.
_LIMITS = Limits(body_bytes=MAX_FILE_BYTES * 4 // 3 + 2**16)


class ConfigBundle(msgspec.Struct, frozen=True):
    """A configuration, all of it from one revision.

    Attributes:
        revision: the source's name for the revision.
        templates_text: templates.cfg.
        managers_text: managers.cfg.
        files: by path, the text of the further files that templates.cfg names; those that do not
            exist are absent, so that the validation can tell where they are named.
    """

    revision: str
    templates_text: str
    managers_text: str
    files: Mapping[str, str]

    @property
    def size(self) -> int:
        """Characters in all its texts."""
        texts = (self.templates_text, self.managers_text, *self.files.values())
        return sum(map(len, texts))


class ConfigFile(NamedTuple):
    """One file of a config set.

    Attributes:
        revision: the source's name for the revision that it is of.
        text: its content.
    """

    revision: str
    text: str


class DirectorySource:
    """A directory on this machine.

    Its revision is the SHA-1 of the names and contents of the files used.

    Args:
        references: finds the further files that templates.cfg names.
    """

    def __init__(self, path: Path, references: References) -> None:
        self._root = path
        self._references = references

    async def fetch(self, known_revision: str | None) -> ConfigBundle | None:
        """The configuration; None when it is still `known_revision`.

        Raises:
            UnusableFileError: a file is missing, unreadable, too large, not UTF-8, or changing.
        """
        bundle = await self._read()
        if bundle.revision == known_revision:
            return None
        # Read until two reads agree: an editor or a checkout may be writing.
        for _ in range(MAX_TRIES):
            again = await self._read()
            if again == bundle:
                return None if bundle.revision == known_revision else bundle
            bundle = again
            await asyncio.sleep(PAUSE_SECONDS)
        raise UnusableFileError(
            TEMPLATES, f"or another file in {self._root} keeps changing while it is read"
        )

    async def _read(self) -> ConfigBundle:
        texts = {name: required_text(self._root, name) for name in (TEMPLATES, MANAGERS)}
        files: dict[str, str] = {}
        for path in await _named(self._references, texts[TEMPLATES]):
            text = read_text(self._root, path)
            if text is not None:
                files[path] = text
                check_total(files)
        digest = hashlib.sha1(usedforsecurity=False)
        for name, text in [*texts.items(), *sorted(files.items())]:
            content = text.encode()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return ConfigBundle(digest.hexdigest(), texts[TEMPLATES], texts[MANAGERS], files)


class _LuciConfig:
    """A config set on a LUCI Config service.

    Args:
        tokens: gives tokens for this service.
        hostname_url: its host name or base URL.
        config_set: which configuration.
        references: finds the further files that templates.cfg names.
        retrier: repeats calls.

    Raises:
        SettingsError: `hostname_url` is not usable.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        hostname_url: str,
        config_set: str,
        references: References = lambda _: (),
        retrier: Retrier | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        self._api = JsonApi(
            session=session,
            tokens=tokens,
            root=hostname_url,
            limits=_LIMITS,
            retrier=retrier,
            observer=observer,
        )
        self._set = config_set
        self._references = references


class LuciConfigV1(_LuciConfig):
    """A config set on a LUCI Config service that speaks v1."""

    async def fetch_file(self, path: str, known_revision: str | None) -> ConfigFile | None:
        """One file at the present revision; None when that is still `known_revision`.

        Raises:
            NotFoundError: there is no such file.
            UnusableFileError: it is too large or not UTF-8.
            RemoteError: the service could not be asked, or its answer is not sound.
        """
        found = await self._find(path, None)
        if found.revision == known_revision:
            return None
        return ConfigFile(found.revision, await self._content(path, found.content_hash))

    async def fetch(self, known_revision: str | None) -> ConfigBundle | None:
        """The configuration; None when it is still `known_revision`.

        Costs one small call when nothing has changed. Everything is read at the revision that
        templates.cfg was found at.

        Raises:
            NotFoundError: there is no templates.cfg or no managers.cfg.
            UnusableFileError: a file is too large or not UTF-8.
            RemoteError: the service could not be asked, or its answer is not sound.
        """
        templates = await self._find(TEMPLATES, None)
        if templates.revision == known_revision:
            return None
        managers = await self._find(MANAGERS, templates.revision)
        templates_text = await self._content(TEMPLATES, templates.content_hash)
        managers_text = await self._content(MANAGERS, managers.content_hash)
        files: dict[str, str] = {}
        for path in await _named(self._references, templates_text):
            try:
                found = await self._find(path, templates.revision)
            except NotFoundError:
                continue
            files[path] = await self._content(path, found.content_hash)
            check_total(files)
        return ConfigBundle(templates.revision, templates_text, managers_text, files)

    async def _find(self, path: str, revision: str | None) -> _Found:
        """The revision and the content hash of a file, at a revision or at the present one."""
        method = "luci_config.config.get_config"
        config_set, name = quote(self._set, safe=""), quote(path, safe="")
        url = f"/_ah/api/config/v1/config_sets/{config_set}/config/{name}?hash_only=True"
        if revision is not None:
            url += f"&revision={quote(revision, safe='')}"
        answer = await self._api.call(method, "GET", url, repeat=True)
        if answer.status == 404:
            raise NotFoundError(method, f"{self._set} has no {path}", status=404)
        found = decode(method, success(method, answer), _FOUND)
        _check_revision(method, path, found.revision)
        if revision not in {None, found.revision}:
            raise MalformedResponseError(method, f"{path}: the answer is of another revision")
        return found

    async def _content(self, path: str, content_hash: str) -> str:
        method = "luci_config.config.get_config_by_hash"
        url = f"/_ah/api/config/v1/config/{quote(content_hash, safe='')}"
        answer = await self._api.call(method, "GET", url, repeat=True)
        if answer.status == 404:  # the service has just named it: a replica lags, the file exists
            raise TransientError(method, f"{path}: its content is not available yet", status=404)
        found = decode(method, success(method, answer), _CONTENT)
        content = _unbase64(method, path, found.content)
        blob = b"blob %d\0%b" % (len(content), content)
        if content_hash != f"v1:{hashlib.sha1(blob, usedforsecurity=False).hexdigest()}":
            raise MalformedResponseError(method, f"{path}: the content does not match its hash")
        return text_of(path, content)


class LuciConfigV2(_LuciConfig):
    """A config set on a LUCI Config service that speaks v2 (pRPC)."""

    async def fetch_file(self, path: str, known_revision: str | None) -> ConfigFile | None:
        """One file at the present revision; None when that is still `known_revision`.

        Raises:
            NotFoundError: there is no such file.
            UnusableFileError: it is too large or not UTF-8.
            RemoteError: the service could not be asked, or its answer is not sound.
        """
        if known_revision is not None:
            present = await self._get(path, fields="revision")
            if present.revision == known_revision:
                return None
        config = await self._get(path)
        return ConfigFile(config.revision, await self._text(path, config))

    async def fetch(self, known_revision: str | None) -> ConfigBundle | None:
        """The configuration; None when it is still `known_revision`.

        The service takes no revision, so files are read until all are of the same one.

        Raises:
            NotFoundError: there is no templates.cfg or no managers.cfg.
            TransientError: the revision changed during every try.
            UnusableFileError: a file is too large or not UTF-8.
            RemoteError: the service could not be asked, or its answer is not sound.
        """
        if known_revision is not None:
            present = await self._get(TEMPLATES, fields="revision")
            if present.revision == known_revision:
                return None
        for _ in range(MAX_TRIES):
            bundle = await self._read()
            if bundle is not None:
                return bundle
            await asyncio.sleep(PAUSE_SECONDS)
        raise TransientError(_GET_CONFIG, f"{self._set}: the revision keeps changing")

    async def _read(self) -> ConfigBundle | None:
        """Reads all files once; None when they are not of one revision."""
        templates = await self._get(TEMPLATES)
        managers = await self._get(MANAGERS)
        revisions = {templates.revision, managers.revision}
        templates_text = await self._text(TEMPLATES, templates)
        files: dict[str, str] = {}
        for path in await _named(self._references, templates_text):
            try:
                config = await self._get(path)
            except NotFoundError:
                # A 404 does not name its revision: check that the revision is still this one.
                revisions.add((await self._get(TEMPLATES, fields="revision")).revision)
                continue
            revisions.add(config.revision)
            files[path] = await self._text(path, config)
            check_total(files)
        if len(revisions) > 1:
            return None
        managers_text = await self._text(MANAGERS, managers)
        return ConfigBundle(templates.revision, templates_text, managers_text, files)

    async def _get(self, path: str, *, fields: str | None = None) -> _Config:
        body = {"configSet": self._set, "path": path}
        if fields is not None:
            body["fields"] = fields
        url = "/prpc/config.service.v2.Configs/GetConfig"
        answer = await self._api.call(_GET_CONFIG, "POST", url, body=body, repeat=True)
        code = answer.headers.get("X-Prpc-Grpc-Code", "0" if answer.status == 200 else "")
        if answer.status == 404 or code == "5":
            raise NotFoundError(_GET_CONFIG, f"{self._set} has no {path}", status=404)
        raw = success(_GET_CONFIG, answer)
        if code != "0":
            raise MalformedResponseError(_GET_CONFIG, f"{path}: gRPC code {code} in a success")
        config = decode(_GET_CONFIG, raw.removeprefix(b")]}'").lstrip(), _CONFIG)
        _check_revision(_GET_CONFIG, path, config.revision)
        return config

    async def _text(self, path: str, config: _Config) -> str:
        if config.signed_url:
            content = await self._download(path, config.signed_url)
        else:
            content = _unbase64(_GET_CONFIG, path, config.raw_content)
        if hashlib.sha256(content).hexdigest() != config.content_sha256.lower():
            message = f"{path}: the content does not match its hash"
            raise MalformedResponseError(_GET_CONFIG, message)
        return text_of(path, content)

    async def _download(self, path: str, signed_url: str) -> bytes:
        """Reads a large file from storage; the URL itself is the permission: no token is sent."""
        method = "luci_config.signed_url"
        try:
            origin(signed_url.partition("?")[0])
            url = URL(signed_url, encoded=True)
        except (SettingsError, ValueError) as error:
            raise MalformedResponseError(method, f"{path}: the URL cannot be used") from error
        return success(method, await self._api.download(method, url))


LuciSource = LuciConfigV1 | LuciConfigV2
"""A config set on a LUCI Config service."""
ConfigSource = DirectorySource | LuciConfigV1 | LuciConfigV2
"""Where configuration comes from."""


class _Found(msgspec.Struct):
    revision: str
    content_hash: str


class _Content(msgspec.Struct):
    content: str


class _Config(msgspec.Struct, rename="camel"):
    revision: str = ""
    content_sha256: str = ""
    raw_content: str = ""
    signed_url: str = ""


_FOUND = msgspec.json.Decoder(_Found)
_CONTENT = msgspec.json.Decoder(_Content)
_CONFIG = msgspec.json.Decoder(_Config)
_GET_CONFIG = "luci_config.Configs.GetConfig"


def _unbase64(method: str, path: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedResponseError(method, f"{path}: the content is not base64") from error


async def _named(references: References, templates_text: str) -> list[str]:
    return await off_loop(lambda: list(references(templates_text)), len(templates_text))


def _check_revision(method: str, path: str, revision: str) -> None:
    if not 0 < len(revision) <= MAX_REVISION or not revision.isprintable():
        message = f"{path}: a revision of 1 to {MAX_REVISION} printable characters is missing"
        raise MalformedResponseError(method, message)
