"""Configuration from a directory and from LUCI Config, always of one revision."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gce_backend.base.errors import (
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    SettingsError,
    TransientError,
    UnusableFileError,
)
from gce_backend.clients.config_files import MAX_FILE_BYTES
from gce_backend.clients.config_source import (
    ConfigBundle,
    DirectorySource,
    LuciConfigV1,
    LuciConfigV2,
)
from gce_backend.fleet.conditions import reason_of
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.luci_config import LuciConfigService
from gce_backend.localcloud.tables import Tables
from support.responses import ScriptedServer, scripted_server
from support.simulation import VirtualClock


class FixedTokens:
    """One token for ever."""

    async def get(self) -> str:
        """The token."""
        return "good"

    def invalidate(self, token: str) -> None:
        """There is no other."""


def names(templates_text: str) -> Iterable[str]:
    """The files that a test's templates.cfg names: every word that begins with @."""
    return [word[1:] for word in templates_text.split() if word.startswith("@")]


def write(directory: Path, **files: str) -> None:
    """Writes `name_cfg="text"` as name.cfg."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)


Source = LuciConfigV1 | LuciConfigV2
KINDS: list[type[Source]] = [LuciConfigV1, LuciConfigV2]


@contextlib.asynccontextmanager
async def served(kind: type[Source], directory: Path) -> AsyncIterator[tuple[Source, Cloud]]:
    """A source on an embedded cloud over a directory."""
    cloud = Cloud(Tables(None), VirtualClock(), CloudOptions(config_dir=directory))
    cloud.authenticate_with(lambda token: token == "good")
    cloud.add(LuciConfigService(cloud))
    url = await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield source_of(kind, session, url), cloud
    finally:
        await cloud.close()


def source_of(kind: type[Source], session: aiohttp.ClientSession, url: str) -> Source:
    """A source of the config set services/gce-backend."""
    return kind(
        session=session,
        tokens=FixedTokens(),
        hostname_url=url,
        config_set="services/gce-backend",
        references=names,
    )


@pytest.mark.parametrize("kind", [None, *KINDS])
async def test_every_source_gives_both_files_and_those_that_templates_name(
    kind: type[Source] | None, tmp_path: Path
) -> None:
    """One bundle; unchanged is None; a change gives another revision."""
    write(tmp_path, templates_cfg="t1 @start.sh @missing.sh @../secret", managers_cfg="m1")
    write(tmp_path, start_sh="echo ü")
    async with contextlib.AsyncExitStack() as stack:
        source: Source | DirectorySource = DirectorySource(tmp_path, names)
        if kind is not None:
            source, _ = await stack.enter_async_context(served(kind, tmp_path))
        first = await source.fetch(None)
        assert first is not None
        assert first.templates_text.startswith("t1")
        assert first.managers_text == "m1"
        assert first.files == {"start.sh": "echo ü"}
        assert len(first.revision) == 40
        assert await source.fetch(first.revision) is None
        write(tmp_path, start_sh="echo other")
        second = await source.fetch(first.revision)
        assert second is not None
        assert second.revision != first.revision
        assert second.files == {"start.sh": "echo other"}


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("missing", ["templates.cfg", "managers.cfg"])
async def test_missing_file_is_not_found_and_never_empty(
    kind: type[Source] | None, missing: str, tmp_path: Path
) -> None:
    """A file that is not there is an error that names it, in words that fit files or services."""
    write(tmp_path, templates_cfg="t", managers_cfg="m")
    (tmp_path / missing).unlink()
    async with contextlib.AsyncExitStack() as stack:
        source: Source | DirectorySource = DirectorySource(tmp_path, names)
        if kind is not None:
            source, _ = await stack.enter_async_context(served(kind, tmp_path))
        fitting = UnusableFileError if kind is None else NotFoundError
        with pytest.raises(fitting, match=missing):
            await source.fetch(None)


async def test_file_outside_of_the_directory_is_refused(tmp_path: Path) -> None:
    """Neither by `..`, nor by an absolute path, nor through a symbolic link."""
    (tmp_path / "secret").write_text("s")
    directory = tmp_path / "config"
    named = f"@../secret @{tmp_path}/secret @link"
    write(directory, templates_cfg=named, managers_cfg="m")
    (directory / "link").symlink_to(tmp_path / "secret")
    bundle = await DirectorySource(directory, names).fetch(None)
    assert bundle is not None
    assert bundle.files == {}


async def test_directory_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Two readings must agree; one that never stands still is given up."""
    write(tmp_path, templates_cfg="t0", managers_cfg="m0")
    changes = 0

    def changing(limit: int) -> Callable[[str], Iterable[str]]:
        def references(_: str) -> Iterable[str]:
            nonlocal changes
            if changes < limit:
                changes += 1
                write(tmp_path, templates_cfg=f"t{changes}", managers_cfg=f"m{changes}")
            return []

        return references

    bundle = await DirectorySource(tmp_path, changing(3)).fetch(None)
    assert bundle is not None
    assert (bundle.templates_text, bundle.managers_text) == ("t3", "m3")
    with pytest.raises(UnusableFileError, match="keeps changing"):
        await DirectorySource(tmp_path, changing(1000)).fetch(None)


@pytest.mark.parametrize("kind", [None, *KINDS])
async def test_file_that_is_too_large_or_not_text_is_told_as_a_file(
    kind: type[Source] | None, tmp_path: Path
) -> None:
    """1 MiB and UTF-8, from everywhere: the words are about the file, not about an answer."""
    async with contextlib.AsyncExitStack() as stack:
        source: Source | DirectorySource = DirectorySource(tmp_path, names)
        if kind is not None:
            source, _ = await stack.enter_async_context(served(kind, tmp_path))
        write(tmp_path, templates_cfg="x" * MAX_FILE_BYTES, managers_cfg="m")
        assert await source.fetch(None) is not None
        write(tmp_path, templates_cfg="x" * (MAX_FILE_BYTES + 1))
        with pytest.raises(UnusableFileError) as caught:
            await source.fetch(None)
        assert str(caught.value) == "templates.cfg is too large: use at most 1048576 bytes"
        assert reason_of(caught.value) == "UnusableFile"
        (tmp_path / "templates.cfg").write_bytes(b"\xff")
        with pytest.raises(UnusableFileError, match=r"templates\.cfg is not UTF-8"):
            await source.fetch(None)


async def test_file_that_cannot_be_read_is_told_with_the_systems_words(tmp_path: Path) -> None:
    """A link that leads to itself stands for all that the file system refuses."""
    write(tmp_path, managers_cfg="m")
    (tmp_path / "templates.cfg").symlink_to("templates.cfg")
    with pytest.raises(UnusableFileError, match=r"templates\.cfg (is missing|cannot be read)"):
        await DirectorySource(tmp_path, names).fetch(None)


async def test_v1_costs_one_call_when_unchanged(tmp_path: Path) -> None:
    """The hash alone is asked for."""
    write(tmp_path, templates_cfg="t", managers_cfg="m")
    async with served(LuciConfigV1, tmp_path) as (source, cloud):
        bundle = await source.fetch(None)
        assert bundle is not None
        cloud.calls.clear()
        assert await source.fetch(bundle.revision) is None
        assert dict(cloud.calls) == {"luci_config.config.get_config": 1}


async def test_v1_reads_managers_at_the_revision_of_templates(tmp_path: Path) -> None:
    """A change between the two reads is not seen."""
    write(tmp_path, templates_cfg="t1", managers_cfg="m1")
    async with served(LuciConfigV1, tmp_path) as (source, cloud):
        first = True

        class Changing(dict[str, int]):
            """Changes the directory after the first call was counted and served."""

            def __setitem__(self, key: str, value: int) -> None:
                nonlocal first
                if not first:
                    write(tmp_path, templates_cfg="t2", managers_cfg="m2")
                first = False
                super().__setitem__(key, value)

            def __missing__(self, key: str) -> int:
                return 0

        cloud.calls = Changing()  # type: ignore[assignment]  # a counter with a hook
        bundle = await source.fetch(None)
        assert bundle is not None
        assert (bundle.templates_text, bundle.managers_text) == ("t1", "m1")
        again = await source.fetch(bundle.revision)
        assert again is not None
        assert (again.templates_text, again.managers_text) == ("t2", "m2")


@pytest.mark.parametrize("kind", KINDS)
async def test_bursts_of_503_and_spoiled_bodies_are_survived(
    kind: type[Source], tmp_path: Path
) -> None:
    """Transient faults are repeated; a page or half a body is never a configuration."""
    write(tmp_path, templates_cfg="t", managers_cfg="m")
    async with served(kind, tmp_path) as (source, cloud):
        fault = Fault(method="luci_config.*", times=2)
        cloud.faults.add(fault)
        bundle = await source.fetch(None)
        assert bundle is not None
        assert fault.fired == 2
        for spoiled in ("html", "truncate"):
            cloud.faults.clear()
            cloud.faults.add(Fault(method="luci_config.*", kind=spoiled, times=None))
            with pytest.raises(MalformedResponseError):
                await source.fetch(bundle.revision)
        cloud.faults.clear()
        cloud.faults.add(Fault(method="luci_config.*", status=403, reason="forbidden"))
        with pytest.raises(PermissionDeniedError):
            await source.fetch(None)


@contextlib.asynccontextmanager
async def scripted(
    kind: type[Source], answer: Callable[[web.Request], Any]
) -> AsyncIterator[tuple[Source, ScriptedServer]]:
    """A source on a server that answers as the test says."""
    async with scripted_server(answer) as server, aiohttp.ClientSession() as session:
        yield source_of(kind, session, server.root), server


async def test_v1_content_that_does_not_match_its_hash_is_refused() -> None:
    """The hash is of the content, or the content is not used."""

    def answer(request: web.Request) -> web.Response:
        if "hash_only" in request.query:
            return web.json_response({"revision": "r", "content_hash": "v1:" + "0" * 40})
        return web.json_response({"content": base64.b64encode(b"t").decode()})

    async with scripted(LuciConfigV1, answer) as (source, server):
        with pytest.raises(MalformedResponseError, match="hash"):
            await source.fetch(None)
        raw = server.requests[0].raw_path
        sets = "/_ah/api/config/v1/config_sets/services%2Fgce-backend/config/templates.cfg"
        assert raw == f"{sets}?hash_only=True"
        assert server.requests[1].query["revision"] == "r"


async def test_v1_server_that_ignores_the_revision_is_refused() -> None:
    """Mixed revisions are not accepted from a server that does not keep to what is asked."""

    def answer(request: web.Request) -> web.Response:
        revision = "a" if "templates" in request.path else "b"
        return web.json_response({"revision": revision, "content_hash": "v1:0"})

    async with scripted(LuciConfigV1, answer) as (source, _):
        with pytest.raises(MalformedResponseError, match="revision"):
            await source.fetch(None)


def config_answer(text: str, revision: str, **more: Any) -> web.Response:
    """A v2 answer."""
    data = text.encode()
    body = {
        "rawContent": base64.b64encode(data).decode(),
        "contentSha256": hashlib.sha256(data).hexdigest(),
        "revision": revision,
        **more,
    }
    prefixed = b")]}'\n" + json.dumps(body).encode()
    headers = {"X-Prpc-Grpc-Code": "0"}
    return web.Response(body=prefixed, content_type="application/json", headers=headers)


@pytest.mark.parametrize(("mixed", "succeeds"), [(3, True), (1000, False)])
async def test_v2_accepts_files_of_one_revision_only(mixed: int, succeeds: bool) -> None:
    """Unequal revisions are read again, five times at most."""
    calls = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        path = (await request.json())["path"]
        return config_answer(path, f"r{calls}" if calls <= mixed else "same")

    async with scripted(LuciConfigV2, answer) as (source, _):
        if succeeds:
            bundle = await source.fetch(None)
            assert bundle == ConfigBundle("same", "templates.cfg", "managers.cfg", {})
        else:
            with pytest.raises(TransientError, match="keeps changing"):
                await source.fetch(None)
            assert calls == 10


async def test_v2_large_file_is_read_from_its_signed_url_without_a_token() -> None:
    """The bearer token goes to the service only; the content is still verified."""
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/storage"):
            seen.append(request.headers.get("Authorization"))
            assert request.query["sig"] == "a+b/="
            return web.Response(text="templates.cfg" if request.path.endswith("ok") else "evil")
        path = (await request.json())["path"]
        if path != "templates.cfg":
            return config_answer(path, "r")
        url = f"http://{request.host}/storage/{place}?sig=a%2Bb%2F%3D"
        return config_answer(path, "r", rawContent="", signedUrl=url)

    place = "ok"
    async with scripted(LuciConfigV2, answer) as (source, _):
        bundle = await source.fetch(None)
        assert bundle is not None
        assert bundle.templates_text == "templates.cfg"
        place = "evil"
        with pytest.raises(MalformedResponseError, match="hash"):
            await source.fetch(None)
        assert seen == [None, None]


async def test_v2_grpc_error_in_a_success_is_an_error() -> None:
    """A gRPC code that is not 0 is believed before the HTTP status."""
    answer = lambda _: web.Response(text="", headers={"X-Prpc-Grpc-Code": "5"})  # noqa: E731
    async with scripted(LuciConfigV2, answer) as (source, _):
        with pytest.raises(NotFoundError):
            await source.fetch(None)


@pytest.mark.parametrize("kind", KINDS)
async def test_host_name_alone_means_https_and_nonsense_is_refused(kind: type[Source]) -> None:
    """The stored service_hostname is a host name; a URL with credentials is not one."""
    async with aiohttp.ClientSession() as session:
        source_of(kind, session, "luci-config.example.com")
        with pytest.raises(SettingsError):
            source_of(kind, session, "https://user:pw@luci-config.example.com")


async def test_an_unchanged_directory_is_read_once(tmp_path: Path) -> None:
    """Twice only when something is new: it may still be being written."""
    write(tmp_path, templates_cfg="a", managers_cfg="b")
    reads = []

    def counted(text: str) -> Iterable[str]:
        reads.append(text)
        return names(text)

    source = DirectorySource(tmp_path, counted)
    bundle = await source.fetch(None)
    assert bundle is not None
    assert len(reads) == 2
    assert await source.fetch(bundle.revision) is None
    assert len(reads) == 3
