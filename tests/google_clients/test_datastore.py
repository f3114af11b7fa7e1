"""google-cloud-datastore's HTTP transport on the embedded Datastore."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud import datastore
from google.cloud.datastore.helpers import GeoPoint
from google.cloud.datastore.query import And, Or, PropertyFilter

from gce_backend.localcloud.faults import Fault, Faults
from google_clients.credentials import credentials
from google_clients.protobuf_wire import ProtobufAdapter
from support.served_cloud import PROJECT, ServedCloud

Connect = Callable[[str], datastore.Client]


@pytest.fixture(scope="module")
def connect(served: ServedCloud) -> Iterator[Connect]:
    """Makes clients for a namespace; what each test keeps is in a namespace of its own."""
    granted = credentials(served.url)
    with AuthorizedSession(granted) as session:
        session.mount(served.url, ProtobufAdapter())

        def make(namespace: str) -> datastore.Client:
            return datastore.Client(
                project=PROJECT,
                namespace=namespace,
                credentials=granted,
                client_options={"api_endpoint": served.url},
                _http=session,
                _use_grpc=False,
            )

        yield make


@pytest.fixture
def client(connect: Connect, request: pytest.FixtureRequest) -> datastore.Client:
    """A client in this test's namespace."""
    return connect(re.sub(r"[^\w.-]", "-", request.node.name)[:100])


def entity(client: datastore.Client, *path: str | int, **properties: Any) -> datastore.Entity:
    """An entity of these properties; `note` is never indexed."""
    made = datastore.Entity(client.key(*path), exclude_from_indexes=("note",))
    made.update(properties)
    return made


def keep_vms(client: datastore.Client, count: int) -> None:
    """Keeps VMs whose sizes count from 0 and whose zones alternate."""
    vms = [
        entity(client, "Vm", f"vm-{number}", size=number, zone="ab"[number % 2])
        for number in range(count)
    ]
    client.put_multi(vms)


def names(found: Iterator[datastore.Entity]) -> list[str]:
    """The names of the entities that a query gives."""
    return [one.key.name for one in found]


def test_every_kind_of_value_comes_back(client: datastore.Client) -> None:
    """Put and get keep each type, and which properties are not indexed."""
    kept = entity(
        client,
        "Vm",
        "one",
        number=2**53 + 1,
        text="Grüße",
        share=0.25,
        is_on=True,
        nothing=None,
        raw=b"\x00\xff",
        moment=datetime(2024, 2, 29, 12, 30, 1, 250, tzinfo=UTC),
        place=GeoPoint(48.1, 11.6),
        peer=client.key("Vm", 7),
        tags=["a", 1, None],
        inner=entity(client, "Part", "p", size=3, note="inner"),
        note="x" * 2000,
    )
    client.put(kept)
    found = client.get(kept.key)
    assert found == kept
    assert found.exclude_from_indexes == {"note"}


def test_deleted_entity_is_found_no_more(client: datastore.Client) -> None:
    """Get answers nothing after delete; deleting again is no error."""
    client.put(entity(client, "Vm", "gone"))
    key = client.key("Vm", "gone")
    for _ in range(2):
        client.delete(key)
        assert client.get(key) is None


def test_many_are_put_found_and_missed_at_once(client: datastore.Client) -> None:
    """get_multi tells what it found from what is missing."""
    keep_vms(client, 3)
    missing: list[datastore.Entity] = []
    keys = [client.key("Vm", f"vm-{number}") for number in range(5)]
    assert {one.key for one in client.get_multi(keys, missing=missing)} == set(keys[:3])
    assert {one.key for one in missing} == set(keys[3:])
    client.delete_multi(keys)
    assert client.get_multi(keys) == []


def test_incomplete_key_is_completed(client: datastore.Client) -> None:
    """Put gives an entity without an id one of its own."""
    vms = [datastore.Entity(client.key("Vm")) for _ in range(3)]
    client.put_multi(vms)
    assert len({one.key.id for one in vms} - {None}) == 3
    assert {one.key for one in client.query(kind="Vm").fetch()} == {one.key for one in vms}


def test_ids_are_allocated(client: datastore.Client) -> None:
    """allocate_ids gives as many keys as asked for, each once."""
    keys = client.allocate_ids(client.key("Zone", "a", "Vm"), 5)
    assert len({key.id for key in keys}) == 5
    assert {key.parent for key in keys} == {client.key("Zone", "a")}


def test_reserved_id_is_given_to_nobody(client: datastore.Client) -> None:
    """An id can be reserved, by a key or as the next few, and then used by who reserved it."""
    client.reserve_ids_multi([client.key("Vm", 55), client.key("Vm", 56)])
    client.reserve_ids_sequential(client.key("Vm", 60), 2)
    client.put(entity(client, "Vm", 55, size=1))
    assert client.get(client.key("Vm", 55))["size"] == 1


def test_transaction_takes_effect_as_a_whole(client: datastore.Client) -> None:
    """What a transaction puts and deletes is seen when it has been committed, and not before."""
    client.put(entity(client, "Vm", "old"))
    with client.transaction():
        client.put(entity(client, "Vm", "new"))
        client.delete(client.key("Vm", "old"))
        assert client.get(client.key("Vm", "new")) is None
    assert names(client.query(kind="Vm").fetch()) == ["new"]


def test_transaction_that_raises_changes_nothing(client: datastore.Client) -> None:
    """A block that ends in an exception is rolled back."""

    def fail() -> None:
        with client.transaction():
            client.put(entity(client, "Vm", "never"))
            raise LookupError("changed my mind")

    with pytest.raises(LookupError):
        fail()
    assert client.get(client.key("Vm", "never")) is None


@pytest.mark.parametrize("begin_later", [False, True], ids=["begun", "begun-by-its-first-read"])
def test_conflicting_transaction_is_aborted(
    client: datastore.Client, connect: Connect, *, begin_later: bool
) -> None:
    """When somebody else writes what a transaction read, its commit is a Conflict."""
    other = connect(client.namespace)
    client.put(entity(client, "Vm", "shared", owner="nobody"))

    def clash() -> None:
        with client.transaction(begin_later=begin_later):
            read = client.get(client.key("Vm", "shared"))
            other.put(entity(other, "Vm", "shared", owner="other"))
            read["owner"] = "me"
            client.put(read)

    with pytest.raises(exceptions.Conflict) as raised:
        clash()
    assert raised.value.code == 409
    assert client.get(client.key("Vm", "shared"))["owner"] == "other"


def test_transaction_whose_query_missed_an_insert_is_aborted(
    client: datastore.Client, connect: Connect
) -> None:
    """An entity that would have been in a query's result is in conflict with it too."""
    other = connect(client.namespace)
    keep_vms(client, 2)

    def clash() -> None:
        with client.transaction():
            count = len(list(client.query(kind="Vm").fetch()))
            other.put(entity(other, "Vm", "vm-9"))
            client.put(entity(client, "Count", "all", vms=count))

    with pytest.raises(exceptions.Conflict):
        clash()
    assert client.get(client.key("Count", "all")) is None


def test_transaction_reads_what_was_there_when_it_began(
    client: datastore.Client, connect: Connect
) -> None:
    """What others write meanwhile is not seen; a read-only transaction does not mind."""
    other = connect(client.namespace)
    keep_vms(client, 2)
    with client.transaction(read_only=True):
        assert client.get(client.key("Vm", "vm-0"))["size"] == 0
        other.put(entity(other, "Vm", "vm-1", size=99))
        other.put(entity(other, "Vm", "vm-2", size=2))
        assert client.get(client.key("Vm", "vm-1"))["size"] == 1
        assert names(client.query(kind="Vm").fetch()) == ["vm-0", "vm-1"]
    assert client.get(client.key("Vm", "vm-1"))["size"] == 99


def test_query_filters_and_orders(client: datastore.Client) -> None:
    """Filters are joined by AND; the order may descend."""
    keep_vms(client, 8)
    query = client.query(kind="Vm", order=["-size"])
    query.add_filter(filter=And([PropertyFilter("size", ">=", 2), PropertyFilter("size", "<", 7)]))
    assert names(query.fetch()) == ["vm-6", "vm-5", "vm-4", "vm-3", "vm-2"]
    query = client.query(kind="Vm")
    query.add_filter(filter=PropertyFilter("zone", "=", "b"))
    assert names(query.fetch(limit=2, offset=1)) == ["vm-3", "vm-5"]


def test_query_takes_either(client: datastore.Client) -> None:
    """Filters can be joined by OR, and a value can be one of several."""
    keep_vms(client, 6)
    query = client.query(kind="Vm")
    query.add_filter(filter=Or([PropertyFilter("size", "=", 1), PropertyFilter("size", ">", 4)]))
    assert sorted(names(query.fetch())) == ["vm-1", "vm-5"]
    query = client.query(kind="Vm")
    query.add_filter(filter=PropertyFilter("size", "IN", [0, 3, 99]))
    assert sorted(names(query.fetch())) == ["vm-0", "vm-3"]


def test_query_is_answered_as_if_its_index_were_declared(client: datastore.Client) -> None:
    """A filter on one property and an order by another need a composite index at Google's."""
    keep_vms(client, 3)
    query = client.query(kind="Vm", order=["-size"])
    query.add_filter(filter=PropertyFilter("zone", "=", "a"))
    assert names(query.fetch()) == ["vm-2", "vm-0"]


def test_query_looks_into_lists(client: datastore.Client) -> None:
    """Any element of a list may equal what a filter names."""
    client.put(entity(client, "Vm", "x", tags=["red", "blue"]))
    client.put(entity(client, "Vm", "y", tags=["green"]))
    query = client.query(kind="Vm")
    query.add_filter(filter=PropertyFilter("tags", "=", "blue"))
    assert names(query.fetch()) == ["x"]


def test_query_does_not_see_what_is_not_indexed(client: datastore.Client) -> None:
    """An excluded property neither matches nor orders."""
    client.put(entity(client, "Vm", "x", note="findable?"))
    query = client.query(kind="Vm")
    query.add_filter(filter=PropertyFilter("note", "=", "findable?"))
    assert names(query.fetch()) == []
    assert names(client.query(kind="Vm", order=["note"]).fetch()) == []


def test_query_filters_by_key(client: datastore.Client) -> None:
    """Keys can be compared; keys-only results hold nothing else."""
    keep_vms(client, 5)
    query = client.query(kind="Vm")
    query.keys_only()
    query.add_filter(filter=PropertyFilter("__key__", ">", client.key("Vm", "vm-1")))
    found = list(query.fetch(limit=2))
    assert [one.key.name for one in found] == ["vm-2", "vm-3"]
    assert [dict(one) for one in found] == [{}, {}]


def test_query_finds_descendants(client: datastore.Client) -> None:
    """An ancestor query gives what is below a key, at any depth, of any kind."""
    client.put(entity(client, "Zone", "a", "Vm", "x"))
    client.put(entity(client, "Zone", "a", "Vm", "x", "Lease", 1))
    client.put(entity(client, "Zone", "b", "Vm", "y"))
    ancestor = client.key("Zone", "a")
    assert names(client.query(kind="Vm", ancestor=ancestor).fetch()) == ["x"]
    below = list(client.query(ancestor=ancestor).fetch())
    assert [one.kind for one in below] == ["Vm", "Lease"]


def test_query_projects(client: datastore.Client) -> None:
    """A projection holds the named property only."""
    keep_vms(client, 3)
    query = client.query(kind="Vm", projection=["size"], order=["size"])
    assert [dict(one) for one in query.fetch()] == [{"size": 0}, {"size": 1}, {"size": 2}]


def test_query_gives_each_value_once(client: datastore.Client) -> None:
    """A projection that is distinct on its property holds each value once."""
    keep_vms(client, 5)
    query = client.query(kind="Vm", projection=["zone"], distinct_on=["zone"])
    assert [dict(one) for one in query.fetch()] == [{"zone": "a"}, {"zone": "b"}]


def test_past_is_not_taken_for_the_present(client: datastore.Client) -> None:
    """A read as of a moment ago finds what there was then; one of yesterday is refused."""
    client.put(entity(client, "Vm", "x", n=1))
    then = datetime.now(UTC)
    client.put(entity(client, "Vm", "x", n=2))
    found = client.get(client.key("Vm", "x"), read_time=then)
    assert found is not None
    assert found["n"] == 1
    with pytest.raises(exceptions.BadRequest, match="readTime"):
        client.get(client.key("Vm", "x"), read_time=then - timedelta(days=1))


def test_cursor_goes_on_where_a_page_ended(client: datastore.Client, connect: Connect) -> None:
    """Another client with the cursor of the page before gets the next one, till the end."""
    keep_vms(client, 7)
    pages: list[list[str]] = []
    cursor = None
    while len(pages) < 9:
        query = connect(client.namespace).query(kind="Vm", order=["size"])
        results = query.fetch(limit=3, start_cursor=cursor)
        pages.append(names(next(results.pages)))
        cursor = results.next_page_token
        if cursor is None:
            break
    assert pages == [["vm-0", "vm-1", "vm-2"], ["vm-3", "vm-4", "vm-5"], ["vm-6"]]


def test_long_result_comes_in_batches(client: datastore.Client, served: ServedCloud) -> None:
    """The library asks again while a batch is not the last one."""
    keep_vms(client, 400)
    method = "datastore.projects.runQuery"
    before = served.cloud.calls[method]
    assert len(list(client.query(kind="Vm").fetch())) == 400
    assert served.cloud.calls[method] - before > 1


def test_entities_are_counted(client: datastore.Client) -> None:
    """The count aggregation heeds the query's filter and its own limit."""
    keep_vms(client, 6)
    query = client.query(kind="Vm")
    query.add_filter(filter=PropertyFilter("size", ">", 1))
    [[all_of_them]] = client.aggregation_query(query).count(alias="vms").fetch()
    assert (all_of_them.alias, all_of_them.value) == ("vms", 4)
    [[few]] = client.aggregation_query(query).count().fetch(limit=3)
    assert few.value == 3


def test_entities_are_summed_and_averaged(client: datastore.Client) -> None:
    """Several aggregations are answered at once."""
    keep_vms(client, 5)
    aggregated = client.aggregation_query(client.query(kind="Vm"))
    aggregated.sum("size", alias="total").avg("size", alias="mean").count(alias="vms")
    [results] = aggregated.fetch()
    found = {one.alias: one.value for one in results}
    assert found == {"total": 10, "mean": 2.0, "vms": 5}


def test_a_commit_may_have_more_than_five_hundred_mutations(client: datastore.Client) -> None:
    """Google's page of limits names none any more."""
    client.put_multi([entity(client, "Vm", f"vm-{number}") for number in range(501)])
    assert len(list(client.query(kind="Vm").fetch())) == 501


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (403, "PERMISSION_DENIED", exceptions.Forbidden),
        (429, "RESOURCE_EXHAUSTED", exceptions.TooManyRequests),
        (500, "INTERNAL", exceptions.InternalServerError),
        (503, "UNAVAILABLE", exceptions.ServiceUnavailable),
        (504, "DEADLINE_EXCEEDED", exceptions.GatewayTimeout),
    ],
)
def test_status_chooses_the_exception(
    client: datastore.Client,
    faults: Faults,
    status: int,
    word: str,
    kind: type[exceptions.GoogleAPICallError],
) -> None:
    """Each status word that Datastore uses is an exception of its own, with its text."""
    faults.add(
        Fault(method="datastore.projects.lookup", status=status, reason=word, message="not now")
    )
    with pytest.raises(kind, match="not now"):
        client.get(client.key("Vm", "any"))
