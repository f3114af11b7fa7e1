"""The schema of the store: written, brought up to date, and refused when it is newer."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gce_backend.base.errors import SchemaError, TransientError
from gce_backend.clients.datastore.client import Unindexed, Upsert
from gce_backend.clients.datastore.schema import SchemaChange
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.schema import MIGRATIONS, SCHEMA, check, migrate, version
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import (
    CONFIGURATION_KEY,
    STORE_SCHEMA_KEY,
    StoredConfiguration,
    StoreSchema,
)
from support.fleet_harness import world


def test_each_version_has_its_step() -> None:
    """From the first one to the present one, without a gap."""
    assert sorted(MIGRATIONS) == list(range(SCHEMA))


async def test_a_store_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    """An interrupted step is repeated; what is up to date is left alone."""
    done: list[str] = []

    async def rename(store: Store) -> None:
        done.append("rename")
        fleet = Fleet(store)
        new = StoredConfiguration(config_set="services/new")
        await fleet.change([Change(CONFIGURATION_KEY, lambda _: new)])

    async def fill(_: Store) -> None:
        done.append("fill")
        if done.count("fill") == 1:
            raise TransientError("datastore.commit", "lost")

    steps = {0: rename, 1: fill}
    async with world(tmp_path, start=False) as w, w.datastore() as datastore:
        store = Store(datastore)
        assert await version(store) == 0
        with pytest.raises(TransientError):
            await migrate(store, "1.0.0", steps)
        assert await version(store) == 1
        assert await migrate(store, "1.0.1", steps) == SchemaChange(1, 2)
        assert await migrate(store, "1.0.1", steps) == SchemaChange(2, 2)
        assert done == ["rename", "fill", "fill"]
        found = await store.read([STORE_SCHEMA_KEY, CONFIGURATION_KEY])
        assert found[STORE_SCHEMA_KEY].entity == StoreSchema(2, "1.0.1")
        assert found[CONFIGURATION_KEY].entity == StoredConfiguration(config_set="services/new")
        with pytest.raises(
            SchemaError, match=r"schema version 2, and this release .* understands 1"
        ):
            await check(store, newest=1)


async def test_a_version_that_cannot_be_understood_is_no_version_0(tmp_path: Path) -> None:
    """Nothing is migrated on a guess."""
    async with world(tmp_path, start=False) as w, w.datastore() as datastore:
        nonsense = {"version": Unindexed("x"), "release": Unindexed("1")}
        await datastore.commit([Upsert(STORE_SCHEMA_KEY.path, nonsense)])
        with pytest.raises(SchemaError, match="the store's version is not known: singleton"):
            await migrate(Store(datastore), "1.0.0")


async def test_a_daemon_works_on_no_store_of_a_newer_release(tmp_path: Path) -> None:
    """It says so, makes nothing, and goes on when the store is one that it understands."""
    async with world(tmp_path, start=False) as w:
        async with w.datastore() as datastore:
            store = Store(datastore)
            newer = StoreSchema(SCHEMA + 1, "9.0.0")
            (base,) = await store.write([Write(STORE_SCHEMA_KEY, newer, None)])
            await w.start_daemon()
            await w.pass_time(120)
            assert await w.vms() == {}
            ready = await w.get("/readyz")
            assert not ready["ok"]
            assert f"schema version {SCHEMA + 1}" in str(ready["checks"])
            with capture_logs() as logs:
                await store.write([Write(STORE_SCHEMA_KEY, None, base)])
                await w.until_states(cataloged=3)
        (line,) = [line for line in logs if line["event"] == "store.migrated"]
        assert (line["before"], line["after"]) == (0, SCHEMA)
