"""GQL at the embedded Datastore: as the plain query that says the same."""

from __future__ import annotations

from typing import Any

import pytest

from localcloud.datastore_world import ROOT, array, fill, key, named, names, number, text, where
from support.cloud_harness import Running, running

N_DOWN = [{**named("n"), "direction": "DESCENDING"}]
UNDER_X = where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "x")})


async def asked(run: Running, string: str, method: str = "runQuery", **more: Any) -> Any:
    """The answer to a GQL query."""
    gql = {"queryString": string, "allowLiterals": True, **more}
    return await run.ok("POST", f"{ROOT}:{method}", {"gqlQuery": gql})


def both(*filters: dict[str, Any]) -> dict[str, Any]:
    """A filter of conditions that all hold."""
    return {"compositeFilter": {"op": "AND", "filters": list(filters)}}


@pytest.mark.parametrize(
    ("string", "query"),
    [
        ("SELECT * FROM K", {}),
        ("select * from `K` order by n desc", {"order": N_DOWN}),
        ("SELECT __key__ FROM K", {"projection": [named("__key__")]}),
        ("SELECT n FROM K", {"projection": [named("n")]}),
        (
            "SELECT DISTINCT n FROM K",
            {"projection": [named("n")], "distinctOn": [{"name": "n"}]},
        ),
        (
            "SELECT DISTINCT ON (n) n, tags FROM K",
            {"projection": [named("n"), named("tags")], "distinctOn": [{"name": "n"}]},
        ),
        ("SELECT * FROM K WHERE n = 1", {"filter": where("n", "EQUAL", number(1))}),
        ("SELECT * FROM K WHERE n != 1", {"filter": where("n", "NOT_EQUAL", number(1))}),
        (
            "SELECT * FROM K WHERE n >= 2 AND n < 5",
            {
                "filter": both(
                    where("n", "GREATER_THAN_OR_EQUAL", number(2)),
                    where("n", "LESS_THAN", number(5)),
                )
            },
        ),
        (
            "SELECT * FROM K WHERE (n = 5 OR n <= 1) AND tags CONTAINS 'all'",
            {
                "filter": both(
                    {
                        "compositeFilter": {
                            "op": "OR",
                            "filters": [
                                where("n", "EQUAL", number(5)),
                                where("n", "LESS_THAN_OR_EQUAL", number(1)),
                            ],
                        }
                    },
                    where("tags", "EQUAL", text("all")),
                )
            },
        ),
        (
            "SELECT * FROM K WHERE n IN ARRAY(1, 5) ORDER BY n ASC, __key__ DESC",
            {
                "filter": where("n", "IN", array(number(1), number(5))),
                "order": [named("n"), {**named("__key__"), "direction": "DESCENDING"}],
            },
        ),
        ("SELECT * FROM K WHERE n NOT IN (1)", {"filter": where("n", "NOT_IN", array(number(1)))}),
        ("SELECT * FROM K WHERE n IS NULL", {"filter": where("n", "EQUAL", {"nullValue": None})}),
        ("SELECT * FROM K WHERE __key__ HAS ANCESTOR KEY(P, 'x')", {"filter": UNDER_X}),
        (
            "SELECT * FROM K WHERE __key__ = KEY(NAMESPACE(''), 'P', \"y\", `K`, 'd')",
            {"filter": where("__key__", "EQUAL", {"keyValue": key("P", "y", "K", "d")})},
        ),
        (
            "SELECT * FROM K ORDER BY n LIMIT 2 OFFSET 1",
            {"order": [named("n")], "limit": 2, "offset": 1},
        ),
        ("SELECT * WHERE __key__ HAS ANCESTOR KEY(P, 'x')", {"kind": [], "filter": UNDER_X}),
    ],
)
async def test_gql_finds_what_the_plain_query_finds(string: str, query: dict[str, Any]) -> None:
    """Results, their kind, and the parsed query in the answer, which finds the same again."""
    async with running() as run:
        await fill(run)
        plain = await run.ok(
            "POST", ROOT + ":runQuery", {"query": {"kind": [{"name": "K"}], **query}}
        )
        answer = await asked(run, string)
        again = await run.ok("POST", ROOT + ":runQuery", {"query": answer["query"]})
        for other in (answer, again):
            for member in ("entityResults", "entityResultType", "moreResults"):
                assert other["batch"][member] == plain["batch"][member]


async def test_values_are_bound_by_name_and_by_number() -> None:
    """Without literals, too; limits, offsets and cursors among them."""
    async with running() as run:
        await fill(run)
        found = await asked(
            run,
            "SELECT * FROM K WHERE n >= @1 AND n <= @most ORDER BY n LIMIT @2",
            allowLiterals=False,
            positionalBindings=[{"value": number(1)}, {"value": number(2)}],
            namedBindings={"most": {"value": number(3)}, "unused": {"value": number(9)}},
        )
        assert names(found["batch"]) == ["b", "d"]
        on = {"after": {"cursor": found["batch"]["endCursor"]}}
        where_on = "SELECT * FROM K WHERE n >= 1 AND n <= 3 ORDER BY n "
        rest = await asked(run, where_on + "OFFSET @after", namedBindings=on)
        assert names(rest["batch"]) == ["c", "a"]
        rest = await asked(run, where_on + "OFFSET @after + 1", namedBindings=on)
        assert names(rest["batch"]) == ["a"]
        first = await asked(run, where_on + "LIMIT @after", namedBindings=on)
        assert names(first["batch"]) == ["b", "d"]


@pytest.mark.parametrize(
    "string",
    [
        "SELECT COUNT(*), SUM(n) AS total, AVG(n), COUNT_UP_TO(2) AS few FROM K",
        "AGGREGATE COUNT(*), SUM(n) AS total, AVG(n), COUNT_UP_TO(2) AS few OVER (SELECT * FROM K)",
    ],
)
async def test_gql_aggregates(string: str) -> None:
    """In both forms that the reference has."""
    async with running() as run:
        await fill(run)
        answer = await asked(run, string, "runAggregationQuery")
        (found,) = answer["batch"]["aggregationResults"]
        assert found["aggregateProperties"] == {
            "property_1": number(5),
            "total": number(12),
            "property_2": {"doubleValue": 2.4},
            "few": number(2),
        }
        assert len(answer["query"]["aggregations"]) == 4


async def test_literals_of_every_type() -> None:
    """As the JSON value that they stand for."""
    string = (
        "SELECT * FROM K WHERE a = -1 AND b = 1.5e3 AND c = 'it\\'s' AND d = TRUE"
        " AND e = DATETIME('2026-01-01T00:00:00Z') AND f = BLOB('AAE=')"
        " AND g.h = \"\\\\\" AND i = KEY(PROJECT('p'), K, 7)"
    )
    async with running() as run:
        answer = await asked(run, string)
        filters = answer["query"]["filter"]["compositeFilter"]["filters"]
        assert [item["propertyFilter"]["value"] for item in filters] == [
            number(-1),
            {"doubleValue": 1500.0},
            text("it's"),
            {"booleanValue": True},
            {"timestampValue": "2026-01-01T00:00:00Z"},
            {"blobValue": "AAE="},
            text("\\"),
            {"keyValue": {"partitionId": {"projectId": "p"}, "path": [{"kind": "K", "id": "7"}]}},
        ]
        assert filters[6]["propertyFilter"]["property"] == {"name": "g.h"}


@pytest.mark.parametrize(
    "gql",
    [
        {"queryString": ""},
        {"queryString": "SELECT"},
        {"queryString": "DELETE FROM K"},
        {"queryString": "SELECT * FROM K WHERE"},
        {"queryString": "SELECT * FROM K WHERE n"},
        {"queryString": "SELECT * FROM K WHERE n = 'open"},
        {"queryString": "SELECT * FROM K WHERE n LIKE 'x'"},
        {"queryString": "SELECT * FROM K; SELECT * FROM K"},
        {"queryString": "SELECT * FROM K LIMIT -1"},
        {"queryString": "SELECT * FROM K LIMIT @a", "namedBindings": {"a": {"value": text("x")}}},
        {"queryString": "SELECT * FROM K WHERE n = @1"},
        {"queryString": "SELECT * FROM K WHERE n = @name"},
        {"queryString": "SELECT * FROM K", "positionalBindings": [{"value": number(1)}]},
        {"queryString": "SELECT * FROM K WHERE n = 1", "allowLiterals": False},
        {"queryString": "SELECT COUNT(*) FROM K"},
        {"queryString": "SELECT * FROM K WHERE " + "(" * 5000},
        {"queryString": "SELECT * FROM K WHERE n = " + "ARRAY(" * 5000},
        {"queryString": "SELECT * FROM K WHERE n = BLOB(7)"},
        {"queryString": "SELECT * FROM K" + " " * 100_000},
        {"queryString": "SELECT * FROM K LIMIT " + "9" * 5000},
        {"queryString": "SELECT * FROM K WHERE n = " + "9" * 5000},
        {"queryString": "SELECT * FROM K WHERE n = @" + "9" * 5000},
        {"queryString": 7},
    ],
)
async def test_what_is_no_gql_is_refused(gql: dict[str, Any]) -> None:
    """With 400 INVALID_ARGUMENT, whatever it is."""
    async with running() as run:
        body = {"gqlQuery": {"allowLiterals": True, **gql}}
        assert await run.refused("POST", ROOT + ":runQuery", body) == (400, "INVALID_ARGUMENT")


async def test_a_request_has_one_query() -> None:
    """A plain one or a GQL one, of the method's kind."""
    async with running() as run:
        gql = {"queryString": "SELECT * FROM K"}
        for method, body in (
            ("runQuery", {"gqlQuery": gql, "query": {"kind": [{"name": "K"}]}}),
            ("runAggregationQuery", {"gqlQuery": gql}),
            ("runAggregationQuery", {}),
            ("runQuery", {}),
        ):
            refused = await run.refused("POST", f"{ROOT}:{method}", body)
            assert refused == (400, "INVALID_ARGUMENT")
