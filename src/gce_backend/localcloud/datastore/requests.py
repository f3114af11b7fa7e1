"""What the requests of the Datastore API look like; from its discovery document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from gce_backend.localcloud.wire import Message

MAX_KEYS = 1000
MAX_MUTATIONS = 500
MAX_AGGREGATIONS = 5

Json: TypeAlias = dict[str, Any]
Bytes: TypeAlias = Annotated[
    str, msgspec.Meta(pattern="^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2,3}={0,2})?$")
]
"""Base64 of either alphabet."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Operator: TypeAlias = Literal[
    "LESS_THAN",
    "LESS_THAN_OR_EQUAL",
    "GREATER_THAN",
    "GREATER_THAN_OR_EQUAL",
    "EQUAL",
    "IN",
    "NOT_EQUAL",
    "HAS_ANCESTOR",
    "NOT_IN",
]


class Kind(Message):
    """KindExpression."""

    name: str


class Property(Message):
    """PropertyReference."""

    name: str


class Named(Message):
    """Projection."""

    property: Property


class PropertyFilter(Message):
    """PropertyFilter."""

    property: Property
    op: Operator
    value: Json


class CompositeFilter(Message):
    """CompositeFilter."""

    op: Literal["AND", "OR"]
    filters: Annotated[list[Filter], msgspec.Meta(min_length=1)]


class Filter(Message):
    """Filter."""

    composite_filter: CompositeFilter | None = None
    property_filter: PropertyFilter | None = None


class Order(Message):
    """PropertyOrder."""

    property: Property
    direction: Literal["DIRECTION_UNSPECIFIED", "ASCENDING", "DESCENDING"] | None = None


class Query(Message):
    """Query."""

    kind: Annotated[list[Kind], msgspec.Meta(max_length=1)] | None = None
    filter: Filter | None = None
    order: list[Order] | None = None
    projection: list[Named] | None = None
    distinct_on: list[Property] | None = None
    limit: Count | None = None
    offset: Count | None = None
    start_cursor: Bytes | None = None
    end_cursor: Bytes | None = None
    find_nearest: Json | None = None


class UpTo(Message):
    """Count."""

    up_to: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class Aggregation(Message):
    """Aggregation."""

    alias: str | None = None
    count: UpTo | None = None
    sum: Named | None = None
    avg: Named | None = None


class AggregationQuery(Message):
    """AggregationQuery."""

    nested_query: Query
    aggregations: Annotated[
        list[Aggregation], msgspec.Meta(min_length=1, max_length=MAX_AGGREGATIONS)
    ]


class PropertyMask(Message):
    """PropertyMask."""

    paths: list[str] | None = None


class ReadWrite(Message):
    """ReadWrite."""

    previous_transaction: Bytes | None = None


class ReadOnly(Message):
    """ReadOnly."""

    read_time: str | None = None


class TransactionOptions(Message):
    """TransactionOptions."""

    read_write: ReadWrite | None = None
    read_only: ReadOnly | None = None


class ReadOptions(Message):
    """ReadOptions."""

    read_consistency: Literal["READ_CONSISTENCY_UNSPECIFIED", "STRONG", "EVENTUAL"] | None = None
    transaction: Bytes | None = None
    new_transaction: TransactionOptions | None = None
    read_time: str | None = None


class Mutation(Message):
    """Mutation."""

    insert: Json | None = None
    update: Json | None = None
    upsert: Json | None = None
    delete: Json | None = None
    base_version: Annotated[int, msgspec.Meta(le=2**63 - 1)] | None = None
    update_time: str | None = None
    conflict_resolution_strategy: Literal["STRATEGY_UNSPECIFIED", "SERVER_VALUE", "FAIL"] | None = (
        None
    )
    property_mask: PropertyMask | None = None
    property_transforms: list[Json] | None = None


class Request(Message, kw_only=True):
    """What all requests have."""

    database_id: str | None = None
    request_options: Json | None = None


class Lookup(Request):
    """LookupRequest."""

    keys: Annotated[list[Json], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]
    property_mask: PropertyMask | None = None
    read_options: ReadOptions | None = None


class _Querying(Request, kw_only=True):
    partition_id: Json | None = None
    read_options: ReadOptions | None = None
    gql_query: Json | None = None
    explain_options: Json | None = None


class RunQuery(_Querying):
    """RunQueryRequest."""

    query: Query | None = None
    property_mask: PropertyMask | None = None


class RunAggregationQuery(_Querying):
    """RunAggregationQueryRequest."""

    aggregation_query: AggregationQuery | None = None


class BeginTransaction(Request):
    """BeginTransactionRequest."""

    transaction_options: TransactionOptions | None = None


class Commit(Request):
    """CommitRequest."""

    mode: Literal["MODE_UNSPECIFIED", "TRANSACTIONAL", "NON_TRANSACTIONAL"] | None = None
    mutations: Annotated[list[Mutation], msgspec.Meta(max_length=MAX_MUTATIONS)] | None = None
    transaction: Bytes | None = None
    single_use_transaction: TransactionOptions | None = None


class Rollback(Request):
    """RollbackRequest."""

    transaction: Bytes


class Keys(Request):
    """AllocateIdsRequest and ReserveIdsRequest."""

    keys: Annotated[list[Json], msgspec.Meta(min_length=1)]
