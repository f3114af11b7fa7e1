"""The embedded Datastore, driven over HTTP."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from cloud_harness import Running, running

ROOT = "/v1/projects/p"


def key(*path: str, namespace: str = "") -> dict[str, Any]:
    """The JSON key of kind, name, kind, name..."""
    elements = [{"kind": k, "name": n} for k, n in zip(path[::2], path[1::2], strict=True)]
    return {"partitionId": {"projectId": "p", "namespaceId": namespace}, "path": elements}


def entity(*path: str, namespace: str = "", **properties: Any) -> dict[str, Any]:
    """A JSON entity; properties are JSON values."""
    return {"key": key(*path, namespace=namespace), "properties": properties}


def number(value: int) -> dict[str, Any]:
    """An integer value."""
    return {"integerValue": str(value)}


def text(value: str, **more: Any) -> dict[str, Any]:
    """A string value."""
    return {"stringValue": value, **more}


def array(*values: dict[str, Any]) -> dict[str, Any]:
    """An array value."""
    return {"arrayValue": {"values": list(values)}}


def where(name: str, op: str, value: dict[str, Any]) -> dict[str, Any]:
    """A property filter."""
    return {"propertyFilter": {"property": {"name": name}, "op": op, "value": value}}


async def commit(run: Running, *mutations: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The results of a commit without a transaction."""
    body = {"mode": "NON_TRANSACTIONAL", "mutations": list(mutations), **more}
    results: list[dict[str, Any]] = (await run.ok("POST", ROOT + ":commit", body))[
        "mutationResults"
    ]
    return results


async def refused_commit(run: Running, *mutations: dict[str, Any]) -> tuple[int, str]:
    """The error of a commit without a transaction."""
    body = {"mode": "NON_TRANSACTIONAL", "mutations": list(mutations)}
    return await run.refused("POST", ROOT + ":commit", body)


async def lookup(run: Running, *keys: dict[str, Any], **more: Any) -> Any:
    """The answer to a lookup."""
    return await run.ok("POST", ROOT + ":lookup", {"keys": list(keys), **more})


async def batch(run: Running, kind: str, *filters: Any, **query: Any) -> Any:
    """The first batch of a query."""
    shape: dict[str, Any] = {"kind": [{"name": kind}], **query}
    if filters:
        shape["filter"] = {"compositeFilter": {"op": "AND", "filters": list(filters)}}
    return (await run.ok("POST", ROOT + ":runQuery", {"query": shape}))["batch"]


def names(found: Any) -> list[str]:
    """The last names of a batch's keys."""
    return [result["entity"]["key"]["path"][-1]["name"] for result in found["entityResults"]]


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


async def begin(run: Running, **options: Any) -> str:
    """A new transaction."""
    body = {"transactionOptions": options}
    answer = await run.ok("POST", ROOT + ":beginTransaction", body)
    return str(answer["transaction"])


def writing(transaction: str, *mutations: dict[str, Any]) -> dict[str, Any]:
    """The body of a transaction's commit."""
    return {"mode": "TRANSACTIONAL", "transaction": transaction, "mutations": list(mutations)}


async def test_a_transaction_aborts_when_an_entity_it_read_was_changed() -> None:
    """Also when it read that there was none."""
    async with running() as run:
        for name in ("a", "new"):
            await commit(run, {"upsert": entity("K", "a", n=number(1))})
            transaction = await begin(run)
            await lookup(run, key("K", name), readOptions={"transaction": transaction})
            await commit(run, {"upsert": entity("K", name, n=number(2))})
            body = writing(transaction, {"upsert": entity("K", "b")})
            assert await run.refused("POST", ROOT + ":commit", body) == (409, "ABORTED")
            assert "found" not in await lookup(run, key("K", "b"))


async def test_a_transaction_aborts_when_what_it_queried_was_changed() -> None:
    """An entity that appears under a queried ancestor is a conflict, one elsewhere is not."""
    async with running() as run:
        for parent, conflict in (("x", True), ("y", False)):
            transaction = await begin(run)
            ancestor = where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "x")})
            query = {"kind": [{"name": "K"}], "filter": ancestor}
            read = {"query": query, "readOptions": {"transaction": transaction}}
            await run.ok("POST", ROOT + ":runQuery", read)
            await commit(run, {"insert": entity("P", parent, "K", "new")})
            body = writing(transaction, {"upsert": entity("K", "b")})
            status, _ = await run.call("POST", ROOT + ":commit", body)
            assert status == (409 if conflict else 200)


async def test_a_late_read_of_a_changed_entity_aborts() -> None:
    """What a transaction reads is all of one moment."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a", n=number(1))})
        transaction = await begin(run)
        await commit(run, {"update": entity("K", "a", n=number(2))})
        body = {"keys": [key("K", "a")], "readOptions": {"transaction": transaction}}
        assert await run.refused("POST", ROOT + ":lookup", body) == (409, "ABORTED")


async def test_transactions_without_conflict_commit_once() -> None:
    """A transaction's writes become current together, and it is then over."""
    async with running() as run:
        answer = await lookup(run, key("K", "a"), readOptions={"newTransaction": {"readWrite": {}}})
        body = writing(
            answer["transaction"], {"insert": entity("K", "a")}, {"delete": key("K", "a")}
        )
        await run.ok("POST", ROOT + ":commit", body)
        assert "found" not in await lookup(run, key("K", "a"))
        assert await run.refused("POST", ROOT + ":commit", body) == (400, "INVALID_ARGUMENT")


async def test_transactions_that_are_rolled_back_or_read_only_write_nothing() -> None:
    """Both refuse a commit of mutations."""
    async with running() as run:
        rolled = await begin(run)
        await run.ok("POST", ROOT + ":rollback", {"transaction": rolled})
        for transaction in (rolled, await begin(run, readOnly={})):
            body = writing(transaction, {"insert": entity("K", "a")})
            assert await run.refused("POST", ROOT + ":commit", body) == (400, "INVALID_ARGUMENT")
        assert "found" not in await lookup(run, key("K", "a"))


@pytest.mark.parametrize(("pause", "times"), [(61, 1), (50, 6)])
async def test_transactions_expire_when_idle_or_old(pause: int, times: int) -> None:
    """After 60 idle seconds, or 270 in all."""
    async with running() as run:
        transaction = await begin(run)
        for number_of_pause in range(times):
            if number_of_pause:
                await lookup(run, key("K", "a"), readOptions={"transaction": transaction})
            await asyncio.sleep(pause)
        body = writing(transaction, {"insert": entity("K", "a")})
        assert await run.refused("POST", ROOT + ":commit", body) == (400, "INVALID_ARGUMENT")


async def fill(run: Running) -> None:
    """Entities a to e under two parents, with a number, a text and tags."""
    rows = [("x", "a", 3), ("x", "b", 1), ("y", "c", 2), ("y", "d", 1), ("y", "e", 5)]
    mutations = [
        {
            "insert": entity(
                "P",
                parent,
                "K",
                name,
                n=number(n),
                tags=array(text(name), text("all")),
                hidden=text(name, excludeFromIndexes=True),
            )
        }
        for parent, name, n in rows
    ]
    await commit(run, *mutations, {"insert": entity("Other", "z", n=number(1))})


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (where("n", "EQUAL", number(1)), ["b", "d"]),
        (where("n", "IN", array(number(1), number(5))), ["b", "d", "e"]),
        (where("n", "LESS_THAN", number(3)), ["b", "d", "c"]),
        (where("n", "LESS_THAN_OR_EQUAL", number(3)), ["b", "d", "c", "a"]),
        (where("n", "GREATER_THAN", number(2)), ["a", "e"]),
        (where("n", "GREATER_THAN_OR_EQUAL", number(5)), ["e"]),
        (where("n", "NOT_EQUAL", number(1)), ["c", "a", "e"]),
        (where("n", "GREATER_THAN", text("")), []),
        (where("tags", "EQUAL", text("c")), ["c"]),
        (where("tags", "EQUAL", text("all")), ["a", "b", "c", "d", "e"]),
        (where("hidden", "EQUAL", text("a")), []),
        (where("absent", "NOT_EQUAL", number(1)), []),
        (where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "y")}), ["c", "d", "e"]),
        (where("__key__", "GREATER_THAN", {"keyValue": key("P", "y", "K", "c")}), ["d", "e"]),
        (where("__key__", "EQUAL", {"keyValue": key("P", "x", "K", "b")}), ["b"]),
    ],
)
async def test_filters_select(condition: dict[str, Any], expected: list[str]) -> None:
    """Each operator, arrays by element, unindexed and missing values never."""
    async with running() as run:
        await fill(run)
        assert names(await batch(run, "K", condition)) == expected


async def test_filters_are_joined_by_and() -> None:
    """All conditions hold, ancestors included."""
    async with running() as run:
        await fill(run)
        ancestor = where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "y")})
        found = await batch(run, "K", ancestor, where("n", "LESS_THAN", number(5)))
        assert names(found) == ["d", "c"]


async def test_orders_and_pages() -> None:
    """Descending, then by key; cursors go on where a limit stopped, whatever was deleted."""
    async with running() as run:
        await fill(run)
        order = [{"property": {"name": "n"}, "direction": "DESCENDING"}]
        first = await batch(run, "K", order=order, limit=3)
        assert names(first) == ["e", "a", "c"]
        assert first["moreResults"] == "MORE_RESULTS_AFTER_LIMIT"
        await commit(run, {"delete": key("P", "y", "K", "c")})
        rest = await batch(run, "K", order=order, startCursor=first["endCursor"])
        assert names(rest) == ["b", "d"]
        assert rest["moreResults"] == "NO_MORE_RESULTS"
        skipped = await batch(run, "K", order=order, offset=1, limit=1)
        assert (names(skipped), skipped["skippedResults"]) == (["a"], 1)
        upto = await batch(run, "K", order=order, endCursor=skipped["endCursor"])
        assert names(upto) == ["e", "a"]
        keys = [{"property": {"name": "__key__"}, "direction": "DESCENDING"}]
        assert names(await batch(run, "K", order=keys)) == ["e", "d", "b", "a"]


async def test_batches_are_followed_over_a_restart(tmp_path: Path) -> None:
    """An unfinished query goes on from its cursor, also in a new process."""
    async with running(tmp_path / "state") as run:
        run.datastore.batch_size = 2
        await fill(run)
        first = await batch(run, "K")
        assert (names(first), first["moreResults"]) == (["a", "b"], "NOT_FINISHED")
    async with running(tmp_path / "state") as run:
        rest = await batch(run, "K", startCursor=first["endCursor"])
        assert names(rest) == ["c", "d", "e"]
        (later,) = await commit(run, {"upsert": entity("P", "x", "K", "a")})
        assert int(later["version"]) > int(first["entityResults"][0]["version"])


async def test_projections() -> None:
    """Keys only, or some indexed properties of the entities that have them."""
    async with running() as run:
        await fill(run)
        only = await batch(run, "K", projection=[{"property": {"name": "__key__"}}], limit=1)
        assert only["entityResultType"] == "KEY_ONLY"
        assert "properties" not in only["entityResults"][0]["entity"]
        some = await batch(run, "K", projection=[{"property": {"name": "n"}}], limit=1)
        assert some["entityResults"][0]["entity"]["properties"] == {"n": number(3)}
        none = await batch(run, "K", projection=[{"property": {"name": "hidden"}}])
        assert none["entityResults"] == []


async def test_namespaces_are_apart() -> None:
    """A query sees its own namespace only."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a")}, {"insert": entity("K", "b", namespace="n")})
        body = {"query": {"kind": [{"name": "K"}]}, "partitionId": {"namespaceId": "n"}}
        found = await run.ok("POST", ROOT + ":runQuery", body)
        assert names(found["batch"]) == ["b"]
        assert names(await batch(run, "K")) == ["a"]


async def test_counts() -> None:
    """An aggregation counts what the nested query finds."""
    async with running() as run:
        await fill(run)
        nested = {"kind": [{"name": "K"}], "filter": where("n", "EQUAL", number(1))}
        wanted = {"aggregations": [{"alias": "total", "count": {}}], "nestedQuery": nested}
        body = {"aggregationQuery": wanted}
        answer = await run.ok("POST", ROOT + ":runAggregationQuery", body)
        (found,) = answer["batch"]["aggregationResults"]
        assert found["aggregateProperties"] == {"total": number(2)}


async def test_allocates_ids_for_incomplete_keys() -> None:
    """By allocateIds, and by an insert, whose result then has the key."""
    async with running() as run:
        hole = {"path": [{"kind": "K"}]}
        answer = await run.ok("POST", ROOT + ":allocateIds", {"keys": [hole, hole]})
        ids = {found["path"][0]["id"] for found in answer["keys"]}
        assert len(ids) == 2
        (result,) = await commit(run, {"insert": {"key": hole, "properties": {}}})
        assert (await lookup(run, result["key"]))["found"]


@pytest.mark.parametrize(
    "mutation",
    [
        {"insert": entity("K", "a", t=text("x" * 1501))},
        {"insert": entity("K", "a", t=array(text("ü" * 751)))},
        {"insert": entity("K", "a", t=text("x" * 2**20, excludeFromIndexes=True))},
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
    """1,000 keys, 500 mutations, 10 MiB; one mutation for an entity outside of transactions."""
    async with running() as run:
        invalid = (400, "INVALID_ARGUMENT")
        keys = {"keys": [key("K", str(n)) for n in range(1001)]}
        assert await run.refused("POST", ROOT + ":lookup", keys) == invalid
        many = [{"upsert": entity("K", str(n))} for n in range(501)]
        assert await refused_commit(run, *many) == invalid
        large = text("x" * 900_000, excludeFromIndexes=True)
        big = [{"upsert": entity("K", str(n), t=large)} for n in range(12)]
        assert await refused_commit(run, *big) == invalid
        twice = {"upsert": entity("K", "a")}
        assert await refused_commit(run, twice, twice) == invalid
        gql = {"gqlQuery": {"queryString": "SELECT * FROM K"}}
        assert await run.refused("POST", ROOT + ":runQuery", gql) == invalid
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
