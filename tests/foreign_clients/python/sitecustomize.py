"""Leads what asks for Google's hosts to the embedded cloud, in tools that take no other host.

Python runs this before the tool. Nothing else of the tool is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import Any

_HOST = re.compile(
    r"https://(?:compute|datastore|pubsub|www|cloudresourcemanager)\.googleapis\.com(?=/)"
)


def _led(url: str) -> str:
    return _HOST.sub(os.environ.get("CLOUD", ""), url)


with contextlib.suppress(ImportError):
    import requests

    _send: Callable[..., Any] = requests.Session.request

    def _request(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
        return _send(self, method, _led(url), *rest, **more)

    requests.Session.request = _request  # type: ignore[method-assign]  # that is the point

with contextlib.suppress(ImportError):
    import httplib2

    _ask: Callable[..., Any] = httplib2.Http.request

    def _asked(self: Any, uri: str, *rest: Any, **more: Any) -> Any:
        return _ask(self, _led(uri), *rest, **more)

    httplib2.Http.request = _asked
