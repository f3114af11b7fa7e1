"""The style sheet, the script and the icon. The address of a file changes with its content."""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files
from typing import NamedTuple

from aiohttp import web

from gce_backend.web.packing import accepts_gzip

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVER = "public, max-age=31536000, immutable"


class _Asset(NamedTuple):
    content_type: str
    tag: str
    body: bytes
    packed: bytes


class Assets:
    """All files of `web/static`, read once."""

    def __init__(self) -> None:
        self._found: dict[str, _Asset] = {}
        for file in files("gce_backend.web").joinpath("static").iterdir():
            kind = _TYPES.get(file.name[file.name.rfind(".") :])
            if kind is not None:
                body = file.read_bytes()
                tag = hashlib.sha256(body).hexdigest()[:16]
                self._found[file.name] = _Asset(kind, tag, body, gzip.compress(body, mtime=0))

    def address(self, name: str) -> str:
        """The address of this version of a file."""
        return f"/static/{name}?v={self._found[name].tag}"

    async def get(self, request: web.Request) -> web.Response:
        """`GET /static/NAME`."""
        asset = self._found.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        headers = {"ETag": f'"{asset.tag}"', "Vary": "Accept-Encoding"}
        # Only the address of this version always leads to it, so only that may be cached.
        current = request.query.get("v") == asset.tag
        headers["Cache-Control"] = FOR_EVER if current else "no-cache"
        if any(given.value == asset.tag for given in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        packed = accepts_gzip(request)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(
            body=asset.packed if packed else asset.body,
            headers=headers,
            content_type=asset.content_type,
            charset="utf-8",
        )
