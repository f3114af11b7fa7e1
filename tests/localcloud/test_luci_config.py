"""LUCI Config over a directory, as its clients see it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.luci_config import LuciConfigService
from gce_backend.localcloud.tables import Tables
from support.simulation import VirtualClock

SETS = "/_ah/api/config/v1/config_sets/services%2Fgce-backend/config"


class Client:
    """Sends raw requests."""

    def __init__(self, cloud: Cloud, session: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self._session = session

    async def get(self, path: str, token: str = "good") -> tuple[int, Any]:  # noqa: S107 - no secret
        """A v1 call of a percent-encoded path."""
        url = URL(self.cloud.base_url + path, encoded=True)
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.get(url, headers=headers) as response:
            return response.status, await response.json()

    async def prpc(self, body: Any, accept: str = "application/json") -> tuple[int, str, str]:
        """A v2 call: status, gRPC code, text."""
        url = f"{self.cloud.base_url}/prpc/config.service.v2.Configs/GetConfig"
        headers = {"Authorization": "Bearer good", "Accept": accept}
        async with self._session.post(url, json=body, headers=headers) as response:
            return response.status, response.headers["X-Prpc-Grpc-Code"], await response.text()


@contextlib.asynccontextmanager
async def serving(directory: Path | None, state: Path | None = None) -> AsyncIterator[Client]:
    """A cloud with LUCI Config alone."""
    options = CloudOptions(config_dir=directory)
    cloud = Cloud(Tables(state), VirtualClock(), options)
    cloud.authenticate_with(lambda token: token == "good")
    cloud.add(LuciConfigService(cloud))
    await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(cloud, session)
    finally:
        await cloud.close()


def write(directory: Path, name: str, text: str) -> None:
    """Puts a file into the directory."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content_hash(text: str) -> str:
    """The v1 hash of a content."""
    data = text.encode()
    return "v1:" + hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()  # noqa: S324


async def test_v1_gives_hash_then_content(tmp_path: Path) -> None:
    """hash_only leaves the content out; the content is found by its hash."""
    write(tmp_path, "templates.cfg", "one")
    async with serving(tmp_path) as client:
        status, found = await client.get(f"{SETS}/templates.cfg?hash_only=True")
        assert status == 200
        assert set(found) == {"revision", "content_hash"}
        assert found["content_hash"] == content_hash("one")
        assert len(found["revision"]) == 40
        path = "/_ah/api/config/v1/config/" + found["content_hash"].replace(":", "%3A")
        _, content = await client.get(path)
        assert base64.b64decode(content["content"]) == b"one"
        _, whole = await client.get(f"{SETS}/templates.cfg")
        assert whole == {**found, **content}


async def test_v1_file_in_a_subdirectory_is_named_with_an_encoded_slash(tmp_path: Path) -> None:
    """Slashes of the path are percent-encoded."""
    write(tmp_path, "scripts/start.sh", "echo")
    async with serving(tmp_path) as client:
        status, found = await client.get(f"{SETS}/scripts%2Fstart.sh?hash_only=True")
        assert (status, found["content_hash"]) == (200, content_hash("echo"))


async def test_v1_missing_file_and_revision_and_hash_are_404(tmp_path: Path) -> None:
    """404 with the error envelope; also for a path out of the directory; 401 without a token."""
    write(tmp_path, "config/templates.cfg", "one")
    write(tmp_path, "secret", "two")
    async with serving(tmp_path / "config") as client:
        for path in (
            f"{SETS}/managers.cfg?hash_only=True",
            f"{SETS}/..%2Fsecret",
            f"{SETS}/templates.cfg?revision={'0' * 40}",
            f"/_ah/api/config/v1/config/{content_hash('two')}",
        ):
            status, answer = await client.get(path)
            assert status == 404, path
            assert answer["error"]["message"] == "The requested config is not found"
        assert (await client.get(f"{SETS}/templates.cfg", token="bad"))[0] == 401
    async with serving(None) as client:
        assert (await client.get(f"{SETS}/templates.cfg"))[0] == 404


async def test_earlier_revision_can_be_read_after_a_change_and_a_restart(tmp_path: Path) -> None:
    """Both files of one revision are there although the directory has moved on."""
    directory, state = tmp_path / "config", tmp_path / "state"
    write(directory, "templates.cfg", "t1")
    write(directory, "managers.cfg", "m1")
    async with serving(directory, state) as client:
        _, first = await client.get(f"{SETS}/templates.cfg")
        write(directory, "managers.cfg", "m2 is longer")
        _, second = await client.get(f"{SETS}/managers.cfg")
        assert second["revision"] != first["revision"]
        assert second["content_hash"] == content_hash("m2 is longer")
    async with serving(directory, state) as client:
        _, old = await client.get(f"{SETS}/managers.cfg?revision={first['revision']}")
        assert base64.b64decode(old["content"]) == b"m1"
        _, again = await client.get(f"{SETS}/managers.cfg?hash_only=true")
        assert again["revision"] == second["revision"]


async def test_v2_answers_with_prefix_code_and_content(tmp_path: Path) -> None:
    """The pRPC wire: prefix, X-Prpc-Grpc-Code, base64 and SHA-256; the mask is obeyed."""
    write(tmp_path, "templates.cfg", "one")
    async with serving(tmp_path) as client:
        asked = {"configSet": "services/gce-backend", "path": "templates.cfg"}
        status, code, text = await client.prpc(asked)
        assert (status, code) == (200, "0")
        assert text.startswith(")]}'\n")
        config = json.loads(text[4:])
        assert base64.b64decode(config["rawContent"]) == b"one"
        assert config["contentSha256"] == hashlib.sha256(b"one").hexdigest()
        _, _, text = await client.prpc({**asked, "fields": "revision,contentSha256"})
        assert set(json.loads(text[4:])) == {"revision", "contentSha256"}
        _, _, text = await client.prpc({**asked, "fields": "content"})
        assert set(json.loads(text[4:])) == {"rawContent"}


async def test_v2_errors(tmp_path: Path) -> None:
    """Not found is code 5, a bad request code 3, in plain text."""
    async with serving(tmp_path) as client:
        asked = {"configSet": "services/gce-backend", "path": "templates.cfg"}
        assert (await client.prpc(asked))[:2] == (404, "5")
        assert (await client.prpc({"path": "templates.cfg"}))[:2] == (400, "3")
        assert (await client.prpc({**asked, "fields": "colour"}))[:2] == (400, "3")
        assert (await client.prpc(asked, accept="text/html"))[:2] == (406, "3")
