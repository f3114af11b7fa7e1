"""The embedded Datastore, driven over HTTP."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import pytest

from localcloud.datastore_world import (
    ROOT,
    array,
    batch,
    commit,
    entity,
    key,
    lookup,
    names,
    number,
    refused_commit,
    text,
)
from support.cloud_harness import running


async def test_entities_are_versioned_by_commit() -> None:
    """One commit gives its entities one version; the next one a higher."""
    async with running() as run:
        first = await commit(
            run, {"insert": entity("K", "a", n=number(1))}, {"upsert": entity("K", "b")}
        )
        assert first[0]["version"] == first[1]["version"]
        (second,) = await commit(run, {"update": entity("K", "a", n=number(2))})
        assert int(second["version"]) > int(first[0]["version"])
        assert second["createTime"] == first[0]["createTime"]
        found = await lookup(run, key("K", "a"), key("K", "none"))
        assert found["found"][0]["entity"]["properties"] == {"n": number(2)}
        assert found["found"][0]["version"] == second["version"]
        assert found["missing"][0]["entity"]["key"]["path"] == [{"kind": "K", "name": "none"}]


async def test_insert_update_and_delete_keep_their_conditions() -> None:
    """Insert wants nothing there, update wants something, delete does not mind."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a")})
        assert await refused_commit(run, {"insert": entity("K", "a")}) == (409, "ALREADY_EXISTS")
        assert await refused_commit(run, {"update": entity("K", "b")}) == (404, "NOT_FOUND")
        await commit(run, {"delete": key("K", "a")}, {"delete": key("K", "b")})
        assert "found" not in await lookup(run, key("K", "a"))


async def test_a_failing_mutation_fails_its_whole_commit() -> None:
    """Nothing of a commit is applied when a part of it cannot be."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a")})
        await refused_commit(run, {"insert": entity("K", "b")}, {"insert": entity("K", "a")})
        assert "found" not in await lookup(run, key("K", "b"))


async def test_a_stale_base_version_aborts_or_is_reported() -> None:
    """FAIL aborts the commit; the default strategy leaves that one mutation out and says so."""
    async with running() as run:
        (old,) = await commit(run, {"insert": entity("K", "a", n=number(1))})
        (new,) = await commit(run, {"upsert": entity("K", "a", n=number(2))})
        stale = {"update": entity("K", "a", n=number(3)), "baseVersion": old["version"]}
        fail = {**stale, "conflictResolutionStrategy": "FAIL"}
        assert await refused_commit(run, {"insert": entity("K", "b")}, fail) == (409, "ABORTED")
        reported, other = await commit(run, stale, {"insert": entity("K", "c")})
        assert reported["conflictDetected"]
        assert reported["version"] == new["version"]
        assert "conflictDetected" not in other
        found = await lookup(run, key("K", "a"), key("K", "b"), key("K", "c"))
        assert [row["entity"]["key"]["path"][0]["name"] for row in found["found"]] == ["a", "c"]
        assert found["found"][0]["entity"]["properties"] == {"n": number(2)}
        (again,) = await commit(run, {**fail, "baseVersion": new["version"]})
        assert int(again["version"]) > int(new["version"])
        gone = {
            "delete": key("K", "none"),
            "baseVersion": "5",
            "conflictResolutionStrategy": "FAIL",
        }
        assert await refused_commit(run, gone) == (409, "ABORTED")


async def test_a_write_that_changes_nothing_keeps_the_version() -> None:
    """As the API says of MutationResult.version."""
    async with running() as run:
        (first,) = await commit(run, {"upsert": entity("K", "a", n=number(1))})
        (second,) = await commit(run, {"upsert": entity("K", "a", n=number(1))})
        assert second["version"] == first["version"]


async def test_an_update_time_guards_like_a_version() -> None:
    """The one that was read, or the mutation is in conflict."""
    async with running() as run:
        (old,) = await commit(run, {"insert": entity("K", "a", n=number(1))})
        await asyncio.sleep(1)
        (new,) = await commit(run, {"update": entity("K", "a", n=number(2))})
        fail = {"update": entity("K", "a"), "conflictResolutionStrategy": "FAIL"}
        stale = {**fail, "updateTime": old["updateTime"]}
        assert await refused_commit(run, stale) == (409, "ABORTED")
        await commit(run, {**fail, "updateTime": new["updateTime"]})
        invalid = (400, "INVALID_ARGUMENT")
        assert await refused_commit(run, fail) == invalid
        both = {**fail, "updateTime": new["updateTime"], "baseVersion": "1"}
        assert await refused_commit(run, both) == invalid
        assert await refused_commit(run, {**fail, "updateTime": "now"}) == invalid


async def test_a_mask_limits_what_is_written() -> None:
    """What it names is set, or deleted when absent; the rest is left alone."""
    async with running() as run:
        inner = {"entityValue": {"properties": {"x": number(1), "y": number(2)}}}
        await commit(run, {"insert": entity("K", "a", n=number(1), m=number(2), e=inner)})
        change = entity("K", "a", n=number(9), ignored=number(3))
        mask = {"paths": ["n", "m", "e.x", "absent.x"]}
        await commit(run, {"update": change, "propertyMask": mask})
        (found,) = (await lookup(run, key("K", "a")))["found"]
        assert found["entity"]["properties"] == {
            "n": number(9),
            "e": {"entityValue": {"properties": {"y": number(2)}}},
        }
        await commit(run, {"upsert": entity("K", "b", n=number(1)), "propertyMask": {"paths": []}})
        (made,) = (await lookup(run, key("K", "b")))["found"]
        assert made["entity"]["properties"] == {}


async def test_times_and_versions_of_answers() -> None:
    """Missing entities have the snapshot's version; only transactional commits have a time."""
    async with running() as run:
        plain = {"mode": "NON_TRANSACTIONAL", "mutations": [{"insert": entity("K", "a")}]}
        assert "commitTime" not in await run.ok("POST", ROOT + ":commit", plain)
        body = {"singleUseTransaction": {}, "mutations": [{"delete": key("K", "a")}]}
        answer = await run.ok("POST", ROOT + ":commit", body)
        found = await lookup(run, key("K", "a"))
        assert found["missing"][0]["version"] == answer["mutationResults"][0]["version"]
        assert answer["commitTime"] <= found["readTime"]
        again = await run.ok("POST", ROOT + ":commit", body)
        first, second = (int(a["mutationResults"][0]["version"]) for a in (answer, again))
        assert second > first


async def test_deferred_keys_are_named() -> None:
    """A lookup that answers a part of its keys says which ones are left."""
    async with running() as run:
        await commit(run, *({"insert": entity("K", name)} for name in "abc"))
        run.datastore.defer_after = 1
        answer = await lookup(run, *(key("K", name) for name in "abc"))
        assert len(answer["found"]) == 1
        assert [left["path"][0]["name"] for left in answer["deferred"]] == ["b", "c"]


async def test_reserved_ids_are_not_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by chance, also after a restart."""
    offered = iter([4, 4, 6])
    monkeypatch.setattr("secrets.randbelow", lambda _: next(offered))
    five = {"path": [{"kind": "K", "id": "5"}]}
    async with running(tmp_path / "state") as run:
        await run.ok("POST", ROOT + ":reserveIds", {"keys": [five]})
        incomplete = {"keys": [{"path": [{"kind": "K"}]}]}
        refused = await run.refused("POST", ROOT + ":reserveIds", incomplete)
        assert refused == (400, "INVALID_ARGUMENT")
    async with running(tmp_path / "state") as run:
        (made,) = (await run.ok("POST", ROOT + ":allocateIds", incomplete))["keys"]
        assert made["path"] == [{"kind": "K", "id": "7"}]


async def test_only_the_default_database_exists() -> None:
    """Another one is not found, and the default one is not named."""
    async with running() as run:
        for database, error in (
            ("other", (404, "NOT_FOUND")),
            ("(default)", (400, "INVALID_ARGUMENT")),
        ):
            body = {"databaseId": database, "keys": [key("K", "a")]}
            assert await run.refused("POST", ROOT + ":lookup", body) == error
            named = key("K", "a")
            named["partitionId"]["databaseId"] = database
            assert await run.refused("POST", ROOT + ":lookup", {"keys": [named]}) == error


def nested(depth: int) -> dict[str, Any]:
    """An entity value in an entity value in..."""
    value = number(1)
    for _ in range(depth):
        value = {"entityValue": {"properties": {"x": value}}}
    return value


async def test_values_at_their_limits_are_kept() -> None:
    """As large, as long and as deep as Google allows."""
    async with running() as run:
        blob = base64.b64encode(b"x" * 1_000_000).decode()
        kept = {
            "text": text("x" * 1500),
            "long": text("x" * 40_000, excludeFromIndexes=True),
            "hidden": array(text("x" * 2000, excludeFromIndexes=True)),
            "deep": nested(20),
            "inner": {
                "entityValue": {"properties": {"x": text("x" * 2000)}},
                "excludeFromIndexes": True,
            },
            "n" * 1500: number(1),
        }
        await commit(
            run,
            {"insert": {"key": key("K", "a"), "properties": kept}},
            {"insert": entity("K", "b", t={"blobValue": blob, "excludeFromIndexes": True})},
            {"insert": entity("K", "n" * 1500)},
        )
        (found,) = (await lookup(run, key("K", "a")))["found"]
        assert found["entity"]["properties"] == kept


async def test_allocates_ids_for_incomplete_keys() -> None:
    """By allocateIds, and by an insert, whose result then has the key."""
    async with running() as run:
        hole = {"path": [{"kind": "K"}]}
        answer = await run.ok("POST", ROOT + ":allocateIds", {"keys": [hole, hole]})
        ids = {found["path"][0]["id"] for found in answer["keys"]}
        assert len(ids) == 2
        (result,) = await commit(run, {"insert": {"key": hole, "properties": {}}})
        assert (await lookup(run, result["key"]))["found"]


LARGE = text("x" * 600_000, excludeFromIndexes=True)


@pytest.mark.parametrize(
    "mutation",
    [
        {"insert": entity("K", "a", t=text("x" * 1501))},
        {"insert": entity("K", "a", t=array(text("ü" * 751)))},
        {"insert": entity("K", "a", t=text("x" * 2**20, excludeFromIndexes=True))},
        {"insert": entity("K", "a", t=text("x" * 1_048_488, excludeFromIndexes=True))},
        {"insert": entity("K", "a", t={"blobValue": base64.b64encode(b"x" * 1501).decode()})},
        {"insert": entity("K", "a", t=LARGE, u=LARGE)},
        {"insert": entity("K", "a", t=nested(21))},
        {"insert": {"key": key("K", "a"), "properties": {"n" * 1501: number(1)}}},
        {"insert": entity("K", "n" * 1501)},
        {"insert": entity(*(["K", "n" * 1500] * 5))},
        {"insert": entity("K", "a", namespace="a/b")},
        {"insert": entity("K", "a", namespace="__n__")},
        {"insert": entity("K", "a", t={"nullValue": 1})},
        {"insert": entity("K", "a", t={"geoPointValue": {"latitude": 91, "longitude": 0}})},
        {"insert": entity("K", "a", t={"booleanValue": True, "integerValue": "1"})},
        {"insert": entity("K", "a"), "propertyTransforms": [{"property": "t"}]},
        {"insert": entity("K", "a", t=array(array(number(1))))},
        {"insert": entity("K", "a", t={"integerValue": "9223372036854775808"})},
        {"insert": entity("K", "a", t={"timestampValue": "yesterday"})},
        {"insert": entity("K", "a", t={"what": 1})},
        {"insert": entity("K", "a", __t__=number(1))},
        {"insert": entity("K", "")},
        {"insert": {"key": {"partitionId": {"projectId": "q"}, "path": [{"kind": "K"}]}}},
        {"update": {"key": {"path": [{"kind": "K"}]}}},
        {"insert": entity("K", "a"), "delete": key("K", "a")},
    ],
)
async def test_rules_are_kept(mutation: dict[str, Any]) -> None:
    """What Google refuses is refused with 400 INVALID_ARGUMENT."""
    async with running() as run:
        assert await refused_commit(run, mutation) == (400, "INVALID_ARGUMENT")
        assert run.datastore.state()["entities"] == {}


async def test_limits_are_kept() -> None:
    """1,000 keys, 10 MiB; one mutation for an entity outside of transactions."""
    async with running() as run:
        invalid = (400, "INVALID_ARGUMENT")
        keys = {"keys": [key("K", str(n)) for n in range(1001)]}
        assert await run.refused("POST", ROOT + ":lookup", keys) == invalid
        large = text("x" * 900_000, excludeFromIndexes=True)
        big = [{"upsert": entity("K", str(n), t=large)} for n in range(12)]
        assert await refused_commit(run, *big) == invalid
        twice = {"upsert": entity("K", "a")}
        assert await refused_commit(run, twice, twice) == invalid
        query = {"query": {"kind": [{"name": "K"}], "startCursor": "bm9uc2Vuc2U="}}
        assert await run.refused("POST", ROOT + ":runQuery", query) == invalid


async def test_ten_thousand_entities_are_written_and_read_quickly() -> None:
    """Written in 20 commits and read in pages, in key order and sorted."""
    async with running() as run:
        started = time.process_time()
        for chunk in range(20):
            rows = range(chunk * 500, chunk * 500 + 500)
            mutations = [{"upsert": entity("K", f"{n:05}", n=number(n % 7))} for n in rows]
            await commit(run, *mutations)
        for order in ([], [{"property": {"name": "n"}}]):
            seen: list[str] = []
            cursor = ""
            while True:
                found = await batch(run, "K", order=order, startCursor=cursor)
                seen += names(found)
                cursor = found["endCursor"]
                if found["moreResults"] == "NO_MORE_RESULTS":
                    break
            assert len(set(seen)) == len(seen) == 10_000
        # Far from the usual 1.5 s, near enough to fail when something becomes quadratic.
        assert time.process_time() - started < 15


async def test_what_exists_is_told_of_the_services_that_are_asked_for() -> None:
    """`/_localcloud/state`: all of them, unless some are named."""
    async with running() as run:
        everything = await run.ok("GET", "/_localcloud/state")
        assert set(everything) == {"metadata", "datastore", "pubsub"}
        one = await run.ok("GET", "/_localcloud/state?service=datastore")
        assert one == {"datastore": everything["datastore"]}
