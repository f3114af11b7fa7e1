"""What the store expects of Datastore."""

from __future__ import annotations

import pytest

from contract.servers import Contract
from gce_backend.base.errors import AbortedError, AlreadyExistsError, NotFoundError
from gce_backend.daemon.clients import Clients
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import Entity, SetAsideMessage
from gce_backend.model.keys import Key

LARGEST = 1_000_000
"""Bytes of one text: a configuration may be so long."""


def message(reason: str = "one", data: str = "") -> SetAsideMessage:
    """An entity."""
    return SetAsideMessage(reason=reason, received=1.5, data=data)


class Shelf:
    """A store, and keys of the run."""

    def __init__(self, server: Contract, clients: Clients, test: str) -> None:
        self.store = Store(clients.datastore(server.options.project))
        self._prefix = f"{server.run}-{test}"

    def key(self, name: str = "a") -> Key:
        """A key of this test alone."""
        return Key(SetAsideMessage.KIND, f"{self._prefix}-{name}")

    async def put(self, name: str, entity: Entity | None, base: int | None) -> int:
        """Writes one entity; gives its version."""
        return (await self.store.write([Write(self.key(name), entity, base)]))[0]

    async def get(self, name: str) -> tuple[Entity, int] | None:
        """An entity and its version."""
        found = (await self.store.read([self.key(name)])).get(self.key(name))
        return None if found is None else (found.entity, found.version)


def test_what_is_written_is_read_at_once_with_its_version(server: Contract) -> None:
    """Insert, update, delete: each is seen by the next read, with the version it was answered."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "written")
        assert await shelf.get("a") is None
        first = await shelf.put("a", message(), None)
        assert await shelf.get("a") == (message(), first)
        second = await shelf.put("a", message("two"), first)
        assert second > first
        assert await shelf.get("a") == (message("two"), second)
        await shelf.put("a", None, second)
        assert await shelf.get("a") is None

    server.ask(work)


def test_a_write_from_an_old_version_is_refused_and_changes_nothing(server: Contract) -> None:
    """Update and delete from a version that is past; insert of what is there; update of nothing."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "guarded")
        first = await shelf.put("a", message(), None)
        second = await shelf.put("a", message("two"), first)
        for entity in (message("three"), None):
            with pytest.raises(AbortedError):
                await shelf.put("a", entity, first)
        with pytest.raises(AlreadyExistsError):
            await shelf.put("a", message("three"), None)
        assert await shelf.get("a") == (message("two"), second)
        with pytest.raises((NotFoundError, AbortedError)):
            await shelf.put("absent", message(), second)
        assert await shelf.get("absent") is None

    server.ask(work)


def test_a_commit_is_applied_as_a_whole_or_not_at_all(server: Contract) -> None:
    """One stale write among good ones spoils them all."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "whole")
        first = await shelf.put("a", message(), None)
        await shelf.put("a", message("two"), first)
        writes = [Write(shelf.key(name), message(), None) for name in ("b", "c")]
        with pytest.raises(AbortedError):
            await shelf.store.write([*writes, Write(shelf.key("a"), message("three"), first)])
        assert await shelf.get("b") is None
        assert await shelf.get("c") is None

    server.ask(work)


def test_a_transaction_sees_what_others_wrote_and_is_decided_again(server: Contract) -> None:
    """Written to between its read and its commit, it is aborted and runs again on fresh values."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "transaction")
        other = Store(clients.datastore(server.options.project))
        key = shelf.key()
        version = await shelf.put("a", message("1"), None)
        seen: list[str] = []
        transactions = clients.datastore(server.options.project)

        async def decide(transaction: object) -> None:
            rows = await transaction.lookup([key.path])  # type: ignore[attr-defined]
            value = str(getattr(rows[key.path].properties["reason"], "value", ""))
            seen.append(value)
            if len(seen) == 1:
                await other.write([Write(key, message("2"), version)])
            properties = {**rows[key.path].properties, "data": f"after {value}"}
            transaction.upsert(key.path, properties)  # type: ignore[attr-defined]

        await transactions.transaction(decide)
        assert seen == ["1", "2"]
        found = await shelf.get("a")
        assert found is not None
        assert found[0] == message("2", "after 2")

    server.ask(work)


def test_all_entities_of_a_kind_are_read_in_pages_and_from_a_key_on(server: Contract) -> None:
    """More than one page of them; those after a key, in the order of keys."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "pages")
        names = [f"{number:04}" for number in range(350)]
        await shelf.store.write([Write(shelf.key(name), message(), None) for name in names])
        wanted = {shelf.key(name) for name in names}
        found = [key async for page in shelf.store.read_kind(SetAsideMessage.KIND) for key in page]
        assert wanted <= set(found)
        assert len(found) == len(set(found))
        later = shelf.store.read_kind(SetAsideMessage.KIND, after=shelf.key("0299"))
        following = [key async for page in later for key in page]
        assert [key for key in following if key in wanted] == [shelf.key(n) for n in names[300:]]

    server.ask(work)


def test_a_configuration_of_a_megabyte_fits_into_one_entity(server: Contract) -> None:
    """Unindexed text comes back as it was, whatever it is made of."""

    async def work(clients: Clients) -> None:
        shelf = Shelf(server, clients, "large")
        text = ("ä€😀\\n\"'\x00" * LARGEST)[: LARGEST // 4]
        version = await shelf.put("a", message(data=text), None)
        assert await shelf.get("a") == (message(data=text), version)

    server.ask(work)
