"""The requests of the Datastore API, from its discovery document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from gce_backend.localcloud.wire import RequestMessage

MAX_KEYS = 1000
MAX_AGGREGATIONS = 5
MAX_GQL = 100_000
"""Characters of a GQL query."""

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


class KindExpression(RequestMessage):
    """KindExpression."""

    name: str


class Property(RequestMessage):
    """PropertyReference."""

    name: str


class PropertyReference(RequestMessage):
    """Projection."""

    property: Property


class PropertyFilter(RequestMessage):
    """PropertyFilter."""

    property: Property
    op: Operator
    value: Json


class CompositeFilter(RequestMessage):
    """CompositeFilter."""

    op: Literal["AND", "OR"]
    filters: Annotated[list[FilterMessage], msgspec.Meta(min_length=1)]


class FilterMessage(RequestMessage):
    """Filter."""

    composite_filter: CompositeFilter | None = None
    property_filter: PropertyFilter | None = None


class Order(RequestMessage):
    """PropertyOrder."""

    property: Property
    direction: Literal["DIRECTION_UNSPECIFIED", "ASCENDING", "DESCENDING"] | None = None


class QueryMessage(RequestMessage):
    """Query."""

    kind: Annotated[list[KindExpression], msgspec.Meta(max_length=1)] | None = None
    filter: FilterMessage | None = None
    order: list[Order] | None = None
    projection: list[PropertyReference] | None = None
    distinct_on: list[Property] | None = None
    limit: Count | None = None
    offset: Count | None = None
    start_cursor: Bytes | None = None
    end_cursor: Bytes | None = None
    find_nearest: Json | None = None


class UpTo(RequestMessage):
    """Count."""

    up_to: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class Aggregation(RequestMessage):
    """Aggregation."""

    alias: str | None = None
    count: UpTo | None = None
    sum: PropertyReference | None = None
    avg: PropertyReference | None = None


class AggregationQuery(RequestMessage):
    """AggregationQuery."""

    nested_query: QueryMessage
    aggregations: Annotated[
        list[Aggregation], msgspec.Meta(min_length=1, max_length=MAX_AGGREGATIONS)
    ]


class GqlParameter(RequestMessage):
    """GqlQueryParameter."""

    value: Json | None = None
    cursor: Bytes | None = None


class GqlQuery(RequestMessage):
    """GqlQuery."""

    query_string: Annotated[str, msgspec.Meta(max_length=MAX_GQL)]
    allow_literals: bool | None = None
    named_bindings: dict[str, GqlParameter] | None = None
    positional_bindings: list[GqlParameter] | None = None


class PropertyMask(RequestMessage):
    """PropertyMask."""

    paths: list[str] | None = None


class ReadWrite(RequestMessage):
    """ReadWrite."""

    previous_transaction: Bytes | None = None


class ReadOnly(RequestMessage):
    """ReadOnly."""

    read_time: str | None = None


class TransactionOptions(RequestMessage):
    """TransactionOptions."""

    read_write: ReadWrite | None = None
    read_only: ReadOnly | None = None


class ReadOptions(RequestMessage):
    """ReadOptions."""

    read_consistency: Literal["READ_CONSISTENCY_UNSPECIFIED", "STRONG", "EVENTUAL"] | None = None
    transaction: Bytes | None = None
    new_transaction: TransactionOptions | None = None
    read_time: str | None = None


class Mutation(RequestMessage):
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


class DatastoreRequest(RequestMessage, kw_only=True):
    """The members of all requests."""

    database_id: str | None = None
    request_options: Json | None = None


class Lookup(DatastoreRequest):
    """LookupRequest."""

    keys: Annotated[list[Json], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]
    property_mask: PropertyMask | None = None
    read_options: ReadOptions | None = None


class _Querying(DatastoreRequest, kw_only=True):
    partition_id: Json | None = None
    read_options: ReadOptions | None = None
    gql_query: GqlQuery | None = None
    explain_options: Json | None = None


class RunQuery(_Querying):
    """RunQueryRequest."""

    query: QueryMessage | None = None
    property_mask: PropertyMask | None = None


class RunAggregationQuery(_Querying):
    """RunAggregationQueryRequest."""

    aggregation_query: AggregationQuery | None = None


class BeginTransaction(DatastoreRequest):
    """BeginTransactionRequest."""

    transaction_options: TransactionOptions | None = None


class CommitRequest(DatastoreRequest):
    """CommitRequest."""

    mode: Literal["MODE_UNSPECIFIED", "TRANSACTIONAL", "NON_TRANSACTIONAL"] | None = None
    mutations: list[Mutation] | None = None
    transaction: Bytes | None = None
    single_use_transaction: TransactionOptions | None = None


class Rollback(DatastoreRequest):
    """RollbackRequest."""

    transaction: Bytes


class Keys(DatastoreRequest):
    """AllocateIdsRequest and ReserveIdsRequest."""

    keys: Annotated[list[Json], msgspec.Meta(min_length=1)]
