"""Compressing, merging and putting back metadata updates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import Instance, MetadataUpdate
from gce_backend.rules.metadata_updates import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MAX_TOTAL,
    compress,
    finish,
    is_denied,
    is_too_large,
    merge,
    put_back,
)

NOW = 1e9
KEYS = st.sampled_from(["a", "b", "c", "ssh-keys", "startup-script"])
ITEMS = st.dictionaries(KEYS, st.none() | st.text(max_size=3), max_size=4)
PRESENT = st.dictionaries(KEYS, st.text(max_size=3), max_size=5)
UPDATES = st.lists(ITEMS.map(MetadataUpdate), max_size=5).map(tuple)


@pytest.mark.parametrize(
    "key",
    [
        "startup-script",
        "startup-script-url",
        "Startup-Script",
        "shutdown-script",
        "ssh-keys",
        "sshKeys",
        "windows-startup-script-ps1",
        "windows-keys",
        "sysprep-specialize-script-cmd",
    ],
)
def test_keys_that_run_code_or_let_people_in_are_denied(key: str) -> None:
    """They are neither set nor removed, and do not keep the rest from being set."""
    assert is_denied(key)
    assert merge({key: "theirs"}, {key: "ours", "x": "1"}) == {key: "theirs", "x": "1"}
    assert merge({key: "theirs"}, {key: None}) == {key: "theirs"}
    assert merge({}, {key: "ours"}) == {}


@pytest.mark.parametrize("key", ["pubsub_subscription", "my-startup-script", "ssh", "window"])
def test_other_keys_are_not_denied(key: str) -> None:
    """Only what begins with a denied word."""
    assert not is_denied(key)


def test_metadata_is_too_large_by_the_bytes_of_its_keys_and_values() -> None:
    """To the byte, and bytes are not characters."""
    assert not is_too_large({})
    assert not is_too_large({"key": "x" * (MAX_TOTAL - 3)})
    assert is_too_large({"key": "x" * (MAX_TOTAL - 2)})
    assert is_too_large({"key": "\N{EURO SIGN}" * (MAX_TOTAL // 3)})


def test_none_removes_a_key_and_others_stay() -> None:
    """Also a key that is not there."""
    assert merge({"a": "1", "b": "2"}, {"a": None, "c": None, "d": "4"}) == {"b": "2", "d": "4"}
    assert merge({}, {}) == {}


@given(PRESENT, ITEMS)
def test_merging_twice_is_merging_once(
    present: dict[str, str], items: dict[str, str | None]
) -> None:
    """So an update that may have been applied can be applied again; foreign keys never change."""
    merged = merge(present, items)
    assert merge(merged, items) == merged
    for key in {*present, *merged} - items.keys():
        assert merged.get(key) == present.get(key)


@given(PRESENT, UPDATES)
def test_compressing_is_applying_one_after_the_other(
    present: dict[str, str], updates: tuple[MetadataUpdate, ...]
) -> None:
    """The one update that several become does what they do in their order."""
    one_by_one = present
    for update in updates:
        one_by_one = merge(one_by_one, update.items)
    instance = compress(Instance(pending_metadata_updates=updates))
    active = instance.active_metadata_update
    assert (active is None) == (not updates)
    assert merge(present, active.items if active else {}) == one_by_one
    assert instance.pending_metadata_updates == ()


def test_nothing_is_compressed_while_an_update_is_active() -> None:
    """The pending ones wait for it."""
    update = MetadataUpdate({"a": "1"})
    instance = Instance(pending_metadata_updates=(update,), active_metadata_update=update)
    assert compress(instance) is instance
    assert compress(Instance()) == Instance()


@given(PRESENT, ITEMS, UPDATES)
def test_what_failed_is_put_back_in_front_so_that_later_updates_win(
    present: dict[str, str], failed: dict[str, str | None], updates: tuple[MetadataUpdate, ...]
) -> None:
    """Only its operation and request id are forgotten; nothing is lost, and the order is kept."""
    active = MetadataUpdate(failed, request_id="r", operation="o", attempts=2)
    instance = put_back(
        Instance(pending_metadata_updates=updates, active_metadata_update=active), NOW
    )
    front, *rest = instance.pending_metadata_updates
    assert instance.active_metadata_update is None
    assert tuple(rest) == updates
    assert (front.items, front.request_id, front.operation) == (failed, None, None)
    assert front.attempts == 3
    again = compress(instance).active_metadata_update
    assert again is not None
    assert (again.attempts, again.not_before) == (3, front.not_before)
    expected = merge(present, failed)
    for update in updates:
        expected = merge(expected, update.items)
    assert merge(present, again.items) == expected


def test_the_back_off_doubles_up_to_a_bound() -> None:
    """And has neither overflow nor end."""
    instance = Instance(active_metadata_update=MetadataUpdate({"a": "1"}))
    delays = []
    for _ in range(100):
        instance = compress(put_back(instance, NOW))
        assert instance.active_metadata_update is not None
        delays.append(instance.active_metadata_update.not_before - NOW)
    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY


def test_finishing_and_putting_back_need_an_active_update() -> None:
    """Without one nothing changes."""
    instance = Instance(pending_metadata_updates=(MetadataUpdate({"a": "1"}),))
    assert put_back(instance, NOW) is instance
    assert finish(instance) == instance
    active = Instance(active_metadata_update=MetadataUpdate({"a": "1"}))
    assert finish(active) == Instance()
