"""docs/deploy.md's restore, carried out as it is written, while machines are leased.

Of its commands, gce-backend's are run; gcloud's, which has no project here, do to the embedded
cloud what they do to a real one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gce_backend.cli import main
from gce_backend.cli.plan import CHANGES
from gce_backend.fleet.store import KINDS
from gce_backend.model.entities import StoreSchema
from gce_backend.settings.settings import HttpSettings
from support.deletions import entity, mutations, release_all, settings, two_templates
from support.documents import DOCS, text_of
from support.fleet_harness import PROJECT, World, template, world

PAGE = DOCS / "deploy.md"
HEADING = "## Backup and restore\n"
OBSERVING = "observe for ten minutes"
TWO_TEMPLATES = template() + template("other")
HTTP = HttpSettings()
HELD = 6
BATCH = 500
"""Mutations of one commit, at most."""


def _steps() -> list[str]:
    """The numbered steps of the section."""
    section = text_of(PAGE).partition(HEADING)[2].partition("\n## ")[0]
    return re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]


def _commands(step: str) -> list[str]:
    """The command lines of a step."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", step, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines]


class Operator:
    """Somebody who types what the page says.

    Attributes:
        variables: what a shell would know.
        snapshots: the stored entities at the times that can be exported.
    """

    def __init__(self, w: World) -> None:
        self._world = w
        self.variables = {"PROJECT": PROJECT, "ZONE": "us-central1-b"}
        self.snapshots: dict[str, list[dict[str, Any]]] = {}
        self._exported: dict[str, list[dict[str, Any]]] = {}
        self._buckets: set[str] = set()
        self._tunnel: dict[str, str] = {}
        self.written: list[str] = []

    async def type(self, line: str) -> None:
        """Runs a command line."""
        words = shlex.split(self._expanded(line))
        match words:
            case ["export", *assignments]:
                self.variables |= dict(word.split("=", 1) for word in assignments)
            case ["gce-backend", *arguments]:
                await self._run(arguments)
            case ["gcloud", "compute", "ssh", "gce-backend", *_, "--command", command]:
                await self._on_the_vm(command)
            case ["gcloud", "compute", "ssh", "gce-backend", *_, "--", "-N", "-L", ends]:
                assert ends == f"{HTTP.port}:{HTTP.host}:{HTTP.port}", "where `status` looks"
                self._tunnel = {"GCE_BACKEND_URL": self._world.daemon.url}
            case ["gcloud", "storage", "buckets", "create", bucket, "--location", _]:
                self._buckets.add(bucket)
            case ["gcloud", "firestore", "export", uri, "--snapshot-time", time, *options]:
                (flag, kinds) = options
                assert flag == "--collection-ids"
                assert uri.rpartition("/")[0] in self._buckets
                self._exported[uri] = _of_kinds(self.snapshots[time], kinds.split(","))
            case ["gcloud", "firestore", "import", uri]:
                await self._write([{"upsert": entity} for entity in self._exported[uri]])
            case _:
                pytest.fail(f"nobody knows what to do here with {line!r}")

    def _expanded(self, line: str) -> str:
        """A line with its variables replaced; one that is not set is a mistake of the page."""
        variables = self.variables | dict(re.findall(r"(\w+)=(\S+)", line))
        return re.sub(r"\$(\w+)", lambda found: variables[found[1]], line)

    async def _run(self, arguments: Sequence[str]) -> None:
        endpoints = msgspec.structs.asdict(self._world.settings.endpoints)
        environment = {
            **{name: None for name in os.environ if name.startswith("GCE_BACKEND_")},
            **{f"GCE_BACKEND_ENDPOINTS__{name.upper()}": url for name, url in endpoints.items()},
            **self._tunnel,
            "GCE_BACKEND_PROJECT": PROJECT,
            "GCE_BACKEND_CONFIG__SOURCE": "directory",
            "GCE_BACKEND_CONFIG__DIRECTORY": str(self._world.config_dir),
        }
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
        assert done.exit_code in ({0, CHANGES} if "plan" in arguments else {0}), done.output
        self.written.append(done.output)

    async def _on_the_vm(self, command: str) -> None:
        match command.split():
            case ["sudo", "systemctl", "stop", "gce-backend"]:
                await self._world.daemon.stop()
            case ["sudo", "systemctl", "start", "gce-backend"]:
                await self._world.start_daemon()
            case _:
                pytest.fail(f"nobody knows what to do on the VM with {command!r}")

    async def snapshot(self, time: str) -> None:
        """What point-in-time recovery keeps."""
        self.snapshots[time] = await self._stored()

    async def lose_everything(self) -> None:
        """Somebody deletes all the daemon's entities."""
        await self._write([{"delete": entity["key"]} for entity in await self._stored()])

    async def _stored(self) -> list[dict[str, Any]]:
        found = await self._world.call("POST", f"/v1/projects/{PROJECT}:runQuery", {"query": {}})
        assert found["batch"]["moreResults"] == "NO_MORE_RESULTS"
        return [result["entity"] for result in found["batch"]["entityResults"]]

    async def _write(self, mutations: list[dict[str, Any]]) -> None:
        for start in range(0, len(mutations), BATCH):
            some = mutations[start : start + BATCH]
            body = {"mode": "NON_TRANSACTIONAL", "mutations": some}
            answer = await self._world.call("POST", f"/v1/projects/{PROJECT}:commit", body)
            assert "error" not in answer, answer


def _of_kinds(entities: list[dict[str, Any]], kinds: list[str]) -> list[dict[str, Any]]:
    assert sorted(kinds) == sorted((*(kind.KIND for kind in KINDS), StoreSchema.KIND))
    return [entity for entity in entities if entity["key"]["path"][-1]["kind"] in kinds]


async def _lease_one_more(w: World, number: int) -> str:
    request = {"request_id": f"r{number}", "duration": 7200, "dimensions": {"os_family": "LINUX"}}
    return str((await w.broker("machine_provider.lease", request)).get("hostname", ""))


@pytest.mark.parametrize(
    ("lost", "drains"),
    [pytest.param(False, False, id="overwritten"), pytest.param(True, True, id="lost")],
)
async def test_the_restore_of_the_page_destroys_no_leased_machine_and_loses_none(
    tmp_path: Path, *, lost: bool, drains: bool
) -> None:
    """The store is put back to a time when most of the machines, and all leases, did not exist."""
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1), settings=settings()
    ) as w:
        operator = Operator(w)
        await w.until_states(cataloged=2)
        steps = _steps()
        (time,) = re.findall(r"TIME=(\S+)", "".join(steps))
        await operator.snapshot(time)
        w.write_config(TWO_TEMPLATES, two_templates(4))
        await w.until_states(cataloged=8)
        held = [await w.lease(f"r{index}", duration=7200) for index in range(HELD)]
        idle = set(await w.vms()) - set(held)
        if lost:
            await operator.lose_everything()
            await w.pass_time(60)
        await w.reset_calls()
        for step in steps:
            if OBSERVING in step:
                if drains:
                    w.write_config(TWO_TEMPLATES, two_templates(4, other=False))
                await w.pass_time(600)
            for line in _commands(step):
                await operator.type(line)
            if OBSERVING in step:
                assert await mutations(w) == {}, "it is paused"
                assert set(await w.vms()) == {*held, *idle}
                assert any("restored the store" in output for output in operator.written)
        await w.pass_time(600)
        assert set(held) <= set(await w.vms())
        for name in held:
            assert await w.is_in(name, "leased")
            assert (found := entity(w, name)) is not None
            assert found.lease is not None
            assert found.lease.expiration is not None
        stay = {name for name in idle if not drains or name.startswith("linux")}
        for name in stay:
            assert await w.is_in(name, "cataloged")
        conditions = (await w.get("/api/fleet"))["conditions"]
        assert {condition["reason"] for condition in conditions} <= {"Leased"}
        await release_all(w, HELD)
        for name in held:
            await w.until(lambda name=name: w.lacks(name))  # type: ignore[misc]  # bound now
