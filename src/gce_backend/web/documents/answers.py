"""JSON answers: documents and refusals."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from aiohttp import web

from gce_backend.base.errors import BackendError
from gce_backend.rules.selector import Selector, parse_selector


class RefusedError(BackendError):
    """A request that is refused.

    Args:
        message: why, and what helps.
        more: further members of the answer.
    """

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.more = more


def chosen_by(text: str, keys: Collection[str]) -> Selector:
    """The selector that a request names.

    Args:
        keys: those that it may use.

    Raises:
        RefusedError: it cannot be understood.
    """
    try:
        return parse_selector(text, keys)
    except ValueError as error:
        raise RefusedError(400, f"selector: {error}") from None


def answer(body: Any, status: int = 200) -> web.Response:
    """A JSON document as an answer."""
    encoded = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return web.Response(status=status, body=encoded, content_type="application/json")
