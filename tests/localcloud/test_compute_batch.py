"""Batches, byte for byte where they are malformed."""

from __future__ import annotations

import aiohttp
import pytest

from localcloud.compute_world import PROJECT, world
from support.watch import BY_HAND

KIND = "multipart/mixed; boundary=b"
ZONE_CALL = f"GET /compute/v1/projects/{PROJECT}/zones/us-central1-a HTTP/1.1\r\n\r\n"


def part(content: str, kind: str = "application/http", more: str = "") -> str:
    """One part of a batch."""
    return f"--b\r\nContent-Type: {kind}\r\n{more}\r\n{content}\r\n"


async def sent(url: str, raw: str, kind: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and text of the answer to a batch."""
    headers = {"Content-Type": kind, **BY_HAND, **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/batch/compute/v1", data=raw.encode(), headers=headers) as response,
    ):
        return response.status, response.headers["Content-Type"], await response.text()


async def test_a_batchs_token_is_that_of_calls_without_one() -> None:
    """Content ids come back; an unserved call and one without any token are answered alone."""
    token = {"Authorization": "Bearer t"}
    unserved = f"GET /compute/v1/projects/{PROJECT}/zones/z/nodeGroups HTTP/1.1\r\n\r\n"
    batch = part(ZONE_CALL, more="Content-ID: <one+1>\r\n") + part(unserved) + "--b--"
    async with world() as at:
        url = at.cloud.base_url
        status, kind, text = await sent(url, batch, KIND, **token)
        assert (status, kind.partition(";")[0]) == (200, "multipart/mixed")
        assert "Content-ID: <response-one+1>" in text
        assert text.count("HTTP/1.1 200 OK") == 1
        assert text.count("HTTP/1.1 501 ") == 1
        _, _, text = await sent(url, batch, KIND)
        assert text.count("HTTP/1.1 401 ") == 1


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (part(ZONE_CALL), "text/plain"),
        (part(ZONE_CALL), "multipart/mixed"),
        ("", KIND),
        ("--b--", KIND),
        (part(ZONE_CALL, "text/plain") + "--b--", KIND),
        (part("") + "--b--", KIND),
        (part("GET") + "--b--", KIND),
        (part("GET /batch/compute/v1 HTTP/1.1\r\n\r\n") + "--b--", KIND),
        (part("GET //[ HTTP/1.1\r\n\r\n") + "--b--", KIND),
        (part("GET http://127.0.0.1/_localcloud/state HTTP/1.1\r\n\r\n") + "--b--", KIND),
        (part("GET //127.0.0.1/compute/v1/projects HTTP/1.1\r\n\r\n") + "--b--", KIND),
        (part("GET /compute/v1/../../_localcloud/state HTTP/1.1\r\n\r\n") + "--b--", KIND),
        (part(ZONE_CALL) * 1001 + "--b--", KIND),
    ],
)
async def test_what_is_no_batch_is_refused_as_a_whole(raw: str, kind: str) -> None:
    """With 400, and nothing of it is done."""
    async with world() as at:
        status, _, text = await sent(at.cloud.base_url, raw, kind, Authorization="Bearer t")
        assert status == 400, text
        assert at.cloud.calls.keys() == {"compute.batch"}
