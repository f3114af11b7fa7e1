"""The embedded Datastore's queries and aggregations, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localcloud.datastore_world import (
    ROOT,
    array,
    batch,
    commit,
    entity,
    fill,
    key,
    lookup,
    named,
    names,
    number,
    refused_query,
    text,
    where,
)
from support.cloud_harness import Running, running


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
    """All conditions hold, ancestors included; equalities on several properties are merged."""
    async with running() as run:
        await fill(run)
        ancestor = where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "y")})
        tagged = where("tags", "EQUAL", text("all"))
        found = await batch(run, "K", ancestor, where("n", "EQUAL", number(1)), tagged)
        assert names(found) == ["d"]
        after = where("__key__", "GREATER_THAN", {"keyValue": key("P", "y", "K", "c")})
        assert names(await batch(run, "K", ancestor, tagged, after)) == ["d", "e"]
        both = where("n", "GREATER_THAN", number(1)), where("n", "LESS_THAN", number(5))
        assert names(await batch(run, "K", *both)) == ["c", "a"]


def either(*filters: dict[str, Any]) -> dict[str, Any]:
    """A filter of alternatives."""
    return {"compositeFilter": {"op": "OR", "filters": list(filters)}}


async def test_filters_are_joined_by_or() -> None:
    """An entity that passes two alternatives is found once, in the order of keys or of a value."""
    async with running() as run:
        await fill(run)
        low, tagged = where("n", "EQUAL", number(1)), where("tags", "EQUAL", text("d"))
        assert names(await batch(run, "K", either(low, tagged))) == ["b", "d"]
        ends = either(where("n", "LESS_THAN", number(2)), where("n", "EQUAL", number(5)))
        order = [{**named("n"), "direction": "DESCENDING"}]
        assert names(await batch(run, "K", ends, order=order)) == ["e", "b", "d"]
        of_three = where("n", "IN", array(number(1), number(3), number(5)))
        assert names(await batch(run, "K", of_three, order=[named("n")])) == ["b", "d", "a", "e"]
        other = where("n", "NOT_IN", array(number(1), number(3), text("x")))
        assert names(await batch(run, "K", other)) == ["c", "e"]


EMPTY = where("n", "EQUAL", {"nullValue": None})


def many(op: str, count: int) -> dict[str, Any]:
    """A condition on so many numbers."""
    return where("n", op, array(*(number(n) for n in range(count))))


@pytest.mark.parametrize(
    "query",
    [
        {"filter": many("IN", 0)},
        {"filter": many("IN", 31)},
        {"filter": many("NOT_IN", 11)},
        {"filter": either(many("IN", 16), many("IN", 15))},
        {"filter": either(many("NOT_IN", 1), where("n", "EQUAL", number(1)))},
        {"filter": either(*[where("n", "NOT_EQUAL", number(1))] * 2)},
        {"filter": either(where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "x")}), EMPTY)},
        {"filter": where("n", "HAS_ANCESTOR", {"keyValue": key("P", "x")})},
        {"filter": where("__key__", "EQUAL", text("a"))},
        {"filter": where("__key__", "EQUAL", {"keyValue": key("K", "a", namespace="n")})},
        {"filter": where("n", "EQUAL", array(number(1)))},
        {"filter": where("n", "LIKE", number(1))},
        {"filter": {"compositeFilter": {"op": "AND", "filters": []}}},
        {"filter": {}},
        {"filter": where("n", "LESS_THAN", number(1)), "order": [named("tags")]},
        {"filter": where("n", "EQUAL", number(1)), "projection": [named("n")]},
        {"kind": [{"name": "K"}, {"name": "L"}]},
        {"kind": [], "order": [named("n")]},
        {"kind": [{"name": "__kind__"}]},
        {"limit": -1},
        {"offset": "many"},
        {"startCursor": "bm9uc2Vuc2U="},
        {"startCursor": "WzFd"},
        {"startCursor": "W1s1LCAxXSwgW11d", "order": [named("n")]},
        {"startCursor": "é"},
        {"findNearest": {}},
        {"order": [{"property": "n"}]},
        {"unknown": 1},
    ],
)
async def test_queries_keep_the_rules(query: dict[str, Any]) -> None:
    """What Google refuses, or is not there, is refused with 400 INVALID_ARGUMENT."""
    async with running() as run:
        await fill(run)
        assert await refused_query(run, **query) == (400, "INVALID_ARGUMENT")


UNDER_X = where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "x")})
AFTER_X = where("__key__", "GREATER_THAN", {"keyValue": key("P", "x")})
LOW = where("n", "LESS_THAN", number(3))
TAGGED = where("tags", "EQUAL", text("all"))
DOWN = {**named("n"), "direction": "DESCENDING"}
BY_KEY_DOWN = {**named("__key__"), "direction": "DESCENDING"}


def both(*filters: dict[str, Any]) -> dict[str, Any]:
    """A filter of conditions that all hold."""
    return {"compositeFilter": {"op": "AND", "filters": list(filters)}}


@pytest.mark.parametrize(
    ("query", "index", "expected"),
    [
        (
            {"filter": both(TAGGED, LOW)},
            "  properties:\n  - name: tags\n  - name: n\n",
            ["b", "d", "c"],
        ),
        (
            {"filter": both(UNDER_X, LOW)},
            "  ancestor: yes\n  properties:\n  - name: n\n",
            ["b"],
        ),
        (
            {"filter": TAGGED, "order": [DOWN]},
            "  properties:\n  - name: tags\n  - name: n\n    direction: desc\n",
            ["e", "a", "c", "b", "d"],
        ),
        (
            {"order": [BY_KEY_DOWN]},
            "  properties:\n  - name: __key__\n    direction: desc\n",
            ["e", "d", "c", "b", "a"],
        ),
        (
            {"order": [named("n"), BY_KEY_DOWN]},
            "  properties:\n  - name: n\n  - name: __key__\n    direction: desc\n",
            ["d", "b", "c", "a", "e"],
        ),
        (
            {"order": [named("n"), {**named("tags"), "direction": "DESCENDING"}]},
            "  properties:\n  - name: n\n  - name: tags\n    direction: desc\n",
            ["d", "b", "c", "a", "e"],
        ),
        (
            {"projection": [named("n"), named("tags")]},
            "  properties:\n  - name: n\n  - name: tags\n",
            ["b", "d", "b", "d", "c", "c", "a", "a", "e", "e"],
        ),
        (
            {"filter": both(LOW, where("m", "LESS_THAN", number(1)))},
            "  properties:\n  - name: n\n  - name: m\n",
            [],
        ),
        ({"filter": both(LOW, AFTER_X)}, "  properties:\n  - name: n\n", ["b", "d", "c"]),
    ],
)
async def test_composite_indexes_are_served_as_if_declared(
    query: dict[str, Any], index: str, expected: list[str]
) -> None:
    """In one go and from cursor to cursor; the state names the index that Google would want."""
    async with running() as run:
        await fill(run)
        assert names(await batch(run, "K", **query)) == expected
        run.datastore.batch_size = 1
        seen: list[str] = []
        found = await batch(run, "K", **query)
        while found["entityResults"]:
            seen += names(found)
            found = await batch(run, "K", **query, startCursor=found["endCursor"])
        assert seen == expected
        assert run.datastore.state()["composite_indexes"] == [f"- kind: K\n{index}"]


async def test_a_projection_of_two_properties_gives_the_values_of_each_result() -> None:
    """Each pair that the arrays make; distinctOn of the first keeps one result for each of it."""
    async with running() as run:
        await fill(run)
        query: dict[str, Any] = {"projection": [named("n"), named("tags")]}
        found = await batch(run, "K", LOW, **query, limit=3)
        assert [result["entity"]["properties"] for result in found["entityResults"]] == [
            {"n": number(1), "tags": text("all")},
            {"n": number(1), "tags": text("all")},
            {"n": number(1), "tags": text("b")},
        ]
        once = await batch(run, "K", **query, distinctOn=[{"name": "n"}])
        assert names(once) == ["b", "c", "a", "e"]
        both_once = await batch(run, "K", **query, distinctOn=[{"name": "n"}, {"name": "tags"}])
        assert names(both_once) == ["b", "b", "d", "c", "c", "a", "a", "e", "e"]
        late = {**query, "distinctOn": [{"name": "tags"}], "order": [named("n")]}
        assert await refused_query(run, **late) == (400, "INVALID_ARGUMENT")


async def test_what_built_in_indexes_answer_needs_no_other() -> None:
    """Nothing is named as an index to declare."""
    async with running() as run:
        await fill(run)
        for query in ({"filter": both(TAGGED, UNDER_X)}, {"filter": LOW}, {"order": [DOWN]}):
            await batch(run, "K", **query)
        assert run.datastore.state()["composite_indexes"] == []


async def test_pages_after_a_key() -> None:
    """A range of keys with a limit, keys only: what paging by key needs."""
    async with running() as run:
        await commit(run, *({"insert": entity("K", f"{n:03}", n=number(n))} for n in range(40)))
        query = {"projection": [named("__key__")], "order": [named("__key__")], "limit": 7}
        seen: list[str] = []
        while True:
            after = {"keyValue": key("K", seen[-1] if seen else " ")}
            found = await batch(run, "K", where("__key__", "GREATER_THAN", after), **query)
            assert found["entityResultType"] == "KEY_ONLY"
            if not names(found):
                break
            seen += names(found)
        assert seen == [f"{n:03}" for n in range(40)]
        low, high = {"keyValue": key("K", "010")}, {"keyValue": key("K", "012")}
        edges = (
            where("__key__", "GREATER_THAN_OR_EQUAL", low),
            where("__key__", "LESS_THAN_OR_EQUAL", high),
        )
        assert names(await batch(run, "K", *edges)) == ["010", "011", "012"]
        edges = where("__key__", "GREATER_THAN", low), where("__key__", "LESS_THAN", high)
        assert names(await batch(run, "K", *edges)) == ["011"]


async def test_queries_without_a_kind_see_all_kinds() -> None:
    """Under an ancestor, and by key."""
    async with running() as run:
        await fill(run)
        body = {"query": {"filter": UNDER_X}}
        answer = await run.ok("POST", ROOT + ":runQuery", body)
        assert names(answer["batch"]) == ["a", "b"]
        last = where("__key__", "GREATER_THAN", {"keyValue": key("P", "x", "K", "b")})
        answer = await run.ok("POST", ROOT + ":runQuery", {"query": {"filter": last}})
        assert names(answer["batch"]) == ["c", "d", "e"]


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
        assert skipped["skippedCursor"] == first["entityResults"][0]["cursor"]
        upto = await batch(run, "K", order=order, endCursor=skipped["endCursor"])
        assert names(upto) == ["e", "a"]
        assert upto["moreResults"] == "MORE_RESULTS_AFTER_CURSOR"


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


async def tagged(run: Running) -> None:
    """Entities whose tags are lists."""
    rows = {"a": (1, 9), "b": (2,), "c": (9, 3), "none": ()}
    mutations = [
        {"insert": entity("K", name, t=array(*map(number, tags)))} for name, tags in rows.items()
    ]
    hidden = entity("K", "hidden", t={**number(5), "excludeFromIndexes": True})
    await commit(run, *mutations, {"insert": hidden}, {"insert": entity("K", "absent")})


async def test_projections() -> None:
    """Keys only, or an indexed property of the entities that have it, in the index's order."""
    async with running() as run:
        await fill(run)
        only = await batch(run, "K", projection=[named("__key__")], limit=1)
        assert only["entityResultType"] == "KEY_ONLY"
        assert "properties" not in only["entityResults"][0]["entity"]
        some = await batch(run, "K", projection=[named("n")], limit=1)
        assert some["entityResultType"] == "PROJECTION"
        assert some["entityResults"][0]["entity"]["properties"] == {"n": number(1)}
        none = await batch(run, "K", projection=[named("hidden")])
        assert none["entityResults"] == []


async def projected(run: Running, **query: Any) -> list[tuple[str, str]]:
    """Names and values of a projection of t."""
    found = await batch(run, "K", projection=[named("t")], **query)
    values = [
        result["entity"]["properties"]["t"]["integerValue"] for result in found["entityResults"]
    ]
    return list(zip(names(found), values, strict=True))


async def test_projected_arrays_give_a_result_for_each_value() -> None:
    """Only for values within the range; distinctOn keeps the first result of each value."""
    async with running() as run:
        await tagged(run)
        everything = [("a", "1"), ("b", "2"), ("c", "3"), ("a", "9"), ("c", "9")]
        assert await projected(run) == everything
        high = where("t", "GREATER_THAN", number(2))
        assert await projected(run, filter=high) == everything[2:]
        assert await projected(run, distinctOn=[{"name": "t"}]) == everything[:4]
        found = await batch(run, "K", projection=[named("t")], limit=4)
        rest = await projected(run, startCursor=found["endCursor"])
        assert rest == everything[4:]


async def test_arrays_are_filtered_and_sorted_by_their_values() -> None:
    """Equalities match any values, a range one value; the value in the range is what sorts."""
    async with running() as run:
        await tagged(run)
        two = where("t", "EQUAL", number(1)), where("t", "EQUAL", number(9))
        assert names(await batch(run, "K", *two)) == ["a"]
        between = where("t", "GREATER_THAN", number(3)), where("t", "LESS_THAN", number(9))
        assert names(await batch(run, "K", *between)) == []
        assert names(await batch(run, "K", order=[named("t")])) == ["a", "b", "c"]
        order = [{**named("t"), "direction": "DESCENDING"}]
        assert names(await batch(run, "K", order=order)) == ["a", "c", "b"]
        high = where("t", "GREATER_THAN", number(1))
        assert names(await batch(run, "K", high, order=[named("t")])) == ["b", "c", "a"]


async def test_unindexed_and_absent_values_are_invisible() -> None:
    """To filters, orders and projections; a null is a value."""
    async with running() as run:
        await tagged(run)
        inner = {"entityValue": {"properties": {"x": number(1)}}}
        await commit(
            run,
            {"insert": entity("K", "null", t={"nullValue": None})},
            {"insert": entity("K", "entity", t=inner)},
        )
        seen = names(await batch(run, "K", order=[named("t")]))
        assert seen == ["null", "a", "b", "c"]
        assert names(await batch(run, "K", where("t", "EQUAL", number(5)))) == []
        assert names(await batch(run, "K", where("t", "EQUAL", {"nullValue": None}))) == ["null"]


async def test_masks_leave_properties_out() -> None:
    """Of lookups and of queries, down into entity values."""
    async with running() as run:
        inner = {"entityValue": {"properties": {"x": number(1), "y": number(2)}}}
        properties = {"n": number(1), "e": inner, "d.t": text("t")}
        await commit(run, {"insert": {"key": key("K", "a"), "properties": properties}})
        mask = {"propertyMask": {"paths": ["e.y", "d\\.t", "absent.x"]}}
        wanted = {"e": {"entityValue": {"properties": {"y": number(2)}}}, "d.t": text("t")}
        (found,) = (await lookup(run, key("K", "a"), **mask))["found"]
        assert found["entity"]["properties"] == wanted
        body = {"query": {"kind": [{"name": "K"}]}, **mask}
        answer = await run.ok("POST", ROOT + ":runQuery", body)
        assert answer["batch"]["entityResults"][0]["entity"]["properties"] == wanted
        projecting = {"kind": [{"name": "K"}], "projection": [named("n")]}
        for wrong in ({**body, "query": projecting}, {**body, "propertyMask": {"paths": ["e."]}}):
            assert (await run.refused("POST", ROOT + ":runQuery", wrong))[0] == 400


async def test_namespaces_are_apart() -> None:
    """A query sees its own namespace only."""
    async with running() as run:
        await commit(run, {"insert": entity("K", "a")}, {"insert": entity("K", "b", namespace="n")})
        body = {"query": {"kind": [{"name": "K"}]}, "partitionId": {"namespaceId": "n"}}
        found = await run.ok("POST", ROOT + ":runQuery", body)
        assert names(found["batch"]) == ["b"]
        assert names(await batch(run, "K")) == ["a"]


async def aggregated(run: Running, *wanted: Any, **query: Any) -> dict[str, Any]:
    """The results of aggregations over entities of kind K."""
    nested = {"kind": [{"name": "K"}], **query}
    body = {"aggregationQuery": {"aggregations": list(wanted), "nestedQuery": nested}}
    answer = await run.ok("POST", ROOT + ":runAggregationQuery", body)
    (found,) = answer["batch"]["aggregationResults"]
    properties: dict[str, Any] = found["aggregateProperties"]
    return properties


async def test_counts() -> None:
    """An aggregation counts what the nested query finds, up to a number."""
    async with running() as run:
        await fill(run)
        total = {"alias": "total", "count": {}}
        some = where("n", "EQUAL", number(1))
        assert await aggregated(run, total, filter=some) == {"total": number(2)}
        assert await aggregated(run, total, limit=4, offset=2) == {"total": number(3)}
        several = [{"count": {"upTo": "0"}}, total, {"count": {"upTo": "3"}}]
        assert await aggregated(run, *several) == {
            "property_1": number(0),
            "total": number(5),
            "property_2": number(3),
        }


async def test_sums_and_averages() -> None:
    """Of numbers; entities without the property count for nothing, other values neither."""
    async with running() as run:
        await fill(run)
        everything = [{"sum": named("n")}, {"avg": named("n")}, {"count": {}}]
        await commit(
            run,
            {"insert": entity("K", "text", n=text("7"))},
            {"insert": entity("K", "absent")},
        )
        assert await aggregated(run, *everything) == {
            "property_1": number(12),
            "property_2": {"doubleValue": 2.4},
            "property_3": number(6),
        }
        await commit(run, {"insert": entity("K", "half", n={"doubleValue": 0.5})})
        assert (await aggregated(run, everything[0]))["property_1"] == {"doubleValue": 12.5}
        await commit(run, {"insert": entity("K", "odd", n={"doubleValue": "NaN"})})
        assert (await aggregated(run, everything[1]))["property_1"] == {"doubleValue": "NaN"}
        pair = [{"sum": named("n")}, {"avg": named("absent")}]
        assert (await aggregated(run, *pair))["property_1"] == number(0)  # nobody has both
        nothing = [{"name": "Nothing"}]
        assert await aggregated(run, *everything, kind=nothing) == {
            "property_1": number(0),
            "property_2": {"nullValue": None},
            "property_3": number(0),
        }


@pytest.mark.parametrize(
    ("aggregations", "word"),
    [
        ([], "INVALID_ARGUMENT"),
        ([{"count": {}}] * 6, "INVALID_ARGUMENT"),
        ([{"count": {}, "sum": named("n")}], "INVALID_ARGUMENT"),
        ([{"count": {"upTo": -1}}], "INVALID_ARGUMENT"),
        ([{"alias": "a", "count": {}}] * 2, "INVALID_ARGUMENT"),
    ],
)
async def test_aggregations_keep_the_rules(aggregations: list[Any], word: str) -> None:
    """One to five, each of one kind and name."""
    async with running() as run:
        nested = {"kind": [{"name": "K"}]}
        body = {"aggregationQuery": {"aggregations": aggregations, "nestedQuery": nested}}
        assert await run.refused("POST", ROOT + ":runAggregationQuery", body) == (400, word)
