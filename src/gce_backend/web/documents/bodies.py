"""Request bodies: read within bounds, and refused with a reason when they are malformed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from gce_backend.web.documents.answers import RefusedError

MAX_BYTES = 16 * 1024
MAX_FIELDS = 20
READ_SECONDS = 10.0
FORM = "application/x-www-form-urlencoded"


async def read(request: web.Request) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: it is too long, arrives too slowly, or is compressed wrongly.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise RefusedError(413, f"the body has more than {MAX_BYTES} bytes")
    except TimeoutError:
        raise RefusedError(408, f"the body took longer than {READ_SECONDS:.0f} s") from None
    except web.RequestPayloadError:
        raise RefusedError(400, "the body cannot be understood: it is packed wrongly") from None
    return bytes(body)


async def read_form(request: web.Request) -> Mapping[str, str]:
    """The fields of a form that a page sends; of fields with the same name, the last.

    Raises:
        RefusedError: it is not a form, or is too long.
    """
    if request.content_type != FORM:
        raise RefusedError(415, f"a form has to come as {FORM}")
    try:
        text = (await read(request)).decode()
        return dict(parse_qsl(text, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise RefusedError(400, f"the form cannot be understood: {error}") from None
