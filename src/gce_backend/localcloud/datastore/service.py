"""The methods of the Datastore API. Their rules are Google's datastore.v1 discovery document."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud, Route, ServiceError
from gce_backend.localcloud.datastore import queries
from gce_backend.localcloud.datastore.commits import (
    MAX_MUTATIONS,
    Commit,
    allocate_id,
    timestamp,
)
from gce_backend.localcloud.datastore.keys import Key, parse_key, parse_partition
from gce_backend.localcloud.datastore.queries import Plan, Queries
from gce_backend.localcloud.datastore.storage import Storage
from gce_backend.localcloud.datastore.transactions import Transactions
from gce_backend.localcloud.statuses import invalid, status_body

MAX_REQUEST_BYTES = 10 * 2**20
MAX_KEYS = 1000
BATCH_SIZE = 300

Answer = dict[str, Any]


class DatastoreService:
    """Datastore of all projects of the cloud.

    Args:
        cloud: the cloud that it is part of.

    Attributes:
        defer_after: lookups answer so many keys and defer the others; None answers all.
        batch_size: the most results in one answer to a query.
    """

    name = "datastore"

    def __init__(self, cloud: Cloud) -> None:
        self.defer_after: int | None = None
        self.batch_size = BATCH_SIZE
        self._cloud = cloud
        self._storage = Storage(cloud.tables)
        self._queries = Queries(self._storage)
        self._transactions = Transactions(cloud.clock)

    def routes(self) -> Iterable[Route]:
        """The methods of datastore.projects."""
        methods: dict[str, Callable[[str, Answer], Answer]] = {
            "lookup": self._lookup,
            "runQuery": self._run_query,
            "runAggregationQuery": self._run_aggregation_query,
            "beginTransaction": self._begin_transaction,
            "commit": self._commit,
            "rollback": self._rollback,
            "allocateIds": self._allocate_ids,
        }
        for verb, method in methods.items():
            yield Route(
                f"datastore.projects.{verb}",
                "POST",
                f"/v1/projects/{{project}}:{verb}",
                _handler(method),
            )

    def error_body(self, error: ServiceError) -> Answer:
        """google.rpc.Status as JSON."""
        return status_body(error)

    def state(self) -> Answer:
        """How many entities there are of each kind, and what is open."""
        return {
            "entities": self._storage.counts(),
            "version": self._storage.version,
            "open_transactions": len(self._transactions),
        }

    async def run(self) -> None:
        """Does nothing by itself."""

    def _lookup(self, project: str, body: Answer) -> Answer:
        data = _list(body, "keys")
        if not 1 <= len(data) <= MAX_KEYS:
            raise invalid(f"a lookup takes 1 to {MAX_KEYS} keys")
        keys = [parse_key(item, project) for item in data]
        answered = len(keys) if self.defer_after is None else self.defer_after
        answer, transaction = self._read_options(body)
        names = {key.name: key for key in keys[:answered]}
        if transaction:
            self._transactions.get(transaction).names.update(names)
            self._transactions.check(transaction)
        found, missing = [], []
        for name, key in names.items():
            row = self._storage.get(name)
            if row is None:
                entity = {"key": key.to_json()}
                missing.append({"entity": entity, "version": str(self._storage.version)})
            else:
                found.append(
                    {
                        "entity": {"key": row.key, "properties": row.properties},
                        "version": str(row.version),
                        "createTime": row.created,
                        "updateTime": row.updated,
                    }
                )
        deferred = [key.to_json() for key in keys[answered:]]
        parts = {"found": found, "missing": missing, "deferred": deferred}
        return {**answer, **{name: part for name, part in parts.items() if part}}

    def _run_query(self, project: str, body: Answer) -> Answer:
        plan = _plan(project, body, body.get("query"))
        answer = self._read_query(plan, body)
        matches = self._queries.matches(plan)
        skipped = list(islice(matches, plan.offset))
        size = self.batch_size if plan.limit is None else min(plan.limit, self.batch_size)
        results = [queries.result(plan, *match) for match in islice(matches, size)]
        end = plan.start
        if results:
            end = results[-1]["cursor"]
        elif skipped:
            end = queries.cursor(plan, skipped[-1][0])
        if plan.limit is not None and len(results) == plan.limit:
            more = "MORE_RESULTS_AFTER_LIMIT"
        elif len(results) == self.batch_size:
            more = "NOT_FINISHED"
        else:
            more = "MORE_RESULTS_AFTER_CURSOR" if plan.end else "NO_MORE_RESULTS"
        batch = {
            "entityResultType": plan.result_type,
            "entityResults": results,
            "endCursor": end,
            "moreResults": more,
            "skippedResults": len(skipped),
            "snapshotVersion": str(self._storage.version),
        }
        return {**answer, "batch": batch}

    def _run_aggregation_query(self, project: str, body: Answer) -> Answer:
        aggregation = body.get("aggregationQuery") or {}
        plan = _plan(project, body, aggregation.get("nestedQuery"))
        answer = self._read_query(plan, body)
        stop = None if plan.limit is None else plan.offset + plan.limit
        total = sum(1 for _ in islice(self._queries.matches(plan), plan.offset, stop))
        properties = {}
        for number, wanted in enumerate(_list(aggregation, "aggregations"), start=1):
            if "count" not in wanted:
                raise invalid("the embedded cloud counts only")
            top = int((wanted["count"] or {}).get("upTo") or total)
            name = wanted.get("alias") or f"property_{number}"
            properties[name] = {"integerValue": str(min(total, top))}
        batch = {
            "aggregationResults": [{"aggregateProperties": properties}],
            "moreResults": "NO_MORE_RESULTS",
            "readTime": timestamp(self._cloud.clock.now()),
        }
        return {**answer, "batch": batch}

    def _read_query(self, plan: Plan, body: Answer) -> Answer:
        answer, transaction = self._read_options(body)
        if transaction:
            read = (plan.index, plan.ancestor or ())
            self._transactions.get(transaction).ranges.append(read)
            self._transactions.check(transaction)
        return answer

    def _read_options(self, body: Answer) -> tuple[Answer, str]:
        """The answer's first members, and the transaction to read in ("" for none)."""
        options = body.get("readOptions") or {}
        if options.get("readTime"):
            raise invalid("the embedded cloud does not read the past")
        if "newTransaction" in options:
            name = self._begin(options["newTransaction"])
            return {"transaction": name}, name
        return {}, options.get("transaction") or ""

    def _begin(self, options: Any) -> str:  # unchecked JSON
        read_only = isinstance(options, dict) and "readOnly" in options
        return self._transactions.begin(self._storage.version, read_only=read_only)

    def _begin_transaction(self, _: str, body: Answer) -> Answer:
        return {"transaction": self._begin(body.get("transactionOptions"))}

    def _commit(self, project: str, body: Answer) -> Answer:
        mutations = _list(body, "mutations")
        if len(mutations) > MAX_MUTATIONS:
            raise invalid(f"a commit takes at most {MAX_MUTATIONS} mutations")
        transactional = body.get("mode", "TRANSACTIONAL") != "NON_TRANSACTIONAL"
        name = self._committing(body) if transactional else ""
        if name and self._transactions.get(name).read_only and mutations:
            raise invalid("Cannot modify entities in a read-only transaction.")
        if name:
            self._transactions.check(name)
            self._transactions.end(name)
        now = self._cloud.clock.now()
        commit = Commit(self._storage, project, now, transactional=transactional)
        results = [commit.stage(mutation) for mutation in mutations]
        changes = commit.apply()
        self._transactions.note(changes)
        updates = {"indexUpdates": len(changes)} if changes else {}
        return {"mutationResults": results, "commitTime": timestamp(now), **updates}

    def _committing(self, body: Answer) -> str:
        if body.get("transaction"):
            return str(body["transaction"])
        if "singleUseTransaction" in body:
            return ""  # with nothing read there is nothing to be in conflict with
        raise invalid("a transactional commit needs a transaction")

    def _rollback(self, _: str, body: Answer) -> Answer:
        name = str(body.get("transaction", ""))
        self._transactions.get(name)
        self._transactions.end(name)
        return {}

    def _allocate_ids(self, project: str, body: Answer) -> Answer:
        keys = [parse_key(item, project, incomplete=True) for item in _list(body, "keys")]
        if any(not key.incomplete for key in keys):
            raise invalid("ids are allocated for incomplete keys only")
        complete: list[Key] = [allocate_id(self._storage, key) for key in keys]
        return {"keys": [key.to_json() for key in complete]}


def _handler(method: Callable[[str, Answer], Answer]) -> Callable[[Call], Any]:
    async def handle(call: Call) -> Answer:
        if len(await call.request.read()) > MAX_REQUEST_BYTES:
            raise invalid(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
        # The whole of a method runs without awaiting anything: that makes it atomic.
        return method(call.path["project"], call.body)

    return handle


def _plan(project: str, body: Answer, query: Any) -> Plan:  # unchecked JSON
    if "gqlQuery" in body:
        raise invalid("the embedded cloud does not speak GQL")
    return queries.parse_query(query, parse_partition(body.get("partitionId"), project))


def _list(body: Answer, member: str) -> list[Any]:
    items = body.get(member) or []
    if not isinstance(items, list):
        raise invalid(f"{member} must be a list")
    return items
