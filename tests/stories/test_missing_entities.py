"""Whatever entity is missing or cannot be understood spoils only itself (hole 19)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gce_backend.clients.datastore.client import Unindexed, Upsert
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import KINDS, encode
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONFIGURATION_KEY, Entity, SetAsideMessage
from gce_backend.model.keys import Key
from gce_backend.model.orders import Control
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import OTHER_ZONE, World, manager, template, world
from support.outside import cataloged

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
SELDOM = {"import-config": "* * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
MANAGERS = manager() + manager(zone=OTHER_ZONE, minimum=2) + manager("windows", minimum=2)


def of_kind(fleet: Fleet, kind: type[Any]) -> dict[Key, Entity]:
    """All entities of a kind."""
    found: dict[Key, Entity] = dict(fleet._pictures[kind.KIND])
    return found


async def asked(w: World) -> AsyncIterator[tuple[str, int]]:
    """Every document and page, also about each thing that there is: its path and its status."""
    fleet = await w.get("/api/fleet")
    names = [m["name"] for m in await w.machines()]
    subjects = [*names, *(shown["base_name"] for shown in fleet["templates"])]
    for shown in fleet["templates"]:
        for revision in shown["revisions"]:
            subjects.append(revision["revision"])
            subjects += [group["group"] for group in revision["managers"]]
    documents = ("status", "fleet", "machines", "events", "jobs", "messages", "control")
    pages = ("", "machines", "jobs", "events", "messages", "configuration")
    paths = [
        *(f"/api/{name}" for name in documents),
        *(f"/{name}" for name in pages),
        *(f"/api/explain?name={name}" for name in subjects),
        *(f"/explain?name={name}" for name in subjects),
        *(f"/machines/{name}" for name in names),
        *("/metrics", "/healthz"),
    ]
    for path in paths:
        async with w.session.get(w.daemon.url + path) as response:
            yield path, response.status


@pytest.mark.parametrize("corrupt", [False, True])
async def test_hole_19_an_entity_that_is_missing_or_corrupt_spoils_only_itself(
    tmp_path: Path, corrupt: bool
) -> None:
    """One of each kind, in the middle of a roll-out: no job fails as a whole, pages answer."""
    rng = random.Random(19)
    both = template() + template("windows")
    async with world(
        tmp_path, templates=both, managers=MANAGERS, settings=SOON, crons=SELDOM, options=CALM
    ) as w:
        await cataloged(w, 7)
        for number in range(3):
            await w.lease(f"r{number}", duration=20 * 86400)
        changed = template(machine_type="e2-medium") + template("windows")
        w.write_config(changed, MANAGERS)
        await w.pass_time(120)
        context = w.daemon.context
        assert context is not None
        async with w.fleet() as fleet:
            message = Key(SetAsideMessage.KIND, "m")
            await fleet.change([Change(message, lambda _: SetAsideMessage("why", 1.0))])
            await fleet.change([Change(Key(Control.KIND, "singleton"), lambda c: c or Control())])
            chosen = [
                (key, entity)
                for kind in KINDS
                for key, entity in rng.sample(
                    sorted(of_kind(fleet, kind).items(), key=lambda item: str(item[0])),
                    min(3, len(of_kind(fleet, kind))),
                )
            ]
            assert {key.kind for key, _ in chosen} == {kind.KIND for kind in KINDS}
            for key, entity in chosen:
                before = await w.vms()
                with capture_logs() as logged:
                    if corrupt:
                        await spoil(w, key, entity)
                    else:
                        await fleet.refresh([key])
                        await fleet.change([Change(key, lambda _: None)])
                    await context.fleet.refresh([key])
                    assert (key in context.fleet.corrupt) is corrupt
                    assert context.fleet.get(key) is None
                    await w.pass_time(130)
                    assert logged
                    # The configuration is all that import-config has.
                    own = {"import-config"} if corrupt and key == CONFIGURATION_KEY else set()
                    ended = [e for e in logged if e["event"] in {"job.failed", "job.timeout"}]
                    failed = [e for e in ended if e["job"] not in own]
                    assert not failed, f"{key}: {failed[0]}"
                    jobs = (await w.get("/api/jobs"))["jobs"]
                    assert {j["name"] for j in jobs if j["consecutive_failures"]} <= own, key
                    wrong = [(p, s) async for p, s in asked(w) if s not in {200, 404}]
                    assert not wrong, f"{key}: {wrong}"
                leased = {n for n, s in (await w.catalog()).items() if s == "LEASED"}
                assert leased <= (await w.vms()).keys() & before.keys()
                await restore(w, key, entity)
                await context.fleet.refresh([key, *key.lineage])
                await context.fleet.load()
                await w.pass_time(60)


async def spoil(w: World, key: Key, entity: Entity) -> None:
    """Somebody writes what cannot be understood."""
    await put(w, key, dict.fromkeys(entity.__struct_fields__, Unindexed(0.5)))


async def restore(w: World, key: Key, entity: Entity) -> None:
    """Somebody puts back what was there."""
    await put(w, key, encode(entity))


async def put(w: World, key: Key, properties: Any) -> None:
    """Writes an entity as it is."""
    async with w.datastore() as datastore:
        await datastore.commit([Upsert(key.path, properties)])


@pytest.mark.parametrize("method", ["machine_provider.catalog.*", "compute.*"])
async def test_hole_19_an_entity_that_vanishes_while_a_job_works_on_it_spoils_only_itself(
    tmp_path: Path, method: str
) -> None:
    """All machines of a drained group are being asked about; some are removed by hand meanwhile."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        await cataloged(w, 3)
        context = w.daemon.context
        assert context is not None
        with capture_logs() as logged:
            w.write_config(template(), "")
            await w.inject(method, kind="latency", seconds=3.0, times=None)
            for _ in range(30):
                await w.pass_time(2.5)
                async with w.fleet() as fleet:
                    keys = sorted({*fleet.instances, *fleet.managers}, key=str)[:1]
                    await fleet.change([Change(key, lambda _: None) for key in keys])
                await context.fleet.refresh(keys)
            await w.clear_faults()
            await w.pass_time(300)
        assert [e for e in logged if e["event"] == "job.finished"]
        assert not [e for e in logged if e["event"] == "job.failed"]
