"""machine_provider.waiting: why requests wait, worked out by kinds of machines, however many."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gce_backend.clients.datastore.client import Datastore
from gce_backend.machine_provider import records as records_module
from gce_backend.machine_provider.access.policy import LeaseLimits
from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.entities import (
    MachineState,
    OfferedKind,
    StoredLease,
    StoredMachine,
    StoredOffer,
)
from gce_backend.machine_provider.lease_documents import NearestDocument, WaitDocument
from gce_backend.machine_provider.leases import Leases
from gce_backend.machine_provider.offers import Offer, take
from gce_backend.machine_provider.queue import matches
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.waiting import waits_of
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage, Policies
from support.simulation import VirtualClock

LEASED = 900


def leased(number: int) -> StoredMachine:
    """A leased machine of one of three kinds; the leases end one after the other."""
    return StoredMachine(
        backend="GCE",
        hostname=f"vm-{number}",
        addition_id="1",
        dimensions=Dimensions(hostname=f"vm-{number}", os_family="LINUX", num_cpus=number % 3),
        policies=Policies(),
        state=MachineState.LEASED,
        lease=f"lease-{number}",
        user="ann",
        group="users",
        lease_expiration_ts=10_000 + number,
    )


def request(name: str, count: int = 1, **dimensions: Any) -> StoredLease:
    """A request that waits."""
    asked = LeaseRequestMessage(request_id=name, dimensions=Dimensions(**dimensions), duration=60)
    return StoredLease(user="bob", request=asked, checksum="x", created=0.0, count=count)


async def test_what_requests_wait_for_is_worked_out_by_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by machines, of which there may be a hundred thousand: each look is quick."""
    clock, compared = VirtualClock(), 0
    records = Records(cast("Datastore", None), AgentWatch(clock))
    leases = Leases(
        records, clock, project="p", waited=lambda _: None, limits_of=lambda _: LeaseLimits()
    )

    def counting(asked: Dimensions, machine: Dimensions) -> bool:
        nonlocal compared
        compared += 1
        return matches(asked, machine)

    for number in range(LEASED):
        records._picture(leased(number).path, leased(number))
    wanted = {
        "any": request("any", os_family="LINUX"),
        "small": request("small", count=2, num_cpus=1),
        "named": request("named", hostname="vm-7"),
        "none": request("none", os_family="WINDOWS"),
        "many": request("many", count=500, num_cpus=2),
    }
    for lease in wanted.values():
        records._picture(lease.path, lease)
    monkeypatch.setattr(records_module, "matches", counting)
    found = waits_of(records, leases, 1.0)
    told = {name: found[lease.name] for name, lease in wanted.items()}
    assert {name: (it.reason, it.earliest) for name, it in told.items()} == {
        "any": ("leased", 10_000),
        "small": ("leased", 10_004),
        "named": ("leased", 10_007),
        "none": ("unsatisfiable", None),
        "many": ("unsatisfiable", None),
    }
    assert told["any"].message == "of 900 machines that fit, 0 can be leased"
    assert told["named"].message == "of 1 machine that fit, 0 can be leased"
    assert told["many"].message == "it asks for 500 machines, and 300 in the catalog fit"
    assert 0 < compared < LEASED / 5
    for number in range(LEASED):
        records._picture(leased(number).path, None)
    assert records.kinds == {}
    assert not records.held.machines
    assert not records.held.leases


async def test_what_a_backend_makes_on_demand_is_waited_for() -> None:
    """Up to its maximum; it is no machine of a name, and an old word counts no longer."""
    clock = VirtualClock()
    records = Records(cast("Datastore", None), AgentWatch(clock))
    leases = Leases(
        records, clock, project="p", waited=lambda _: None, limits_of=lambda _: LeaseLimits()
    )
    windows = Dimensions(backend="GCE", os_family="WINDOWS", num_cpus=8)
    one_cpu = Dimensions(os_family="LINUX", num_cpus=1)
    kinds = tuple(OfferedKind(dimensions=kind, count=5) for kind in (windows, one_cpu))
    offer = StoredOffer(backend="GCE", source="s", kinds=kinds, said=0)
    vm = leased(1)
    wanted = {
        "made": request("made", os_family="WINDOWS"),
        "all": request("all", count=5, num_cpus=1),
        "more": request("more", count=6, num_cpus=1),
        "near": request("near", os_family="WINDOWS", num_cpus=9),
        "named": request("named", hostname="vm-2", os_family="WINDOWS"),
    }
    records._picture(offer.path, offer)
    records._picture(vm.path, vm)
    for lease in wanted.values():
        records._picture(lease.path, lease)

    def told(now: float) -> dict[str, WaitDocument]:
        found = waits_of(records, leases, now)
        return {name: found[lease.name] for name, lease in wanted.items()}

    found = told(3599.0)
    assert {name: it.reason for name, it in found.items()} == {
        "made": "starting",
        "all": "starting",
        "more": "unsatisfiable",
        "near": "unsatisfiable",
        "named": "unsatisfiable",
    }
    assert found["made"].message == (
        "no machine in the catalog fits yet; up to 5 are made on demand"
    )
    assert found["all"].message.endswith("and 1 in the catalog fit; up to 5 are made on demand")
    assert found["more"].message.endswith("and 1 in the catalog fit; 5 are made at most")
    assert found["near"].nearest == NearestDocument(dimensions=windows, differs=("num_cpus",))
    assert found["near"].message == "no machine fits: the nearest differs in num_cpus (8)"
    assert found["named"].message == "no machine fits: the nearest differs in hostname"
    labeled = request("labeled", os_family="WINDOWS", num_cpus=8, snapshot_labels=("a:b",))
    records._picture(labeled.path, labeled)
    message = waits_of(records, leases, 1.0)[labeled.name].message
    assert message.endswith("the nearest differs in snapshot_labels (none)")
    records._picture(labeled.path, None)
    assert {it.reason for it in told(3600.0).values()} == {"unsatisfiable"}


async def test_an_offer_is_its_backends_own_and_of_bounded_size() -> None:
    """Whatever backend it names; equal kinds are one, and a host name is none of theirs."""
    stored: list[StoredOffer] = []

    class OneRecord:
        async def change(self, _: object, decide: Any) -> None:
            stored.extend(decide({}).values())

    def kind(**dimensions: Any) -> OfferedKind:
        return OfferedKind(dimensions=Dimensions(**dimensions), count=2)

    def offer(*kinds: OfferedKind) -> Offer:
        return Offer(source="s", kinds=kinds)

    records = cast("Records", OneRecord())
    twice = offer(kind(backend="AWS", num_cpus=1), kind(hostname="vm-1", num_cpus=1))
    assert await take(records, "GCE", twice, 7.0)
    mine = Dimensions(backend="GCE", num_cpus=1)
    assert stored[0].kinds == (OfferedKind(dimensions=mine, count=4),)
    labels = tuple("x" * 250 for _ in range(100))
    large = offer(*(kind(num_cpus=number, snapshot_labels=labels) for number in range(40)))
    assert not await take(records, "GCE", large, 7.0)
    assert len(stored) == 1
