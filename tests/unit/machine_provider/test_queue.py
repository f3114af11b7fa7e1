"""The queue: priority, patience, fairness, limits, whole requests; no machine twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gce_backend.machine_provider.access.policy import LeaseLimits
from gce_backend.machine_provider.queue import (
    PATIENCE_SECONDS,
    Allotment,
    Asked,
    Held,
    allot,
    kind_of,
    matches,
    nearest,
)
from gce_backend.machine_provider.wire import Dimensions

LINUX, WINDOWS = Dimensions(os_family="LINUX"), Dimensions(os_family="WINDOWS")
ANYTHING = Dimensions()
NOW = 10_000.0
KINDS = (LINUX, WINDOWS)
GROUPS = ("a", "b", "c")


class Offered(NamedTuple):
    """A free machine."""

    name: str
    dimensions: Dimensions


def by_kind(offered: list[Offered]) -> dict[Dimensions, list[str]]:
    """Free machines as the queue takes them."""
    kinds: dict[Dimensions, list[str]] = {}
    for one in offered:
        kinds.setdefault(kind_of(one.dimensions), []).append(one.name)
    return kinds


def free(count: int, dimensions: Dimensions = LINUX, first: int = 0) -> list[Offered]:
    """So many free machines."""
    return [Offered(f"{dimensions.os_family}-{first + n}", dimensions) for n in range(count)]


def ask(
    name: str,
    *,
    user: str = "ann",
    group: str = "a",
    age: float = 0.0,
    dimensions: Dimensions = LINUX,
    count: int = 1,
) -> Asked:
    """A request."""
    return Asked(name, user, group, NOW - age, dimensions, count)


def decided(
    asked: list[Asked],
    offered: list[Offered],
    held: Held | None = None,
    total: int = 0,
    limits: Mapping[str, LeaseLimits] | None = None,
) -> Allotment:
    """What the queue decides; the catalog has as many machines as are free, and `total` more."""
    return allot(
        asked,
        by_kind(offered),
        held or Held(),
        limits_of=lambda group: (limits or {}).get(group, LeaseLimits()),
        total=lambda d: sum(matches(d, o.dimensions) for o in offered) + total,
        now=NOW,
    )


def test_the_oldest_of_a_user_comes_first() -> None:
    """Whatever the order in which they are listed."""
    found = decided([ask("new", age=1), ask("old", age=9), ask("mid", age=5)], free(2))
    assert list(found.grants) == ["old", "mid"]
    assert list(found.waiting) == ["new"]


def test_a_higher_priority_comes_first_whoever_has_waited() -> None:
    """Also before those whose patience is over."""
    urgent = {"b": LeaseLimits(priority=5)}
    found = decided([ask("old", age=5000), ask("new", group="b")], free(1), limits=urgent)
    assert list(found.grants) == ["new"]


def test_groups_get_machines_in_proportion_to_their_shares() -> None:
    """Two to one, from the first machine on."""
    asked = [ask(f"{g}{n}", group=g, user=g, age=n) for g in "ab" for n in range(20)]
    found = decided(asked, free(9), limits={"a": LeaseLimits(share=2)})
    assert Counter(name[0] for name in found.grants) == {"a": 6, "b": 3}


def test_who_holds_much_waits_for_who_holds_little() -> None:
    """Between groups, and between the users of a group."""
    held = Held(Counter({("a", "ann"): 5, ("a", "bob"): 1, ("b", "eve"): 9}))
    asked = [
        ask("ann", age=30),
        ask("bob", user="bob", age=20),
        ask("eve", user="eve", group="b", age=40),
    ]
    assert list(decided(asked, free(2), held).grants) == ["bob", "ann"]


def test_patience_ends() -> None:
    """After a quarter of an hour, who holds much comes before who holds little."""
    held = Held(Counter({("a", "ann"): 50}))
    old = ask("ann", age=PATIENCE_SECONDS)
    asked = [ask("eve", user="eve", group="b", age=PATIENCE_SECONDS - 1), old]
    assert list(decided(asked, free(1), held).grants) == ["ann"]


def test_a_group_at_its_limit_is_passed_over_and_told_which() -> None:
    """Of leases, or of machines; the others go on."""
    held = Held(Counter({("a", "ann"): 3}), Counter({"a": 3}))
    asked = [ask("mine", age=9), ask("other", group="b")]
    found = decided(asked, free(2), held, limits={"a": LeaseLimits(max_leases=3)})
    assert list(found.grants) == ["other"]
    assert found.waiting["mine"].limit == "its group holds 3 of at most 3 leases"
    narrow = {"a": LeaseLimits(max_machines=4)}
    found = decided([ask("two", count=2, age=9), ask("one")], free(4), held, limits=narrow)
    assert list(found.grants) == ["one"]
    assert found.waiting["two"].limit == "its group holds 3 of at most 4 machines"


def test_a_large_request_is_filled_whole_or_waits_whole() -> None:
    """While it waits at the front, what is free is kept for it."""
    asked = [ask("large", count=3, age=9), ask("small", user="bob")]
    found = decided(asked, free(2), total=1)
    assert found.grants == {}
    assert (found.waiting["large"].free, found.waiting["small"].kept) == (2, 2)
    assert list(decided(asked, free(4)).grants) == ["large", "small"]


def test_a_request_larger_than_the_catalog_keeps_nothing_from_others() -> None:
    """It could never be filled, and must not starve them."""
    asked = [ask("huge", count=100, age=9), ask("small", user="bob")]
    assert list(decided(asked, free(2)).grants) == ["small"]


def test_machines_that_do_not_fit_are_not_kept() -> None:
    """A large request for one kind leaves another kind alone."""
    asked = [ask("large", count=3, age=9), ask("small", dimensions=WINDOWS)]
    found = decided(asked, free(2) + free(1, WINDOWS), total=2)
    assert found.grants == {"small": ["WINDOWS-0"]}


def test_the_nearest_kind_is_named_with_what_differs() -> None:
    """For who asks for what no machine is."""
    small = Dimensions(os_family="LINUX", num_cpus=2, hostname="vm-1")
    large = Dimensions(os_family="LINUX", num_cpus=8, linux_flavor="DEBIAN")
    asked = Dimensions(os_family="LINUX", num_cpus=8, linux_flavor="UBUNTU")
    found = nearest(asked, [kind_of(small), kind_of(large)])
    assert found is not None
    assert (found.dimensions, found.differs) == (large, ["linux_flavor"])
    assert nearest(asked, []) is None


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ((), True),
        (("b:2",), True),
        (("b:2", "a:1"), True),
        (("c:3",), False),
        (("a:1", "c:3"), False),
    ],
)
def test_labels_that_are_asked_for_must_be_among_the_machines(
    asked: tuple[str, ...], fits: bool
) -> None:
    """In any order; other dimensions must be equal."""
    machine = Dimensions(num_cpus=4, snapshot_labels=("a:1", "b:2"))
    assert matches(Dimensions(snapshot_labels=asked), machine) == fits
    assert not matches(Dimensions(num_cpus=2, snapshot_labels=asked), machine)


def test_a_machine_can_be_asked_for_by_its_name() -> None:
    """That one, or none."""
    offered = [Offered("GCE:vm-1", LINUX), Offered("GCE:vm-2", LINUX)]
    named = ask("mine", dimensions=Dimensions(hostname="vm-2"))
    other = ask("other", dimensions=Dimensions(hostname="vm-3"))
    found = decided([named, other], offered)
    assert found.grants == {"mine": ["GCE:vm-2"]}
    assert found.waiting["other"].free == 0


REQUESTS = st.lists(
    st.builds(
        Asked,
        name=st.uuids().map(str),
        user=st.sampled_from(["ann", "bob", "eve"]),
        group=st.sampled_from(GROUPS),
        created=st.integers(0, 10_000).map(float),
        dimensions=st.sampled_from([*KINDS, ANYTHING]),
        count=st.integers(1, 4),
    ),
    max_size=25,
)
LIMITS = st.fixed_dictionaries(
    {
        group: st.builds(
            LeaseLimits,
            priority=st.integers(0, 2),
            share=st.integers(1, 3),
            max_leases=st.none() | st.integers(1, 5),
            max_machines=st.none() | st.integers(1, 8),
        )
        for group in GROUPS
    }
)
MACHINES = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(
    lambda n: free(n[0], LINUX) + free(n[1], WINDOWS)
)
HELD = st.dictionaries(
    st.tuples(st.sampled_from(GROUPS), st.sampled_from(["ann", "bob", "eve"])),
    st.integers(1, 5),
    max_size=5,
).map(lambda found: Held(Counter(found), Counter(group for group, _ in found)))


@settings(max_examples=200)
@given(REQUESTS, MACHINES, HELD, LIMITS)
def test_no_machine_twice_none_that_does_not_fit_and_no_limit_passed(
    asked: list[Asked], offered: list[Offered], held: Held, limits: dict[str, LeaseLimits]
) -> None:
    """Every request is either granted whole or waits; nobody is forgotten."""
    found = decided(asked, offered, held, limits=limits)
    names = [name for machines in found.grants.values() for name in machines]
    assert len(names) == len(set(names))
    assert found.grants.keys() | found.waiting.keys() == {request.name for request in asked}
    assert not found.grants.keys() & found.waiting.keys()
    left = [one for one in offered if one.name not in names]
    for name, hindrance in found.waiting.items():
        request = next(one for one in asked if one.name == name)
        if request.count == 1 and not hindrance.limit and not hindrance.kept:
            assert not any(matches(request.dimensions, one.dimensions) for one in left)
    dimensions = {one.name: one.dimensions for one in offered}
    machines, leases = Counter(held.machines), Counter(held.leases)
    for request in asked:
        got = found.grants.get(request.name)
        if got is not None:
            assert len(got) == request.count
            assert all(matches(request.dimensions, dimensions[name]) for name in got)
            machines[request.group, request.user] += request.count
            leases[request.group] += 1
    for group in {request.group for request in asked if request.name in found.grants}:
        limit = limits[group]
        total = sum(count for (name, _), count in machines.items() if name == group)
        assert limit.max_leases is None or leases[group] <= limit.max_leases
        assert limit.max_machines is None or total <= limit.max_machines


@settings(max_examples=100)
@given(REQUESTS, MACHINES, HELD, LIMITS, st.randoms(use_true_random=False))
def test_the_same_state_gives_the_same_answer(
    asked: list[Asked],
    offered: list[Offered],
    held: Held,
    limits: dict[str, LeaseLimits],
    chance: random.Random,
) -> None:
    """However the requests are listed; and nothing that was handed in is changed."""
    before = Counter(held.machines), Counter(held.leases)
    first = decided(asked, offered, held, limits=limits)
    shuffled = list(asked)
    chance.shuffle(shuffled)
    again = decided(shuffled, offered, held, limits=limits)
    assert list(first.grants.items()) == list(again.grants.items())
    assert list(first.waiting.items()) == list(again.waiting.items())
    assert (held.machines, held.leases) == before


@settings(max_examples=100)
@given(REQUESTS, MACHINES, LIMITS)
def test_no_inversion(
    asked: list[Asked], offered: list[Offered], limits: dict[str, LeaseLimits]
) -> None:
    """Of two like requests for one machine, a lower priority never wins while a higher waits."""
    single = [msgspec.structs.replace(request, count=1, dimensions=LINUX) for request in asked]
    free_of_limits = {
        group: LeaseLimits(priority=limit.priority, share=limit.share)
        for group, limit in limits.items()
    }
    found = decided(single, offered, limits=free_of_limits)
    priority = {r.name: free_of_limits[r.group].priority for r in single}
    granted = [priority[name] for name in found.grants]
    waiting = [priority[name] for name in found.waiting]
    assert not granted or not waiting or min(granted) >= max(waiting)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(1, 3)), min_size=1, max_size=6),
    st.integers(3, 6),
    st.integers(1, 3),
)
def test_nobody_of_one_priority_waits_for_ever(
    victims: list[tuple[str, int]], machines: int, flood: int
) -> None:
    """Against an endless stream of newcomers who hold nothing, each request gets its turn.

    Each round a minute long, leases of a round: whoever was granted gives back before the next.
    """
    waiting = [
        Asked(f"victim-{n}", "victim", group, 0.0, LINUX, count)
        for n, (group, count) in enumerate(victims)
    ]
    burden = Held(Counter({(group, "victim"): 100 for group in GROUPS}))
    offered = free(machines)
    for minute in range(int(PATIENCE_SECONDS // 60) + 2 * len(victims) + 2):
        now = minute * 60.0
        waiting += [
            Asked(f"new-{minute}-{n}", f"user-{minute}-{n}", GROUPS[n % 3], now, LINUX)
            for n in range(machines * flood)
        ]
        found = allot(
            waiting,
            by_kind(offered),
            burden,
            limits_of=lambda _: LeaseLimits(),
            total=lambda _: machines,
            now=now,
        )
        waiting = [request for request in waiting if request.name not in found.grants]
    assert not [request.name for request in waiting if request.name.startswith("victim")]
