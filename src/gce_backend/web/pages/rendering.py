"""Renders templates to HTML: a Jinja environment that refuses missing values and escapes all."""

from __future__ import annotations

import gzip
from functools import cache
from typing import Any

import jinja2
from aiohttp import web

from gce_backend.web.packing import accepts_gzip
from gce_backend.web.pages import words
from gce_backend.web.pages.assets import Assets

WORTH_PACKING = 2000
"""Bytes of the smallest page that is compressed."""


@cache
def renderer() -> Renderer:
    """The one of this process: every template is compiled once."""
    return Renderer(Assets())


class Renderer:
    """Renders pages.

    Attributes:
        assets: where style sheet and script are.
    """

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("gce_backend.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals |= {
            "asset": assets.address,
            "since": words.since,
            "when": words.when,
            "lasting": words.lasting,
        }
        self._environment.filters |= {
            "duration": words.duration,
            "instant": words.instant,
            "machine_time": words.machine_time,
            "number": words.number,
            "counted": words.counted,
            "prose": words.prose,
            "short": words.short,
            "label": words.label,
            "tone": words.tone,
        }

    def page(
        self, request: web.Request, name: str, values: dict[str, Any], status: int = 200
    ) -> web.Response:
        """A page, compressed when that pays.

        Args:
            name: the template's file.
            values: what the template shows.
        """
        body = self._environment.get_template(name).render(values).encode()
        headers = {"Vary": "Accept-Encoding"}
        if len(body) > WORTH_PACKING and accepts_gzip(request):
            body = gzip.compress(body, compresslevel=4, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return web.Response(
            status=status, body=body, headers=headers, content_type="text/html", charset="utf-8"
        )
