"""What messages say, and what they make of an instance: for every order, and every repetition."""

from __future__ import annotations

import base64
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import CatalogState, Deletion, Instance, Lease, Permit
from gce_backend.model.keys import Key, manager_key
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.messages import (
    Message,
    MessageKind,
    PoisonError,
    apply_all,
    is_about,
    understand,
)
from gce_backend.rules.permits import permit

PROJECT = "a-project"
KEY = manager_key("linux", "0123abcd", "us-central1-a").child("linux-x1")
TOKEN = instance_token(PROJECT, KEY)
NOW = 1e9


def _wire(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


def _message(kind: MessageKind, gce_id: int | None = 7, **attributes: str) -> Message:
    return Message(kind, KEY, gce_id, attributes)


def _subscribed(name: str) -> Message:
    return _message(MessageKind.SUBSCRIBED, subscription=name, subscription_project="mp")


MESSAGES = st.one_of(
    st.sampled_from("abc").map(_subscribed),
    st.integers(1, 4).map(
        lambda hours: _message(MessageKind.LEASED, lease_expiration_ts=str(int(NOW) + 3600 * hours))
    ),
    st.just(_message(MessageKind.LEASED)),
    st.just(_message(MessageKind.RECLAIMED)),
    st.just(_message(MessageKind.RECLAIMED, gce_id=6)),
    st.just(_message(MessageKind.LEASED, gce_id=6)),
)
INSTANCES = st.builds(
    Instance,
    gce_id=st.just(7),
    catalog=st.sampled_from(CatalogState),
    lease=st.none() | st.builds(Lease, since=st.just(NOW), expiration=st.none() | st.just(NOW + 9)),
    deletion=st.none()
    | st.builds(
        Deletion,
        permit=st.sampled_from(Permit),
        requested=st.just(NOW),
        asked=st.just(NOW),
        request_id=st.just("r"),
        confirmed=st.none() | st.just(NOW),
    ),
)


def _apply(instance: Instance, *messages: Message) -> Instance:
    return apply_all(messages, instance, "account", NOW)


@given(st.lists(MESSAGES, max_size=8), INSTANCES)
def test_a_batch_of_messages_applied_again_changes_nothing(
    messages: list[Message], instance: Instance
) -> None:
    """Fault 5, and what guarded writes rely on: the whole batch is idempotent."""
    once = _apply(instance, *messages)
    assert _apply(once, *messages) == once


@given(st.lists(MESSAGES, max_size=8), st.randoms(use_true_random=False), INSTANCES)
def test_lease_and_reclaim_come_out_the_same_in_every_order(
    messages: list[Message], shuffle: random.Random, instance: Instance
) -> None:
    """Fault 6: order, batches and repetitions make no difference to lease and pending deletion."""
    other = [*messages, *shuffle.choices(messages, k=3)] if messages else []
    shuffle.shuffle(other)
    one, two = _apply(instance, *messages), instance
    for message in other:
        two = _apply(two, message)
    assert (one.lease, one.pending_deletion) == (two.lease, two.pending_deletion)


@given(st.lists(MESSAGES, max_size=8), INSTANCES)
def test_only_reclaimed_for_this_very_vm_gives_a_permit(
    messages: list[Message], instance: Instance
) -> None:
    """S1: no other message makes a machine one that may be destroyed."""
    after = _apply(instance, *messages)
    reclaimed = any(m.kind is MessageKind.RECLAIMED and m.gce_id == 7 for m in messages)
    if not reclaimed and permit(instance, NOW) is None:
        assert permit(after, NOW) is None
    if reclaimed and not instance.is_tombstone:
        assert permit(after, NOW) is Permit.RECLAIMED


@given(
    st.none() | st.text(max_size=40) | st.sampled_from([_wire(kind) for kind in MessageKind]),
    st.dictionaries(
        st.sampled_from(["key", "gce_id", "hostname", "subscription", "subscription_project"])
        | st.text(max_size=10),
        st.text(max_size=40) | st.sampled_from([TOKEN, "linux-x1", "7", "9" * 5000]),
        max_size=6,
    ),
)
def test_whatever_comes_is_understood_or_poison(
    data: str | None, attributes: dict[str, str]
) -> None:
    """Fault 7: nothing that a message may hold raises anything else."""
    reason = token = ""
    try:
        token = instance_token(PROJECT, understand(PROJECT, data, attributes).instance)
    except PoisonError as poison:
        reason = str(poison)
    assert len(reason) < 1000
    assert reason or token == attributes["key"]


@pytest.mark.parametrize(
    ("data", "attributes", "reason"),
    [
        ("AAA", {"key": TOKEN}, "base64"),
        ("TEV*BU0VE", {"key": TOKEN}, "base64"),
        ("é", {"key": TOKEN}, "base64"),
        ("/w==", {"key": TOKEN}, "ASCII"),
        (None, {"key": TOKEN}, "unknown kind"),
        (_wire("leased"), {"key": TOKEN}, "unknown kind"),
        (_wire("LEASED"), {}, "no attribute 'key'"),
        (_wire("LEASED"), {"key": ""}, "is not project/"),
        (_wire("LEASED"), {"key": TOKEN + "/more"}, "is not project/"),
        (_wire("LEASED"), {"key": "b" + TOKEN}, "is of project 'ba-project'"),
        (_wire("LEASED"), {"key": TOKEN[:-8] + "__x__"}, "cannot be a name"),
        (_wire("LEASED"), {"key": TOKEN + "x" * 2000}, "cannot be a name"),
        (_wire("LEASED"), {"key": TOKEN, "hostname": "linux-x2"}, "hostname 'linux-x2'"),
        (_wire("LEASED"), {"key": TOKEN, "gce_id": ""}, "is not a number"),
        (_wire("LEASED"), {"key": TOKEN, "gce_id": "-1"}, "is not a number"),
        (_wire("LEASED"), {"key": TOKEN, "gce_id": "٣"}, "is not a number"),
        (_wire("LEASED"), {"key": TOKEN, "gce_id": "9" * 5000}, "is not a number"),
        (_wire("SUBSCRIBED"), {"key": TOKEN, "subscription": "s"}, "'subscription_project'"),
        (_wire("SUBSCRIBED"), {"key": TOKEN, "subscription_project": "p"}, "'subscription'"),
    ],
)
def test_poison_says_what_is_wrong(
    data: str | None, attributes: dict[str, str], reason: str
) -> None:
    """Fault 7: each kind of poison has its reason."""
    with pytest.raises(PoisonError, match=reason):
        understand(PROJECT, data, attributes)


def test_a_message_is_understood() -> None:
    """The key, the VM's id and the kind."""
    message = understand(PROJECT, _wire("LEASED"), {"key": TOKEN, "gce_id": "7", "more": "x"})
    assert message == Message(
        MessageKind.LEASED, KEY, 7, {"key": TOKEN, "gce_id": "7", "more": "x"}
    )
    assert isinstance(message.instance, Key)


def test_an_id_tells_vms_of_one_name_apart() -> None:
    """Fault 33: a message without an id may be about any of them."""
    instance = Instance(gce_id=7)
    assert is_about(_message(MessageKind.LEASED), instance)
    assert is_about(_message(MessageKind.LEASED, gce_id=None), instance)
    assert not is_about(_message(MessageKind.LEASED, gce_id=6), instance)
    assert not is_about(_message(MessageKind.LEASED), Instance(gce_id=None))


def test_a_lease_lasts_until_the_latest_end_that_was_said() -> None:
    """Also when one message says an end and another none, or one that makes no sense."""
    instance = _apply(Instance(gce_id=7), _message(MessageKind.LEASED))
    assert instance.lease == Lease(NOW, None)
    for text, expiration in (("2e9", 2e9), ("nan", 2e9), ("1.5e9", 2e9), ("", 2e9), ("-1", 2e9)):
        instance = _apply(instance, _message(MessageKind.LEASED, lease_expiration_ts=text))
        assert instance.lease == Lease(NOW, expiration)


def test_subscribed_queues_one_update_of_three_keys_for_the_last_of_a_batch() -> None:
    """And another one only when something else is asked for."""
    instance = _apply(Instance(gce_id=7), _subscribed("a"), _subscribed("b"))
    assert [update.items for update in instance.pending_metadata_updates] == [
        {
            "pubsub_service_account": "account",
            "pubsub_subscription": "b",
            "pubsub_subscription_project": "mp",
        }
    ]
    assert _apply(instance, _subscribed("b")) is instance
    again = _apply(instance, _subscribed("c"))
    assert len(again.pending_metadata_updates) == 2
    applied = msgspec.structs.replace(instance, pending_metadata_updates=())
    assert _apply(applied, _subscribed("b")) is applied


@pytest.mark.parametrize("kind", [MessageKind.LEASED, MessageKind.RECLAIMED])
def test_hole_01_a_message_proves_that_its_machine_was_cataloged(kind: MessageKind) -> None:
    """A store that says never is older; nothing is proven of another VM of the name."""
    never = Instance(gce_id=7, rising_since=1.0)
    told = _apply(never, _message(kind))
    assert (told.catalog, told.rising_since) == (CatalogState.CATALOGED, None)
    assert _apply(never, _message(kind, gce_id=6)) is never
    removed = _apply(Instance(gce_id=7, catalog=CatalogState.REMOVED), _message(kind))
    if kind is MessageKind.LEASED:  # a restored catalog had it again
        assert removed.catalog is CatalogState.CATALOGED
        assert permit(removed, 0.0) is None
    else:
        assert removed.catalog is CatalogState.REMOVED
