"""The embedded Datastore's transactions and their isolation, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from localcloud.datastore_world import (
    ROOT,
    batch,
    begin,
    commit,
    entity,
    key,
    lookup,
    names,
    number,
    queried,
    read,
    where,
    writing,
)
from support.cloud_harness import Running, running


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


async def test_only_changes_of_what_a_query_selects_are_in_its_way() -> None:
    """An entity that enters, changes in or leaves a result is; one that the filter skips is not."""
    async with running() as run:
        one, two = number(1), number(2)
        changes: list[tuple[dict[str, Any], bool]] = [
            ({"insert": entity("K", "new", n=one)}, True),
            ({"update": entity("K", "one", n=one, m=one)}, True),
            ({"update": entity("K", "one", n=two)}, True),
            ({"delete": key("K", "one")}, True),
            ({"insert": entity("K", "new", n=two)}, False),
            ({"update": entity("K", "two", n=two, m=one)}, False),
            ({"insert": entity("Other", "new", n=one)}, False),
        ]
        for change, conflict in changes:
            await commit(
                run,
                {"upsert": entity("K", "one", n=one)},
                {"upsert": entity("K", "two", n=two)},
                {"delete": key("K", "new")},
            )
            transaction = await begin(run)
            assert await queried(run, transaction, where("n", "EQUAL", one)) == ["one"]
            await commit(run, change)
            body = writing(transaction, {"upsert": entity("Log", "b")})
            status, _ = await run.call("POST", ROOT + ":commit", body)
            assert status == (409 if conflict else 200), change


async def test_of_two_transactions_on_one_entity_the_first_to_commit_wins() -> None:
    """Also when the second has not read it; it then reads the new state and succeeds."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a", n=number(0))})
        for reads in (True, False):
            first, second = await begin(run), await begin(run)
            if reads:
                assert await read(run, first, key("K", "a")) == await read(
                    run, second, key("K", "a")
                )
            write = {"update": entity("K", "a", n=number(1 + reads))}
            await run.ok("POST", ROOT + ":commit", writing(first, write))
            late = writing(second, {"update": entity("K", "a", n=number(9))})
            assert await run.refused("POST", ROOT + ":commit", late) == (409, "ABORTED")
            again = await begin(run, readWrite={"previousTransaction": second})
            assert await read(run, again, key("K", "a")) == [{"n": number(1 + reads)}]
            await run.ok("POST", ROOT + ":commit", writing(again, write))


async def test_transactions_that_touch_different_entities_both_commit() -> None:
    """Reading different entities of one kind is no conflict."""
    async with running() as run:
        first, second = await begin(run), await begin(run)
        for transaction, name in ((first, "a"), (second, "b")):
            await read(run, transaction, key("K", name))
        for transaction, name in ((first, "a"), (second, "b")):
            write = {"insert": entity("K", name)}
            await run.ok("POST", ROOT + ":commit", writing(transaction, write))
        assert names(await batch(run, "K")) == ["a", "b"]


async def test_a_transaction_reads_the_moment_at_which_it_began() -> None:
    """Whatever others insert, update and delete: by key and by every kind of query."""
    async with running() as run:
        rows = {"a": 1, "b": 2, "c": 3}
        await commit(run, *({"insert": entity("K", k, n=number(n))} for k, n in rows.items()))
        order = {"order": [{"property": {"name": "n"}, "direction": "DESCENDING"}]}
        ranged = where("n", "GREATER_THAN", number(1))
        kinds: list[dict[str, Any]] = [{"readOnly": {}}, {"readWrite": {}}]
        for options in kinds:
            transaction = await begin(run, **options)
            await commit(
                run,
                {"update": entity("K", "a", n=number(9))},
                {"delete": key("K", "b")},
                {"insert": entity("K", "bb", n=number(2))},
            )
            await commit(run, {"upsert": entity("K", "a", n=number(10))})
            keys = [key("K", name) for name in ("a", "b", "bb")]
            assert await read(run, transaction, *keys) == [{"n": number(1)}, {"n": number(2)}]
            assert await queried(run, transaction) == ["a", "b", "c"]
            assert await queried(run, transaction, **order) == ["c", "b", "a"]
            assert await queried(run, transaction, ranged) == ["b", "c"]
            assert await queried(run, transaction, where("n", "EQUAL", number(10))) == []
            assert names(await batch(run, "K", **order)) == ["a", "c", "bb"]
            await commit(
                run,
                {"update": entity("K", "a", n=number(1))},
                {"insert": entity("K", "b", n=number(2))},
                {"delete": key("K", "bb")},
            )
            await run.ok("POST", ROOT + ":rollback", {"transaction": transaction})


async def test_a_transaction_does_not_see_its_own_writes() -> None:
    """They are part of its commit."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a", n=number(1))})
        transaction = await begin(run)
        assert await read(run, transaction, key("K", "a")) == [{"n": number(1)}]
        write = writing(transaction, {"update": entity("K", "a", n=number(2))})
        await run.ok("POST", ROOT + ":commit", write)
        (found,) = (await lookup(run, key("K", "a")))["found"]
        assert found["entity"]["properties"] == {"n": number(2)}


async def test_a_read_only_transaction_is_in_nobodys_way() -> None:
    """It commits without mutations whatever was changed."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a", n=number(1))})
        transaction = await begin(run, readOnly={})
        await read(run, transaction, key("K", "a"))
        await commit(run, {"update": entity("K", "a", n=number(2))})
        answer = await run.ok("POST", ROOT + ":commit", writing(transaction))
        assert answer["mutationResults"] == []


async def test_an_unfinished_query_goes_on_in_its_transaction() -> None:
    """All batches are of one moment."""
    async with running() as run:
        run.datastore.batch_size = 2
        await commit(run, *({"insert": entity("K", name)} for name in "abcd"))
        transaction = await begin(run)
        assert await queried(run, transaction) == ["a", "b"]
        await commit(run, {"delete": key("K", "c")}, {"insert": entity("K", "cc")})
        query = {"kind": [{"name": "K"}]}
        body = {"query": query, "readOptions": {"transaction": transaction}}
        first = (await run.ok("POST", ROOT + ":runQuery", body))["batch"]
        assert first["moreResults"] == "NOT_FINISHED"
        rest = await queried(run, transaction, startCursor=first["endCursor"])
        assert rest == ["c", "d"]


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


@pytest.mark.parametrize(
    "body",
    [
        {"mutations": []},
        {"transaction": "x", "singleUseTransaction": {}},
        {"singleUseTransaction": {"readOnly": {}}},
        {"mode": "NON_TRANSACTIONAL", "transaction": "x"},
        {"mode": "SOMETIMES"},
        {"transaction": "unknown"},
    ],
)
async def test_commits_say_how_they_are_transactional(body: dict[str, Any]) -> None:
    """By one transaction, one of their own, or none."""
    async with running() as run:
        assert await run.refused("POST", ROOT + ":commit", body) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "options",
    [
        {"transaction": "unknown"},
        {"readTime": "2026-01-01T00:00:00Z"},
        {"readTime": "2999-01-01T00:00:00Z"},
        {"readTime": "yesterday"},
        {"newTransaction": {"readOnly": {"readTime": "2026-01-01T00:00:00Z"}}},
        {"newTransaction": {"readOnly": {}, "readWrite": {}}},
        {"newTransaction": {}, "readConsistency": "EVENTUAL"},
        {"readConsistency": "SOON"},
    ],
)
async def test_reads_say_what_they_see(options: dict[str, Any]) -> None:
    """One transaction, a new one, now or a time within the last hour."""
    async with running() as run:
        body = {"keys": [key("K", "a")], "readOptions": options}
        assert await run.refused("POST", ROOT + ":lookup", body) == (400, "INVALID_ARGUMENT")


async def put_later(run: Running, *mutations: dict[str, Any]) -> str:
    """Commits a minute later, and tells the time of that."""
    await asyncio.sleep(60)
    await commit(run, *mutations)
    return str((await lookup(run, key("K", "none")))["readTime"])


async def test_the_past_is_read_by_key_and_by_query() -> None:
    """What was made since is missing, what was changed or deleted is as it was."""
    async with running() as run:
        first = await put_later(run, *({"upsert": entity("K", x, n=number(1))} for x in "ab"))
        second = await put_later(run, {"upsert": entity("K", "a", n=number(2))})
        third = await put_later(run, {"delete": key("K", "b")}, {"upsert": entity("K", "c")})
        seen = []
        for time in (first, second, third):
            options = {"readTime": time}
            found = await lookup(run, key("K", "a"), readOptions=options)
            body = {"query": {"kind": [{"name": "K"}]}, "readOptions": options}
            answer = await run.ok("POST", ROOT + ":runQuery", body)
            value = found["found"][0]["entity"]["properties"]["n"]["integerValue"]
            seen.append((value, names(answer["batch"])))
            assert found["readTime"] == answer["batch"]["readTime"] == time
        assert seen == [("1", ["a", "b"]), ("2", ["a", "b"]), ("2", ["a", "c"])]


async def test_a_read_only_transaction_may_read_the_past() -> None:
    """For as long as it is open, whatever is committed."""
    async with running() as run:
        first = await put_later(run, {"upsert": entity("K", "a", n=number(1))})
        await put_later(run, {"upsert": entity("K", "a", n=number(2))})
        transaction = await begin(run, readOnly={"readTime": first})
        await put_later(run, {"upsert": entity("K", "a", n=number(3))})
        assert await read(run, transaction, key("K", "a")) == [{"n": number(1)}]
        assert await queried(run, transaction) == ["a"]


async def test_only_the_last_hour_is_remembered() -> None:
    """An earlier time is refused and not answered wrongly."""
    async with running(options=CloudOptions(token_seconds=86_400.0)) as run:
        first = await put_later(run, {"upsert": entity("K", "a", n=number(1))})
        for _ in range(59):
            await put_later(run, {"upsert": entity("K", "b", n=number(1))})
        options = {"readTime": first}
        assert "missing" not in await lookup(run, key("K", "a"), readOptions=options)
        await put_later(run, {"delete": key("K", "a")})
        await asyncio.sleep(1)
        body = {"keys": [key("K", "a")], "readOptions": options}
        assert await run.refused("POST", ROOT + ":lookup", body) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("first", "second"),
    [("insert", "insert"), ("update", "insert"), ("upsert", "insert"), ("delete", "update")],
)
async def test_some_sequences_of_mutations_make_no_sense(first: str, second: str) -> None:
    """What the API forbids for one entity in one commit is an invalid argument."""
    async with running() as run:
        if first in {"update", "delete"}:
            await commit(run, {"insert": entity("K", "a")})
        bodies = {"delete": key("K", "a")}
        sequence = [{verb: bodies.get(verb, entity("K", "a"))} for verb in (first, second)]
        body = {"singleUseTransaction": {}, "mutations": sequence}
        assert await run.refused("POST", ROOT + ":commit", body) == (400, "INVALID_ARGUMENT")
