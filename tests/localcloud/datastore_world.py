"""The embedded Datastore as its tests call it, over HTTP."""

from __future__ import annotations

from typing import Any

from support.cloud_harness import Running

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


async def begin(run: Running, **options: Any) -> str:
    """A new transaction."""
    body = {"transactionOptions": options}
    answer = await run.ok("POST", ROOT + ":beginTransaction", body)
    return str(answer["transaction"])


def writing(transaction: str, *mutations: dict[str, Any]) -> dict[str, Any]:
    """The body of a transaction's commit."""
    return {"mode": "TRANSACTIONAL", "transaction": transaction, "mutations": list(mutations)}


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


def named(name: str) -> dict[str, Any]:
    """A reference to a property: a projection, or half an order."""
    return {"property": {"name": name}}


async def refused_query(run: Running, **query: Any) -> tuple[int, str]:
    """The error of a query of kind K."""
    body = {"query": {"kind": [{"name": "K"}], **query}}
    return await run.refused("POST", ROOT + ":runQuery", body)


async def read(run: Running, transaction: str, *keys: dict[str, Any]) -> list[dict[str, Any]]:
    """The properties of the entities that a transaction finds."""
    answer = await lookup(run, *keys, readOptions={"transaction": transaction})
    return [found["entity"]["properties"] for found in answer.get("found", [])]


async def queried(run: Running, transaction: str, *filters: Any, **query: Any) -> list[str]:
    """The names that a query of kind K finds in a transaction."""
    shape: dict[str, Any] = {"kind": [{"name": "K"}], **query}
    if filters:
        shape["filter"] = {"compositeFilter": {"op": "AND", "filters": list(filters)}}
    body = {"query": shape, "readOptions": {"transaction": transaction}}
    return names((await run.ok("POST", ROOT + ":runQuery", body))["batch"])
