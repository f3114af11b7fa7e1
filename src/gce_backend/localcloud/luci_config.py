"""LUCI Config, v1 and v2, over a directory.

A revision is a hash over all files of the directory. Contents are kept by revision, so that v1 can
still read an earlier revision after the directory has changed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from gce_backend.localcloud.cloud import Call, Cloud, Route, Service
from gce_backend.localcloud.statuses import ServiceError

_V1 = "/_ah/api/config/v1"
_NOT_FOUND = "The requested config is not found"
_PRPC_PREFIX = b")]}'\n"
_FIELDS = frozenset(
    {"configSet", "path", "content", "rawContent", "contentSha256", "size", "revision"}
)


class _ServedContent(msgspec.Struct, frozen=True):
    data: bytes


class _Revision(msgspec.Struct, frozen=True):
    files: dict[str, str]
    """Content hash by path."""


class _Signature(NamedTuple):
    """Metadata of a file that show whether it has changed, without reading it."""

    path: str
    size: int
    modified: int
    inode: int


class LuciConfigService(Service):
    """LUCI Config.

    Args:
        cloud: the cloud that it is part of; it serves `options.config_dir`.
    """

    name = "luci_config"

    def __init__(self, cloud: Cloud) -> None:
        self._root = cloud.options.config_dir
        self._config_set = cloud.options.config_set
        self._contents = cloud.tables.table("luci_config.contents", _ServedContent)
        self._revisions = cloud.tables.table("luci_config.revisions", _Revision)
        self._seen: list[_Signature] | None = None
        self._present = ""

    def routes(self) -> Iterable[Route]:
        """Two methods of v1, one of v2."""
        get = "luci_config.config.get_config"
        path = _V1 + "/config_sets/{config_set}/config/{path}"
        yield Route(get, "GET", path, self._get_config)
        path = _V1 + "/config/{content_hash}"
        yield Route(f"{get}_by_hash", "GET", path, self._get_config_by_hash)
        path = "/prpc/config.service.v2.Configs/GetConfig"
        yield Route("luci_config.Configs.GetConfig", "POST", path, self._get_config_v2)

    def state(self) -> dict[str, Any]:
        """The present revision and its files."""
        revision = self._look()
        return {"revision": revision, "files": sorted(self._revisions[revision].files)}

    async def _get_config(self, call: Call) -> dict[str, str]:
        revision = call.query.get("revision") or self._look()
        known = self._revisions.get(revision)
        content_hash = known.files.get(call.path["path"]) if known else None
        if content_hash is None or call.path["config_set"] != self._config_set:
            raise ServiceError(404, "notFound", _NOT_FOUND)
        answer = {"revision": revision, "content_hash": content_hash}
        if call.query.get("hash_only", "").lower() not in {"true", "1"}:
            answer["content"] = self._base64(content_hash)
        return answer

    async def _get_config_by_hash(self, call: Call) -> dict[str, str]:
        content_hash = call.path["content_hash"]
        if content_hash not in self._contents:
            raise ServiceError(404, "notFound", _NOT_FOUND)
        return {"content": self._base64(content_hash)}

    async def _get_config_v2(self, call: Call) -> web.Response:
        accept = call.request.headers.get("Accept", "*/*")
        if "application/json" not in accept and "*/*" not in accept:
            return _prpc_error(406, 3, "this server speaks application/json only")
        config_set, path = call.body.get("configSet"), call.body.get("path")
        if not (config_set and isinstance(config_set, str) and path and isinstance(path, str)):
            return _prpc_error(400, 3, "configSet and path are required")
        mask = str(call.body.get("fields", ""))
        wanted = set(mask.split(",")) if mask else _FIELDS
        if not wanted <= _FIELDS:
            return _prpc_error(400, 3, f"invalid fields mask: {mask}")
        revision = self._look()
        content_hash = self._revisions[revision].files.get(path)
        if content_hash is None or config_set != self._config_set:
            return _prpc_error(404, 5, _NOT_FOUND)
        data = self._contents[content_hash].data
        config = {
            "configSet": config_set,
            "path": path,
            "rawContent": base64.b64encode(data).decode(),
            "contentSha256": hashlib.sha256(data).hexdigest(),
            "size": str(len(data)),
            "revision": revision,
        }
        if "content" in wanted:
            wanted = wanted | {"rawContent"}
        chosen = {name: value for name, value in config.items() if name in wanted and value}
        return web.Response(
            body=_PRPC_PREFIX + msgspec.json.encode(chosen),
            content_type="application/json",
            headers={"X-Prpc-Grpc-Code": "0", "X-Content-Type-Options": "nosniff"},
        )

    def _base64(self, content_hash: str) -> str:
        return base64.b64encode(self._contents[content_hash].data).decode()

    def _look(self) -> str:
        """The revision of the directory's present content, which is kept."""
        root = self._root
        if root is None:
            return self._remember({})
        try:
            signatures = sorted(_signatures(root))
            if signatures != self._seen:
                contents = {s.path: (root / s.path).read_bytes() for s in signatures}
                self._present = self._remember(contents)
                self._seen = signatures
        except OSError as error:  # an editor has just replaced a file
            raise ServiceError(503, "backendError", f"cannot read: {error}") from error
        return self._present

    def _remember(self, contents: dict[str, bytes]) -> str:
        files: dict[str, str] = {}
        for path, data in contents.items():
            blob = b"blob %d\0%b" % (len(data), data)
            content_hash = f"v1:{hashlib.sha1(blob, usedforsecurity=False).hexdigest()}"
            if content_hash not in self._contents:
                self._contents[content_hash] = _ServedContent(data)
            files[path] = content_hash
        lines = "".join(f"{content_hash} {path}\n" for path, content_hash in files.items())
        revision = hashlib.sha1(lines.encode(), usedforsecurity=False).hexdigest()
        if revision not in self._revisions:
            self._revisions[revision] = _Revision(files)
        return revision


def _signatures(root: Path) -> Iterable[_Signature]:
    folders = [(str(root), "")] if root.is_dir() else []
    for folder, prefix in folders:  # which grows meanwhile
        with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, name + "/"))
                    continue
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    yield _Signature(name, status.st_size, status.st_mtime_ns, status.st_ino)


def _prpc_error(status: int, code: int, message: str) -> web.Response:
    return web.Response(status=status, text=message, headers={"X-Prpc-Grpc-Code": str(code)})
