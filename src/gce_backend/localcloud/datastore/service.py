"""The methods of the Datastore API. Their rules are Google's datastore.v1 discovery document."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from gce_backend.localcloud.cloud import Call, Cloud, Route, Service
from gce_backend.localcloud.datastore import queries, requests
from gce_backend.localcloud.datastore.aggregations import aggregate, named, properties_of
from gce_backend.localcloud.datastore.commits import Commit, allocate_id, timestamp
from gce_backend.localcloud.datastore.cursors import cursor_after
from gce_backend.localcloud.datastore.gql import GqlParser
from gce_backend.localcloud.datastore.keys import check_database, parse_key, parse_partition
from gce_backend.localcloud.datastore.masks import parse_mask
from gce_backend.localcloud.datastore.past import ChangeLog
from gce_backend.localcloud.datastore.plans import Plan, parse_query
from gce_backend.localcloud.datastore.queries import Queries
from gce_backend.localcloud.datastore.storage import Entities, Storage
from gce_backend.localcloud.datastore.transactions import OpenTransaction, Transactions
from gce_backend.localcloud.datastore.values import parse_instant
from gce_backend.localcloud.statuses import invalid, status_body
from gce_backend.localcloud.wire import decode

MAX_REQUEST_BYTES = 10 * 2**20
BATCH_SIZE = 300
MAX_COMPOSITES = 200
"""How many composite indexes are remembered; Google allows as many by default."""

Answer = dict[str, Any]
R = TypeVar("R", bound=requests.DatastoreRequest)


class _Read(NamedTuple):
    """The entities and the moment of one read.

    Attributes:
        entities: the entities at its transaction's time, or now.
        transaction: the transaction that it is part of.
        answer: members of its answer about a new transaction.
        time: the RFC 3339 time of the entities.
    """

    entities: Entities
    transaction: OpenTransaction | None
    answer: Answer
    time: str


class DatastoreService(Service):
    """Datastore of all projects of the cloud.

    Attributes:
        defer_after: lookups answer this many keys and defer the others; None answers all.
        batch_size: the most results in one answer to a query.
    """

    name = "datastore"
    error_body = staticmethod(status_body)

    def __init__(self, cloud: Cloud) -> None:
        self.defer_after: int | None = None
        self.batch_size = BATCH_SIZE
        self._cloud = cloud
        self._storage = Storage(cloud.tables)
        self._queries = Queries()
        self._composites: set[str] = set()
        self._log = ChangeLog(cloud.clock, self._storage.version, self._instant())
        self._transactions = Transactions(cloud.clock, self._log)

    def routes(self) -> Iterable[Route]:
        """The methods of datastore.projects."""
        yield _route("lookup", requests.Lookup, self._lookup)
        yield _route("runQuery", requests.RunQuery, self._run_query)
        yield _route("runAggregationQuery", requests.RunAggregationQuery, self._run_aggregations)
        yield _route("beginTransaction", requests.BeginTransaction, self._begin_transaction)
        yield _route("commit", requests.CommitRequest, self._commit)
        yield _route("rollback", requests.Rollback, self._rollback)
        yield _route("allocateIds", requests.Keys, self._allocate_ids)
        yield _route("reserveIds", requests.Keys, self._reserve_ids)

    def state(self) -> Answer:
        """How many entities there are of each kind, what is open, and what indexes were needed."""
        return {
            "entities": self._storage.counts(),
            "version": self._storage.version,
            "open_transactions": len(self._transactions),
            "composite_indexes": sorted(self._composites),
        }

    def _lookup(self, project: str, request: requests.Lookup) -> Answer:
        keys = [parse_key(item, project) for item in request.keys]
        mask = parse_mask(request.property_mask)
        answered = len(keys) if self.defer_after is None else self.defer_after
        names = {key.name: key for key in keys[:answered]}
        read = self._read(request.read_options)
        if read.transaction is not None:
            read.transaction.names.update(names)
        found, missing = [], []
        for name, key in names.items():
            row = read.entities.get(name)
            if row is None:
                entity = {"key": key.to_json()}
                missing.append({"entity": entity, "version": str(read.entities.version)})
            else:
                found.append(row.to_json(mask))
        deferred = [key.to_json() for key in keys[answered:]]
        parts = {"found": found, "missing": missing, "deferred": deferred}
        rest = {name: part for name, part in parts.items() if part}
        return {**read.answer, **rest, "readTime": read.time}

    def _run_query(self, project: str, request: requests.RunQuery) -> Answer:
        _refuse_explanations(request.explain_options)
        query, parsed = request.query, Answer()
        if request.gql_query is not None:
            parsed, aggregations = GqlParser(request.gql_query).parse()
            if query is not None or aggregations:
                raise invalid("either a query or a GQL query that aggregates nothing is required")
            query = decode(parsed, requests.QueryMessage)
        if query is None:
            raise invalid("a query is required")
        plan = parse_query(query, parse_partition(request.partition_id, project))
        mask = parse_mask(request.property_mask)
        if mask is not None and plan.projection is not None:
            raise invalid("propertyMask cannot be set for a projection query")
        read = self._read(request.read_options, plan)
        self._note_index(plan)
        matches = self._queries.matches(plan, read.entities)
        skipped = list(islice(matches, plan.offset))
        size = self.batch_size if plan.limit is None else min(plan.limit, self.batch_size)
        results = [queries.result(plan, *match, mask) for match in islice(matches, size)]
        batch: Answer = {
            "entityResultType": plan.result_type,
            "entityResults": results,
            "endCursor": plan.start,
            "moreResults": self._more(plan, len(results)),
            "snapshotVersion": str(read.entities.version),
            "readTime": read.time,
        }
        if skipped:
            batch["skippedResults"] = len(skipped)
            batch["skippedCursor"] = batch["endCursor"] = cursor_after(plan, skipped[-1][0])
        if results:
            batch["endCursor"] = results[-1]["cursor"]
        return {**read.answer, "batch": batch, **({"query": parsed} if parsed else {})}

    def _note_index(self, plan: Plan) -> None:
        """Remembers which composite indexes whoever calls has to declare at Google's."""
        if plan.composite and len(self._composites) < MAX_COMPOSITES:
            self._composites.add(plan.composite)

    def _more(self, plan: Plan, results: int) -> str:
        if results == plan.limit:
            return "MORE_RESULTS_AFTER_LIMIT"
        if results == self.batch_size:
            return "NOT_FINISHED"
        return "MORE_RESULTS_AFTER_CURSOR" if plan.end else "NO_MORE_RESULTS"

    def _run_aggregations(self, project: str, request: requests.RunAggregationQuery) -> Answer:
        _refuse_explanations(request.explain_options)
        query, parsed = request.aggregation_query, Answer()
        if request.gql_query is not None:
            nested, aggregations = GqlParser(request.gql_query).parse()
            if query is not None or not aggregations:
                raise invalid(
                    "either an aggregationQuery or a GQL query that aggregates is required"
                )
            parsed = {"nestedQuery": nested, "aggregations": aggregations}
            query = decode(parsed, requests.AggregationQuery)
        if query is None:
            raise invalid("an aggregationQuery is required")
        wanted = named(query.aggregations)
        properties = properties_of(wanted.values())
        partition = parse_partition(request.partition_id, project)
        plan = parse_query(query.nested_query, partition, properties)
        read = self._read(request.read_options, plan)
        self._note_index(plan)
        stop = None if plan.limit is None else plan.offset + plan.limit
        matches = islice(self._queries.matches(plan, read.entities), plan.offset, stop)
        rows = [row for _, row in matches]
        results = {name: aggregate(item, rows) for name, item in wanted.items()}
        batch = {
            "aggregationResults": [{"aggregateProperties": results}],
            "moreResults": "NO_MORE_RESULTS",
            "readTime": read.time,
        }
        return {**read.answer, "batch": batch, **({"query": parsed} if parsed else {})}

    def _read(self, options: requests.ReadOptions | None, plan: Plan | None = None) -> _Read:
        options = options or requests.ReadOptions()
        name = options.transaction or ""
        answer: Answer = {}
        ways = [options.transaction, options.new_transaction, options.read_time]
        eventual = options.read_consistency == "EVENTUAL"
        if len([way for way in ways if way is not None]) + eventual > 1:
            raise invalid(
                "a read has at most one of transaction, newTransaction, readTime and eventual "
                "consistency"
            )
        if options.read_time is not None:
            instant = parse_instant(options.read_time)
            version = self._log.version_at(instant, self._instant())
            past = self._log.view(version, self._storage)
            return _Read(past, None, answer, timestamp(instant / 1e6))
        if options.new_transaction is not None:
            name = self._begin(options.new_transaction)
            answer = {"transaction": name}
        if not name:
            return _Read(self._storage, None, answer, timestamp(self._cloud.clock.now()))
        transaction = self._transactions.get(name)
        if plan is not None:
            transaction.plans.append(plan)
        entities = self._transactions.seen_by(transaction, self._storage)
        return _Read(entities, transaction, answer, timestamp(transaction.moment))

    def _begin(self, options: requests.TransactionOptions) -> str:
        if options.read_only is not None and options.read_write is not None:
            raise invalid("a transaction is either readOnly or readWrite")
        version, moment = self._storage.version, self._cloud.clock.now()
        if options.read_only is not None and options.read_only.read_time is not None:
            instant = parse_instant(options.read_only.read_time)
            version, moment = self._log.version_at(instant, self._instant()), instant / 1e6
        read_only = options.read_only is not None
        return self._transactions.begin(version, moment, read_only=read_only)

    def _instant(self) -> int:
        """Now, in microseconds since 1970, as answers write it."""
        return parse_instant(timestamp(self._cloud.clock.now()))

    def _begin_transaction(self, _: str, request: requests.BeginTransaction) -> Answer:
        return {
            "transaction": self._begin(request.transaction_options or requests.TransactionOptions())
        }

    def _commit(self, project: str, request: requests.CommitRequest) -> Answer:
        transactional = request.mode != "NON_TRANSACTIONAL"
        name = _transaction_of(request, transactional=transactional)
        mutations = request.mutations or []
        if name and self._transactions.get(name).read_only and mutations:
            raise invalid("Cannot modify entities in a read-only transaction.")
        now = self._cloud.clock.now()
        commit = Commit(self._storage, project, now, transactional=transactional)
        try:
            results = [commit.stage(mutation) for mutation in mutations]
        finally:
            if name:
                self._transactions.finish(name, commit.written)
        changes = commit.apply()
        self._log.note(self._storage.version, parse_instant(timestamp(now)), changes)
        answer: Answer = {"mutationResults": results}
        if changes:
            answer["indexUpdates"] = len(changes)
        if transactional:
            answer["commitTime"] = timestamp(now)
        return answer

    def _rollback(self, _: str, request: requests.Rollback) -> Answer:
        self._transactions.get(request.transaction)
        self._transactions.end(request.transaction)
        return {}

    def _allocate_ids(self, project: str, request: requests.Keys) -> Answer:
        keys = [parse_key(item, project, incomplete=True) for item in request.keys]
        if any(not key.incomplete for key in keys):
            raise invalid("ids are allocated for incomplete keys only")
        return {"keys": [allocate_id(self._storage, key).to_json() for key in keys]}

    def _reserve_ids(self, project: str, request: requests.Keys) -> Answer:
        for key in [parse_key(item, project) for item in request.keys]:
            self._storage.reserve(key.name)
        return {}


def _route(verb: str, kind: type[R], method: Callable[[str, R], Answer]) -> Route:
    async def handle(call: Call) -> Answer:
        if len(await call.request.read()) > MAX_REQUEST_BYTES:
            raise invalid(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
        request = decode(call.body, kind)
        check_database(request.database_id)
        # A method awaits nothing: that makes it atomic.
        return method(call.path["project"], request)

    return Route(f"datastore.projects.{verb}", "POST", f"/v1/projects/{{project}}:{verb}", handle)


def _transaction_of(request: requests.CommitRequest, *, transactional: bool) -> str:
    """The transaction that a commit ends; "" for a commit without one."""
    single = request.single_use_transaction
    if not transactional:
        if request.transaction or single is not None:
            raise invalid("a non-transactional commit cannot have a transaction")
        return ""
    if (single is None) == (not request.transaction):
        raise invalid("a transactional commit needs either a transaction or singleUseTransaction")
    if single is not None and single.read_only is not None:
        raise invalid("singleUseTransaction must be readWrite")
    return request.transaction or ""


def _refuse_explanations(explain: Any) -> None:  # unchecked JSON
    if explain is not None:
        raise invalid("the embedded cloud does not explain queries: leave explainOptions out")
