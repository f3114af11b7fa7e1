"""The embedded cloud trusts nobody but loopback's own: neither foreign names nor foreign pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.tables import Tables
from support.cloud_harness import FLAVOR, TOKEN_PATH, running
from support.simulation import VirtualClock

FAULTS = "/_localcloud/faults"
FAULT = {"method": "*", "status": 503}


@pytest.mark.parametrize("host", ["evil.example", "169.254.169.254", "localhost.evil.example", ""])
@pytest.mark.parametrize("path", [TOKEN_PATH, "/_localcloud/state"])
async def test_line_19_a_foreign_name_leads_to_nothing(host: str, path: str) -> None:
    """A site that lets its own name mean 127.0.0.1 gets neither tokens nor state."""
    async with running() as run:
        headers = {**FLAVOR, "Host": host}
        async with run.session.get(run.url + path, headers=headers) as response:
            assert response.status in {400, 403}
            assert "access_token" not in await response.text()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
async def test_loopbacks_own_names_are_answered(name: str) -> None:
    """With the port or without."""
    async with running() as run:
        headers = {**FLAVOR, "Host": name}
        async with run.session.get(run.url + TOKEN_PATH, headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("verb", ["POST", "DELETE"])
async def test_line_19_a_simple_cross_origin_request_changes_nothing(
    headers: dict[str, str], verb: str
) -> None:
    """A form needs nobody's leave: neither the control API nor a service obeys it."""
    async with running() as run:
        async with run.session.post(run.url + FAULTS, json=FAULT) as response:
            assert response.status == 200
        plain = {"Content-Type": "text/plain", **headers}
        body = b'{"method": "x", "status": 500}'
        url = run.url + FAULTS
        async with run.session.request(verb, url, data=body, headers=plain) as response:
            assert response.status == 403
        assert [fault.method for fault in run.cloud.faults.injected] == ["*"]
        run.cloud.faults.clear()
        topic = "/v1/projects/p/topics/t"
        run.authorization |= headers
        assert (await run.call("PUT", topic, {}))[0] == 403
        for name in headers:
            del run.authorization[name]
        assert (await run.call("GET", topic))[0] == 404


async def test_its_own_pages_are_no_foreign_ones() -> None:
    """The origin is this very address."""
    async with running() as run:
        headers = {"Origin": run.url, "Sec-Fetch-Site": "same-origin"}
        async with run.session.post(run.url + FAULTS, json=FAULT, headers=headers) as response:
            assert response.status == 200


async def test_where_it_listens_for_others_their_names_are_taken_and_their_pages_are_not() -> None:
    """Whoever starts it with --host 0.0.0.0 wants it reached by other names."""
    cloud = Cloud(Tables(None), VirtualClock(), CloudOptions())
    cloud.add(MetadataService(cloud))
    url = (await cloud.start("0.0.0.0")).replace("0.0.0.0", "127.0.0.1")
    try:
        async with aiohttp.ClientSession() as session:
            headers = {**FLAVOR, "Origin": "https://evil.example"}
            async with session.get(url + TOKEN_PATH, headers=headers) as response:
                assert response.status == 403
    finally:
        await cloud.close()


def test_line_19_listening_for_others_is_warned_of(tmp_path: Path) -> None:
    """On standard error, before anybody can have come."""
    arguments = ["localcloud", "--host", "0.0.0.0", "--port", "0", "--config", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "gce_backend", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "everybody who reaches 0.0.0.0 gets tokens" in line:
                break
        else:
            pytest.fail("it did not warn")
        process.terminate()
