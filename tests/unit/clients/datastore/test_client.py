"""The Datastore client, against the embedded cloud over loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.base.errors import (
    AbortedError,
    AlreadyExistsError,
    BackendError,
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.auth import INVALIDATION_SECONDS
from gce_backend.clients.datastore.answers import decode_value
from gce_backend.clients.datastore.client import (
    Datastore,
    Delete,
    Filter,
    Insert,
    Mutation,
    Path,
    Row,
    Scalar,
    Transaction,
    Unindexed,
    Update,
    Upsert,
    Value,
)
from gce_backend.clients.datastore.values import encode_value
from gce_backend.localcloud.faults import Fault
from support.cloud_harness import Running, datastore_of, running
from support.referee import Referee

A: Path = (("K", "a"),)
B: Path = (("K", "b"),)


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[tuple[Running, Datastore]]:
    """A running cloud and a client of it."""
    async with running() as run:
        yield run, datastore_of(run, Datastore)


def fault(run: Running, verb: str, **members: object) -> Fault:
    """Injects a fault."""
    injected = Fault(method=f"datastore.projects.{verb}", **members)  # type: ignore[arg-type]  # checked by msgspec's users
    run.cloud.faults.add(injected)
    return injected


def calls(run: Running, verb: str) -> int:
    """How often a method was called."""
    return run.cloud.calls[f"datastore.projects.{verb}"]


scalars: st.SearchStrategy[Scalar] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=50),
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0)),
)
elements = st.one_of(scalars, st.builds(Unindexed, scalars))
values = st.one_of(elements, st.lists(elements, max_size=5).map(tuple))


@given(values)
def test_every_value_comes_back_as_it_was(value: Value) -> None:
    """Types, indexing and time zones survive the JSON."""
    back = decode_value(msgspec.json.encode(encode_value(value)))
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal, but not the same


def test_odd_values() -> None:
    """NaN survives, other time zones become UTC, Google's nanoseconds are understood."""
    back = decode_value(msgspec.json.encode(encode_value(math.nan)))
    assert isinstance(back, float)
    assert math.isnan(back)
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert repr(decode_value(msgspec.json.encode(encode_value(there)))) == repr(
        datetime(2026, 1, 1, tzinfo=UTC)
    )
    nanoseconds = decode_value(b'{"timestampValue": "2026-01-01T00:00:00.123456789Z"}')
    assert nanoseconds == datetime(2026, 1, 1, microsecond=123456, tzinfo=UTC)
    for wrong in (2**63, datetime(2026, 1, 1)):  # noqa: DTZ001  # that is the point
        with pytest.raises(ValueError, match=r"64 bits|time zone"):
            encode_value(wrong)
    for odd, says in (
        (b'{"geoPointValue": {}}', "unknown type: geoPointValue"),
        (b'{"stringValue": "a", "nullValue": null}', "two types"),
        (b'{"arrayValue": {}, "nullValue": null}', "two types"),
        (b'{"arrayValue": {"values": [{"keyValue": {}}]}}', "unknown type"),
        (b'{"stringValue": 5}', "Expected `str`, got `int`"),
        (b'{"integerValue": "9223372036854775808"}', "64 bits"),
        (b'{"timestampValue": "0001-01-01T00:00:00+14:00"}', "out of range"),
    ):
        with pytest.raises((ValueError, ArithmeticError), match=says):
            decode_value(odd)


async def test_rows_come_back_as_written() -> None:
    """Properties, versions and paths through commit, lookup and query."""
    async with client() as (_, datastore):
        long = Unindexed("x" * 2000)
        properties: dict[str, Value] = {
            "n": 5,
            "f": 2.0,
            "t": "text",
            "long": long,
            "none": None,
            "yes": True,
            "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            "list": ("a", 1, long),
            "no": (),
        }
        path: Path = (("P", "parent"), ("K", "a"))
        (version,) = await datastore.commit([Insert(path, properties)])
        assert await datastore.lookup([path, B, path]) == {path: Row(path, properties, version)}
        assert await datastore.query("K") == [Row(path, properties, version)]
        assert await datastore.query("K", keys_only=True) == [Row(path, {}, 0)]


async def test_queries_filter_and_go_on() -> None:
    """Filters and cursors reach the server."""
    async with client() as (run, datastore):
        run.datastore.batch_size = 2
        await datastore.commit([Insert((("K", f"k{n}"),), {"n": n}) for n in range(9)])
        ranged = [Filter("n", "GREATER_THAN", 1)]
        rows = await datastore.query("K", filters=ranged)
        assert [row.properties["n"] for row in rows] == [2, 3, 4, 5, 6, 7, 8]
        one = await datastore.query("K", filters=[Filter("__key__", "EQUAL", (("K", "k3"),))])
        assert [row.properties["n"] for row in one] == [3]
        wanted = Filter("__key__", "IN", ((("K", "k1"),), (("K", "k2"),)))
        assert len(await datastore.query("K", filters=[wanted])) == 2
        listed = await datastore.query("K", filters=[Filter("n", "IN", (4, 5, 77))])
        assert len(listed) == 2


async def test_unfinished_batches_are_followed_to_the_end() -> None:
    """Every row comes once, in one result or in pages."""
    async with client() as (_, datastore):
        await datastore.commit([Insert((("K", f"{n:04}"),), {}) for n in range(1201)])
        result = await datastore.query("K")
        pages = [page async for page in datastore.query_pages("K")]
        assert len(result) == 1201
        assert len(pages) > 1
        assert [row for page in pages for row in page] == result


async def test_deferred_keys_are_asked_again() -> None:
    """A lookup is complete, or raises when the server never gets on with it."""
    async with client() as (run, datastore):
        paths: list[Path] = [(("K", f"{n:04}"),) for n in range(1500)]
        await datastore.commit([Insert(path, {}) for path in paths])
        run.datastore.defer_after = 300
        assert set(await datastore.lookup(paths)) == set(paths)
        run.datastore.defer_after = 0
        with pytest.raises(TransientError, match="deferred"):
            await datastore.lookup(paths[:2])


async def test_large_writes_are_split() -> None:
    """By 500 mutations and by size; versions come in the order of the mutations."""
    async with client() as (run, datastore):
        many: list[Mutation] = [Upsert((("K", f"{n}"),), {}) for n in range(1001)]
        versions = await datastore.commit(many)
        assert len(versions) == 1001
        assert calls(run, "commit") == 3
        big: list[Mutation] = [
            Upsert((("B", f"{n}"),), {"t": Unindexed("ü" * 400_000)}) for n in range(20)
        ]
        await datastore.commit(big)  # 16 MB
        assert calls(run, "commit") == 5
        assert len(await datastore.query("B", keys_only=True)) == 20
        assert await datastore.commit([]) == []


async def test_guarded_writes_say_what_stopped_them() -> None:
    """Each condition has its error, and nothing of the commit is applied."""
    async with client() as (_, datastore):
        (old,) = await datastore.commit([Insert(A, {"n": 1})])
        (new,) = await datastore.commit([Update(A, {"n": 2}, old)])
        for wrong, error in (
            (Update(A, {}, old), AbortedError),
            (Delete(A, old), AbortedError),
            (Insert(A, {}), AlreadyExistsError),
            (Update((("K", "none"),), {}, None), NotFoundError),
            (Upsert((("K", ""),), {}), InvalidRequestError),
        ):
            with pytest.raises(error):
                await datastore.commit([Insert(B, {}), wrong])
        assert await datastore.lookup([A, B]) == {A: Row(A, {"n": 2}, new)}
        await datastore.commit([Delete(A, new)])
        assert await datastore.lookup([A]) == {}


@pytest.mark.parametrize(
    ("members", "outlast"),
    [
        ({"status": 503}, 3),
        ({"status": 429, "reason": "RESOURCE_EXHAUSTED", "retry_after": 7.0}, 3),
        ({"kind": "drop"}, 3),
        ({"kind": "truncate"}, 3),
        ({"kind": "html"}, 3),
        ({"status": 500}, 1),
    ],
)
async def test_reads_outlast_a_burst(members: dict[str, object], outlast: int) -> None:
    """They are repeated with pauses while that may help, and raise when it does not."""
    async with client() as (run, datastore):
        await datastore.commit([Insert(A, {"n": 1})])
        for verb in ("lookup", "runQuery"):
            run.cloud.faults.clear()
            burst = fault(run, verb, times=outlast, **members)
            read = datastore.lookup([A]) if verb == "lookup" else datastore.query("K")
            assert await read
            assert burst.fired == outlast
        longer = fault(run, "lookup", times=outlast + 1, **members)
        with pytest.raises(TransientError):
            await datastore.lookup([A])
        assert longer.fired == outlast + 1


async def test_a_retry_waits_as_long_as_it_was_told() -> None:
    """Retry-After is a floor, and too long a one ends the retrying."""
    async with client() as (run, datastore):
        clock = run.cloud.clock
        started = clock.monotonic()
        fault(run, "lookup", status=503, retry_after=30)
        await datastore.lookup([A])
        assert 30 <= clock.monotonic() - started < 40
        fault(run, "lookup", status=429, reason="RESOURCE_EXHAUSTED", retry_after=3600)
        with pytest.raises(RateLimitedError) as caught:
            await datastore.lookup([A])
        assert caught.value.retry_after == 300  # capped


@pytest.mark.parametrize(
    "members",
    [
        {"status": 503, "when": "after"},
        {"kind": "drop", "when": "after"},
        {"kind": "truncate", "when": "after"},
    ],
)
async def test_a_commit_of_unknown_outcome_is_not_repeated(members: dict[str, object]) -> None:
    """It raises, and the caller reads back that it was applied."""
    async with client() as (run, datastore):
        injected = fault(run, "commit", **members)
        with pytest.raises(TransientError):
            await datastore.commit([Insert(A, {})])
        assert injected.fired == 1
        assert calls(run, "commit") == 1
        assert A in await datastore.lookup([A])


async def test_a_refused_token_is_renewed_once() -> None:
    """After a 401 the call is made with another token; a second 401 is an error."""
    async with client() as (run, datastore):
        await datastore.commit([Insert(A, {})])
        run.metadata.revoke_all()
        assert A in await datastore.lookup([A])
        await asyncio.sleep(INVALIDATION_SECONDS)
        run.metadata.revoke_all()
        await datastore.commit([Insert(B, {})])
        await asyncio.sleep(INVALIDATION_SECONDS)
        refusal = fault(run, "*", status=401, reason="UNAUTHENTICATED", times=None)
        with pytest.raises(UnauthenticatedError):
            await datastore.lookup([A])
        assert refusal.fired == 2


async def test_no_error_holds_a_token() -> None:
    """Neither the errors nor what they were raised from can show a bearer token."""
    async with client() as (run, datastore):
        await datastore.lookup([A])
        secrets = list(run.metadata._tokens)
        assert secrets
        for members in (
            {"status": 403, "reason": "PERMISSION_DENIED"},
            {"status": 401, "reason": "UNAUTHENTICATED", "times": 2},
            {"status": 503},
            {"kind": "drop"},
            {"kind": "html"},
            {"kind": "truncate"},
        ):
            fault(run, "commit", **members)
            with pytest.raises(BackendError) as caught:
                await datastore.commit([Upsert(A, {})])
            error: BaseException | None = caught.value
            while error is not None:
                shown = repr(error) + str(error) + repr(error.__dict__)
                assert not any(secret in shown for secret in [*run.metadata._tokens, *secrets])
                error = error.__context__


async def test_errors_are_told_apart(referee: Referee) -> None:
    """By status and status word; a bare 404 is not a missing entity."""
    referee.expect("somethingElse")
    async with client() as (run, datastore):
        for status, reason, error in (
            (403, "PERMISSION_DENIED", PermissionDeniedError),
            (409, "ABORTED", AbortedError),
            (404, "NOT_FOUND", NotFoundError),
            (404, "somethingElse", InvalidRequestError),
            (400, "FAILED_PRECONDITION", InvalidRequestError),
            (504, "DEADLINE_EXCEEDED", TransientError),
        ):
            fault(run, "commit", status=status, reason=reason, message="why")
            with pytest.raises(error) as caught:
                await datastore.commit([Upsert(A, {})])
            assert caught.value.method == "datastore.projects.commit"
            assert "why" in str(caught.value)
        fault(run, "commit", kind="html")
        with pytest.raises(MalformedResponseError):
            await datastore.commit([Upsert(A, {})])


async def test_transactions_never_lose_an_update() -> None:
    """Many at once on one counter: each counts, by repeating what was in conflict."""
    async with client() as (_, datastore):
        await datastore.commit([Insert(A, {"n": 0})])

        async def increment(transaction: Transaction) -> None:
            row = (await transaction.lookup([A]))[A]
            n = row.properties["n"]
            assert isinstance(n, int)
            await asyncio.sleep(0.01)
            transaction.upsert(A, {"n": n + 1})

        async with asyncio.TaskGroup() as group:
            for _number in range(4):
                group.create_task(datastore.transaction(increment), name="increment")
        assert (await datastore.lookup([A]))[A].properties == {"n": 4}


async def test_a_transaction_gives_result_and_versions() -> None:
    """It reads and writes; its versions are those that are stored."""
    async with client() as (_, datastore):
        await datastore.commit([Insert(A, {}), Insert((("K", "c"),), {})])

        async def work(transaction: Transaction) -> Transaction:
            assert set(await transaction.lookup([A, B])) == {A}
            transaction.upsert(B, {"n": 1})
            transaction.upsert(A, {"n": 2})
            transaction.delete((("K", "c"),))
            return transaction

        done = await datastore.transaction(work)
        rows = await datastore.lookup([A, B, (("K", "c"),)])
        assert set(rows) == {A, B}
        assert all(done.versions[path] == row.version for path, row in rows.items())


async def test_a_transaction_gives_up_after_five_conflicts() -> None:
    """Then ABORTED reaches the caller."""
    async with client() as (run, datastore):
        injected = fault(run, "commit", status=409, reason="ABORTED", times=None)

        async def work(transaction: Transaction) -> None:
            transaction.upsert(A, {})

        with pytest.raises(AbortedError):
            await datastore.transaction(work)
        assert injected.fired == 5


async def test_a_failing_or_cancelled_transaction_leaves_nothing_open() -> None:
    """What its work raises comes out, nothing is written, and it is rolled back."""
    async with client() as (run, datastore):

        async def fail(transaction: Transaction) -> None:
            transaction.upsert(A, {})
            raise LookupError("stop")

        async def hang(transaction: Transaction) -> None:
            transaction.upsert(A, {})
            await asyncio.sleep(1000)

        with pytest.raises(LookupError, match="stop"):
            await datastore.transaction(fail)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await datastore.transaction(hang)
        assert await datastore.lookup([A]) == {}
        assert run.datastore.state()["open_transactions"] == 0


async def test_a_transaction_without_writes_is_closed() -> None:
    """It gives its result and commits nothing."""
    async with client() as (run, datastore):

        async def look(transaction: Transaction) -> int:
            return len(await transaction.lookup([A]))

        assert await datastore.transaction(look) == 0
        assert calls(run, "commit") == 0
        assert run.datastore.state()["open_transactions"] == 0


async def test_a_cancelled_caller_does_not_end_the_others_token_refresh() -> None:
    """Waiters for one token refresh are independent of each other."""
    async with client() as (run, datastore):
        slow = "metadata.instance.service-accounts.token"
        run.cloud.faults.add(Fault(method=slow, kind="latency", seconds=3))
        first = asyncio.create_task(datastore.lookup([A]), name="first")
        second = asyncio.create_task(datastore.lookup([A]), name="second")
        await asyncio.sleep(1)
        first.cancel()
        assert await second == {}
        with pytest.raises(asyncio.CancelledError):
            await first
