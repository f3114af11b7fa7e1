"""The store on the embedded Datastore: what is written there, read back, guarded, decided again.

What it expects of any Datastore is in contract/test_store.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gce_backend.base.errors import CorruptEntityError
from gce_backend.clients.datastore.answers import DECODERS, row_of
from gce_backend.clients.datastore.client import Datastore, Insert, Path, Transaction
from gce_backend.clients.datastore.values import Codec, id_name
from gce_backend.configuration.types import TemplateConfig
from gce_backend.fleet.store import KINDS, Store, Stored, Write, decode, encode
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
    Begun,
    CatalogState,
    ConfigServiceAddress,
    DeletionWindow,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Lease,
    MachineProviderAddress,
    MetadataUpdate,
    Permit,
    SetAsideMessage,
    StoredConfiguration,
    StoreIdentity,
)
from gce_backend.model.events import Happening, HistoryPage
from gce_backend.model.keys import Key, manager_key, revision_key, template_key
from gce_backend.model.orders import Control, Drain, MachineOrder, Pause
from localcloud.datastore_world import commit, entity, lookup, number, text
from localcloud.datastore_world import key as key_of
from support.cloud_harness import Running, datastore_of, running
from support.mutation import mutated

T = TypeVar("T")

MANAGER = manager_key("linux", "abc", "us-central1-a")
VM = MANAGER.child("vm-1")
TEMPLATE = template_key("linux")
HISTORY = Key(HistoryPage.KIND, "page")
ENTITIES: dict[Key, Entity] = {
    CONTROL_KEY: Control(
        pauses=(Pause(template="linux"),), machine_orders=(MachineOrder(VM, 1.5),)
    ),
    CONFIG_SETTINGS_KEY: ConfigServiceAddress(service_hostname="config"),
    MACHINE_PROVIDER_KEY: MachineProviderAddress(instance_url="broker"),
    STORE_IDENTITY_KEY: StoreIdentity(id="0123456789ab"),
    DELETION_WINDOW_KEY: DeletionWindow((Begun(1.5, {Permit.ABSENT: 2}),)),
    Key(SetAsideMessage.KIND, "m"): SetAsideMessage("why", 1.5, attributes={"a": "b"}),
    CONFIGURATION_KEY: StoredConfiguration(revision="r1", files={"a": "b"}, imported=1.5),
    TEMPLATE: InstanceTemplate(active="abc", drained=("old", "older")),
    revision_key("linux", "abc"): InstanceTemplateRevision(
        template=TemplateConfig(base_name="linux"), active=("us-central1-a",)
    ),
    MANAGER: InstanceGroupManager(minimum_size=3, maximum_size=1_000_000),
    VM: Instance(
        gce_id=7,
        url="link",
        catalog=CatalogState.CATALOGED,
        resent=True,
        lease=Lease(since=1.0, expiration=2.5),
        pending_metadata_updates=(MetadataUpdate(items={"k": None, "l": "v"}, attempts=1),),
        drain=Drain(reason="worn"),
    ),
    HISTORY: HistoryPage(
        at=1.5, happenings=(Happening("machine", "linux", ("vm-1",), "a", "b", "why", "job x"),)
    ),
}
"""One of each kind, history included."""


class Shelf:
    """A store on a running cloud.

    Attributes:
        run: the cloud.
        store: what is tested.
        other: a second one, of another process.
    """

    def __init__(self, run: Running) -> None:
        self.run = run
        self.store = Store(datastore_of(run, Datastore))
        self.other = Store(datastore_of(run, Datastore))

    async def put(self, key: Key, entity: Entity | None, base: int | None = None) -> int:
        """Writes one entity as the other process; gives its version."""
        return (await self.other.write([Write(key, entity, base)]))[0]

    async def put_raw(self, key: Key, **properties: Any) -> None:
        """Writes properties as nobody here would."""
        await commit(self.run, {"upsert": entity(*flat(key.path), **properties)})

    async def raw(self, key: Key) -> dict[str, Any]:
        """An entity's properties as Datastore has them."""
        found = (await lookup(self.run, key_of(*flat(key.path))))["found"]
        properties: dict[str, Any] = found[0]["entity"]["properties"]
        return properties

    async def all(self, kind: str) -> dict[Key, Stored]:
        """All entities of a kind."""
        return {k: v async for page in self.store.read_kind(kind) for k, v in page.items()}


def flat(path: Path) -> list[str]:
    """Kind, name, kind, name..."""
    return [part for element in path for part in element]


@contextlib.asynccontextmanager
async def shelf() -> AsyncIterator[Shelf]:
    """A store on a cloud of its own."""
    async with running() as run:
        yield Shelf(run)


def message(reason: str) -> SetAsideMessage:
    """An entity that is easily told from others."""
    return SetAsideMessage(reason=reason, received=1.5)


def message_key(name: str) -> Key:
    """The key of one."""
    return Key(SetAsideMessage.KIND, name)


A, B, C = map(message_key, "abc")


async def test_fields_are_native_values_or_json_text_and_read_back_as_they_were() -> None:
    """Structures, lists and maps are text. Nothing is indexed; defaults take no room."""
    async with shelf() as it:
        versions = await it.store.write([Write(*item, None) for item in ENTITIES.items()])
        hidden = {"excludeFromIndexes": True}
        updates = '[{"items":{"k":null,"l":"v"},"attempts":1}]'
        assert await it.raw(VM) == {
            "gce_id": number(7) | hidden,
            "url": text("link", **hidden),
            "catalog": text("cataloged", **hidden),
            "resent": {"booleanValue": True} | hidden,
            "lease": text('{"since":1.0,"expiration":2.5}', **hidden),
            "pending_metadata_updates": text(updates, **hidden),
            "drain": text('{"reason":"worn"}', **hidden),
        }
        assert await it.raw(CONFIGURATION_KEY) == {
            "revision": text("r1", **hidden),
            "files": text('{"a":"b"}', **hidden),
            "imported": {"doubleValue": 1.5} | hidden,
        }
        expected = {
            key: Stored(value, version)
            for (key, value), version in zip(ENTITIES.items(), versions, strict=True)
        }
        assert {key.kind for key in ENTITIES} == {HistoryPage.KIND, *(kind.KIND for kind in KINDS)}
        assert await it.store.read(ENTITIES) == expected
        for key in ENTITIES:
            assert await it.all(key.kind) == {key: expected[key]}


async def test_properties_that_are_not_ours_are_ignored_wherever_they_stand() -> None:
    """A newer version may have written them; and values may be indexed."""
    async with shelf() as it:
        odd = {"geoPointValue": {"latitude": 1.0, "longitude": 2.0}}
        mine = {"active": text("abc"), "drained": text('["old"]')}
        await it.put_raw(TEMPLATE, aaa=text("?"), place=odd, **mine)
        stored = (await it.store.read([TEMPLATE]))[TEMPLATE]
        assert stored.entity == InstanceTemplate(active="abc", drained=("old",))


CORRUPT: Mapping[str, tuple[dict[str, Any], str]] = {
    "of another type": ({"active": number(3)}, "linux: Expected `str | null`, got `int`"),
    "not JSON": ({"drained": text("[")}, "linux: property drained: Input data was truncated"),
    "JSON of another type": (
        {"drained": text('["a", 3]')},
        "linux: property drained: Expected `str`, got `int` - at `$[1]`",
    ),
    "a number for JSON": (
        {"drained": number(3)},
        "linux: property drained: Expected `array`, got `int`",
    ),
    "of a type that is never stored here": (
        {"active": {"geoPointValue": {"latitude": 1.0, "longitude": 2.0}}},
        "linux: property active: a value of an unknown type: geoPointValue",
    ),
    "JSON beyond reason": (
        {"drained": text("[" * 5000, excludeFromIndexes=True)},
        "linux: property drained: ",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
async def test_a_corrupt_entity_is_left_out_and_remembered_until_it_is_well(case: str) -> None:
    """One bad entity spoils only itself; what is wrong names its key and its property."""
    properties, words = CORRUPT[case]
    good = template_key("macos")
    async with shelf() as it:
        await it.put(good, InstanceTemplate(active="good"))
        await it.put_raw(TEMPLATE, **properties)
        assert (await it.store.read([TEMPLATE, good])).keys() == {good}
        ((key, problem),) = it.store.corrupt.items()
        assert key == TEMPLATE
        assert problem.startswith(words)
        it.store.corrupt.clear()
        assert (await it.all(InstanceTemplate.KIND)).keys() == {good}
        assert it.store.corrupt == {TEMPLATE: problem}
        await it.put_raw(TEMPLATE, active=text("well"))
        assert (await it.store.read([TEMPLATE]))[TEMPLATE].entity == InstanceTemplate("well")
        assert it.store.corrupt == {}


async def test_an_entity_that_lies_elsewhere_than_its_kind_does_is_corrupt() -> None:
    """A machine without a group above it is no machine of ours: nobody acts on it."""
    stray = Key(Instance.KIND, "vm-1", Key("Folder", "other"))
    async with shelf() as it:
        await it.put(VM, Instance())
        await it.put_raw(stray, gce_id=number(5))
        problem = "other/vm-1: an entity of kind Instance cannot be there"
        assert (await it.all(Instance.KIND)).keys() == {VM}
        assert it.store.corrupt == {stray: problem}
        it.store.corrupt.clear()
        assert await it.store.read([stray]) == {}
        assert it.store.corrupt == {stray: problem}


async def test_an_entity_whose_key_has_a_number_is_corrupt_and_can_be_read_again() -> None:
    """Datastore gives numbers to entities that are made without a name; nobody here does."""
    numbered = template_key(id_name(5))
    async with shelf() as it:
        await it.put(TEMPLATE, InstanceTemplate())
        path = [{"kind": InstanceTemplate.KIND, "id": "5"}]
        await commit(it.run, {"upsert": {"key": {"path": path}, "properties": {}}})
        problem = "__id5__: its key has a number where this project writes names"
        assert (await it.all(InstanceTemplate.KIND)).keys() == {TEMPLATE}
        assert it.store.corrupt == {numbered: problem}
        it.store.corrupt.clear()
        assert await it.store.read([numbered]) == {}
        assert it.store.corrupt == {numbered: problem}
        await it.put(numbered, None)
        assert await it.store.read([numbered]) == {}
        assert it.store.corrupt == {}


@pytest.mark.parametrize("number", [0, 2**63 - 1, 2**63, 2**64 - 1])
async def test_every_id_that_compute_gives_is_stored_and_read(number: int) -> None:
    """Compute's ids have no sign: half of them do not fit Datastore's integers."""
    async with shelf() as it:
        await it.put(VM, Instance(gce_id=number))
        assert (await it.store.read([VM]))[VM].entity == Instance(gce_id=number)


async def test_what_becomes_corrupt_is_logged_once_with_key_and_property() -> None:
    """Again when it is another problem; the log's event says what to do."""
    told: list[dict[str, str]] = []

    class Log:
        """Keeps what it is told."""

        def error(self, _: str, **fields: str) -> None:
            """One line."""
            told.append(fields)

    async with shelf() as it:
        store = Store(datastore_of(it.run, Datastore), Log())  # type: ignore[arg-type]  # only what is used
        await it.put_raw(TEMPLATE, active=number(3))
        for _ in range(2):
            await store.read([TEMPLATE])
        ((_, problem),) = store.corrupt.items()
        assert told == [{"key": "linux", "kind": "InstanceTemplate", "error": problem}]
        assert "$.active" in problem
        await it.put_raw(TEMPLATE, drained=number(3))
        await store.read([TEMPLATE])
        assert len(told) == 2


WIRE = Codec("p", "")


def results() -> list[tuple[Key, Any]]:
    """Every kind of entity, as an answer of Datastore has it."""
    return [
        (key, {"entity": WIRE.mutation(Insert(key.path, encode(kept)))["insert"], "version": "7"})
        for key, kept in ENTITIES.items()
    ]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
    st.sampled_from(
        [
            *(10**400, 2**63, -1, "9" * 400, "[" * 5000, "{}", "[]", "null", '{"since": 1e300}'),
            *("99999999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "NaN", "Infinity"),
            *([], {}, [[]], {"geoPointValue": {}}, {"integerValue": "9" * 30}),
            *({"doubleValue": "NaN"}, {"nullValue": None}, {"stringValue": "?"}, {"x": 1}),
            *({"arrayValue": {"values": [5]}}, {"doubleValue": 1e300}, {"integerValue": "-3"}),
        ]
    ),
)


@given(st.integers(0, len(ENTITIES) - 1), st.randoms(use_true_random=False), ODD)
@settings(max_examples=int(os.environ.get("GCE_BACKEND_EXAMPLES", "500")))
def test_an_odd_entity_spoils_only_itself_whatever_is_odd_about_it(
    index: int, chance: random.Random, odd: Any
) -> None:
    """The others of its answer are read; it is read, or what is wrong names its key, in bounds."""
    answer = results()
    key, good = answer[index]
    entity = {**good["entity"], "properties": mutated(good["entity"]["properties"], chance, odd)}
    answer[index] = (key, {**good, "entity": entity})
    body = json.dumps({"found": [part for _, part in answer]}).encode()
    found = DECODERS["datastore.projects.lookup"].decode(body)["found"]
    for (expected, kept), result in zip(ENTITIES.items(), found, strict=True):
        row = row_of(result)
        assert row.path == expected.path
        if expected != key:
            assert decode(row) == kept
            continue
        try:
            understood = decode(row)
        except CorruptEntityError as error:
            problem = str(error)
        else:  # it can be stored again
            WIRE.mutation(Insert(key.path, encode(understood)))
            continue
        assert problem.startswith(f"{key}: ")
        assert len(problem) < 500


async def test_a_corrupt_entity_that_is_gone_is_forgotten() -> None:
    """Read again by its key, it is not there; others stay remembered."""
    async with shelf() as it:
        await it.put_raw(TEMPLATE, active=number(3))
        await it.put_raw(A, reason=number(3))
        await it.store.read([TEMPLATE, A])
        assert it.store.corrupt.keys() == {TEMPLATE, A}
        await commit(it.run, {"delete": key_of(*flat(TEMPLATE.path))})
        assert await it.store.read([TEMPLATE, B]) == {}
        assert it.store.corrupt.keys() == {A}


async def test_siblings_share_their_parents_key_also_over_pages() -> None:
    """A hundred thousand machines hold one key for each group, not one each."""
    managers = (MANAGER, manager_key("linux", "abc", "us-central1-b"))
    vms = [manager.child(f"vm-{n:04}") for manager in managers for n in range(200)]
    async with shelf() as it:
        await it.store.write([Write(key, Instance(), None) for key in vms])
        found = list(await it.all(Instance.KIND))
        assert found == vms
        assert len({id(key.parent) for key in found}) == 2


async def test_what_follows_a_key_is_read_without_what_is_before() -> None:
    """The key itself is not part of it."""
    async with shelf() as it:
        await it.store.write([Write(key, message("x"), None) for key in (A, B, C)])
        pages = [page async for page in it.store.read_kind(SetAsideMessage.KIND, after=A)]
        assert [key for page in pages for key in page] == [B, C]


async def test_versions_are_read_of_all_entities_of_a_kind_also_of_corrupt_ones() -> None:
    """And of that kind alone."""
    async with shelf() as it:
        await it.put(TEMPLATE, InstanceTemplate())
        first, second = await it.put(A, message("x")), await it.put(B, message("y"))
        await it.put_raw(C, reason=number(1))
        pages = [page async for page in it.store.read_versions(SetAsideMessage.KIND)]
        versions = {key: version for page in pages for key, version in page.items()}
        assert versions.keys() == {A, B, C}
        assert (versions[A], versions[B]) == (first, second)
        assert versions[C] > second


async def test_names_are_read_in_order_without_the_entities() -> None:
    """An entity that no client of ours could decode has a name all the same."""
    async with shelf() as it:
        await it.put(TEMPLATE, InstanceTemplate())
        await it.put(B, message("x"))
        await it.put_raw(A, reason={"geoPointValue": {"latitude": 1.0, "longitude": 2.0}})
        assert await it.store.names(SetAsideMessage.KIND) == ["a", "b"]
        assert await it.store.read([A]) == {}


async def test_a_decision_sees_what_exists_and_writes_what_it_says() -> None:
    """One is made, one replaced, one removed, one only looked at; all are told, with versions."""
    kept, absent = message_key("d"), message_key("e")
    keys = [A, B, C, kept, absent]
    seen: list[Mapping[Key, Entity]] = []

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        seen.append(dict(found))
        return {A: message("made"), B: message("new"), C: None}

    async with shelf() as it:
        for key in (B, C, kept):
            await it.put(key, message("old"))
        before = await it.store.read(keys)
        after, written = await it.store.transact(keys, decide)
        assert seen == [dict.fromkeys((B, C, kept), message("old"))]
        assert written == {A, B, C}
        stored = await it.store.read(keys)
        assert after == {**dict.fromkeys(keys), **stored}
        assert {key: s.entity for key, s in stored.items()} == {
            A: message("made"),
            B: message("new"),
            kept: message("old"),
        }
        assert stored[B].version > before[B].version
        assert stored[kept] == before[kept]
        assert after[absent] is None


class Overtaken(Datastore):
    """A Datastore where others write between what a transaction read and its commit.

    Attributes:
        meanwhile: what they do, one for each try.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.meanwhile: list[Callable[[], Awaitable[Any]]] = []

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """The same, overtaken."""

        async def overtaken(transaction: Transaction) -> T:
            result = await work(transaction)
            if self.meanwhile:
                await self.meanwhile.pop(0)()
            return result

        return await super().transaction(overtaken)


async def test_a_decision_overtaken_by_others_is_made_again_on_what_is_there_then() -> None:
    """Nothing of the first one is written or told: neither what it saw nor what it decided."""

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        if B in found:
            return {A: message("first"), B: message("first")}
        return {C: message("second")}

    async with running() as run:
        it = Shelf(run)
        datastore = datastore_of(run, Overtaken)
        version = await it.put(B, message("old"))
        datastore.meanwhile.append(lambda: it.put(B, None, version))
        after, written = await Store(datastore).transact([A, B, C], decide)
        assert written == {C}
        stored = await it.store.read([A, B, C])
        assert {key: s.entity for key, s in stored.items()} == {C: message("second")}
        assert after == {A: None, B: None, C: stored[C]}


async def test_a_decision_without_effect_writes_nothing() -> None:
    """And tells what is there."""
    async with shelf() as it:
        version = await it.put(A, message("old"))
        after, written = await it.store.transact([A], lambda _: {})
        assert (after, written) == ({A: Stored(message("old"), version)}, set())
        assert await it.store.read([A]) == after


async def test_no_decision_is_made_on_a_corrupt_entity() -> None:
    """The error names it; nothing is written."""
    async with shelf() as it:
        await it.put_raw(TEMPLATE, active=number(3))
        with pytest.raises(CorruptEntityError, match="linux: Expected"):
            await it.store.transact([TEMPLATE, A], lambda _: {A: message("x")})
        assert await it.store.read([A]) == {}
