"""The schema of the Machine Provider's store: brought up to date, and refused when it is newer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gce_backend.base.errors import SchemaError, TransientError
from gce_backend.clients.datastore.client import Datastore, Delete, Upsert
from gce_backend.clients.datastore.schema import SchemaChange
from gce_backend.machine_provider.schema import (
    MIGRATIONS,
    SCHEMA,
    SCHEMA_PATH,
    check_schema,
    migrate_schema,
)
from machine_provider.test_service import until_ready
from support.provider_harness import place


async def test_a_store_is_brought_up_to_date_and_never_back(tmp_path: Path) -> None:
    """Step by step, by the process that works; one of an older release stands by, and says why."""
    assert sorted(MIGRATIONS) == list(range(SCHEMA))
    done: list[str] = []

    async def rename(_: Datastore) -> None:
        done.append("rename")

    async def fill(_: Datastore) -> None:
        done.append("fill")
        if done.count("fill") == 1:
            raise TransientError("datastore.commit", "lost")

    steps = {SCHEMA: rename, SCHEMA + 1: fill}
    async with place(tmp_path) as p:
        with capture_logs() as logs:
            first = await p.start()
            await until_ready(p, first)
        (line,) = [one for one in logs if one["event"] == "machine_provider.migrated"]
        assert (line["before"], line["after"]) == (0, SCHEMA)
        assert first.provider is not None
        assert first.provider.leading_store is not None
        store = first.provider.leading_store
        with pytest.raises(TransientError):
            await migrate_schema(store, "9.0.0", steps)
        assert await check_schema(store, SCHEMA + 1) == SCHEMA + 1
        assert await migrate_schema(store, "9.0.0", steps) == SchemaChange(SCHEMA + 1, SCHEMA + 2)
        assert done == ["rename", "fill", "fill"]
        await p.kill(first)
        second = await p.start()
        with capture_logs() as logs:
            await asyncio.sleep(60)
        assert [one["event"] for one in logs] == ["leadership.unable"]
        status, answer = await p.send(second, "GET", "/readyz")
        assert status == 503
        assert f"has schema version {SCHEMA + 2}" in answer["problems"]["store"]
        assert second.provider is not None
        assert second.provider.leadership.term is None
        reader = second.provider.store
        for nonsense in ("x", -1, None):
            await reader.commit([Upsert(SCHEMA_PATH, {"version": nonsense})])
            with pytest.raises(SchemaError, match="cannot be understood"):
                await check_schema(reader)
        await reader.commit([Delete(SCHEMA_PATH, None)])
        await until_ready(p, second)
        assert await check_schema(reader) == SCHEMA
