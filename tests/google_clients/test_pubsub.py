"""google-cloud-pubsub's REST transport on the embedded Pub/Sub."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core import exceptions
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import PublisherClient, SubscriberClient, types

from gce_backend.localcloud.faults import Fault, Faults
from google_clients.credentials import credentials
from support.served_cloud import PROJECT, ServedCloud


@pytest.fixture(scope="module")
def publisher(served: ServedCloud) -> Iterator[PublisherClient]:
    """The publisher."""
    options = {"api_endpoint": served.url}
    with PublisherClient(
        credentials=credentials(served.url), client_options=options, transport="rest"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def subscriber(served: ServedCloud) -> Iterator[SubscriberClient]:
    """The subscriber."""
    options = {"api_endpoint": served.url}
    with SubscriberClient(
        credentials=credentials(served.url), client_options=options, transport="rest"
    ) as made:
        yield made


@pytest.fixture
def topic(publisher: PublisherClient, request: pytest.FixtureRequest) -> str:
    """A topic of this test's own."""
    name = f"projects/{PROJECT}/topics/{request.node.name[:100]}"
    made: str = publisher.create_topic(name=name).name
    return made


@pytest.fixture
def subscription(subscriber: SubscriberClient, topic: str, request: pytest.FixtureRequest) -> str:
    """A subscription of that topic."""
    name = f"projects/{PROJECT}/subscriptions/{request.node.name[:100]}"
    made: str = subscriber.create_subscription(name=name, topic=topic, ack_deadline_seconds=20).name
    return made


def publish(publisher: PublisherClient, topic: str, *texts: bytes) -> None:
    """Publishes messages without attributes."""
    publisher.publish(topic=topic, messages=[types.PubsubMessage(data=text) for text in texts])


def pulled(subscriber: SubscriberClient, subscription: str, most: int = 10) -> list[Any]:
    """The `ReceivedMessage`s that one pull gives."""
    return list(subscriber.pull(subscription=subscription, max_messages=most).received_messages)


def test_resources_are_made_read_listed_and_deleted(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """A topic and a subscription live until they are deleted."""
    assert publisher.get_topic(topic=topic).name == topic
    found: Any = subscriber.get_subscription(subscription=subscription)
    assert (found.topic, found.ack_deadline_seconds) == (topic, 20)
    assert found.message_retention_duration.days == 7
    project = f"projects/{PROJECT}"
    assert topic in [one.name for one in publisher.list_topics(project=project)]
    listed = subscriber.list_subscriptions(request={"project": project, "page_size": 1})
    assert subscription in [one.name for one in listed]
    subscriber.delete_subscription(subscription=subscription)
    publisher.delete_topic(topic=topic)
    with pytest.raises(exceptions.NotFound):
        subscriber.get_subscription(subscription=subscription)
    with pytest.raises(exceptions.NotFound):
        publisher.get_topic(topic=topic)


def test_message_arrives_as_it_was_published(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """Bytes, attributes and the message's id come through, with the time of publication."""
    sent = [
        types.PubsubMessage(data=b"\x00\xff binary", attributes={"kind": "lease", "who": "ä"}),
        types.PubsubMessage(attributes={"empty": "data"}),
    ]
    ids = publisher.publish(topic=topic, messages=sent).message_ids
    received = pulled(subscriber, subscription)
    assert [one.message.message_id for one in received] == ids
    assert [one.message.data for one in received] == [b"\x00\xff binary", b""]
    assert dict(received[0].message.attributes) == {"kind": "lease", "who": "ä"}
    assert received[0].message.publish_time.timestamp() > 0


def test_pull_gives_no_more_than_asked_for(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """max_messages bounds a pull; the rest comes with the next one."""
    publish(publisher, topic, *(str(number).encode() for number in range(5)))
    first = pulled(subscriber, subscription, most=3)
    second = pulled(subscriber, subscription, most=3)
    assert (len(first), len(second)) == (3, 2)


def test_acknowledged_messages_are_gone_and_refused_ones_come_again(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """A deadline of 0 hands messages back at once, but not one that was acknowledged."""
    publish(publisher, topic, b"keep", b"done")
    received = {one.message.data: one.ack_id for one in pulled(subscriber, subscription)}
    subscriber.acknowledge(subscription=subscription, ack_ids=[received[b"done"]])
    subscriber.modify_ack_deadline(
        subscription=subscription, ack_ids=list(received.values()), ack_deadline_seconds=0
    )
    again = pulled(subscriber, subscription)
    assert [one.message.data for one in again] == [b"keep"]
    subscriber.modify_ack_deadline(
        subscription=subscription, ack_ids=[again[0].ack_id], ack_deadline_seconds=60
    )
    publish(publisher, topic, b"next")
    assert [one.message.data for one in pulled(subscriber, subscription)] == [b"next"]


def test_every_subscription_gets_every_message(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """Two subscriptions of a topic do not take each other's messages."""
    other = subscriber.create_subscription(name=f"{subscription}-2", topic=topic).name
    publish(publisher, topic, b"to all")
    for name in (subscription, other):
        assert [one.message.data for one in pulled(subscriber, name)] == [b"to all"]


def test_subscription_is_changed_by_its_mask(
    subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """Only what the mask names is changed."""
    described = types.Subscription(
        name=subscription, topic="projects/p/topics/ignored", ack_deadline_seconds=45
    )
    changed = subscriber.update_subscription(
        subscription=described, update_mask=FieldMask(paths=["ack_deadline_seconds"])
    )
    assert (changed.ack_deadline_seconds, changed.topic) == (45, topic)


def test_topic_is_changed_by_its_mask(publisher: PublisherClient, topic: str) -> None:
    """A topic's labels can be set, and are read again."""
    described = types.Topic(name=topic, labels={"kept-for": "leases"})
    publisher.update_topic(topic=described, update_mask=FieldMask(paths=["labels"]))
    assert dict(publisher.get_topic(topic=topic).labels) == {"kept-for": "leases"}


def test_detached_subscription_is_its_topics_no_more(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """A topic knows its subscriptions until they are detached; these give nothing then."""
    assert list(publisher.list_topic_subscriptions(topic=topic)) == [subscription]
    publisher.detach_subscription(types.DetachSubscriptionRequest(subscription=subscription))
    assert list(publisher.list_topic_subscriptions(topic=topic)) == []
    assert subscriber.get_subscription(subscription=subscription).detached
    with pytest.raises(exceptions.BadRequest):
        pulled(subscriber, subscription)


def test_acknowledged_message_comes_again_after_a_seek(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """A subscription that retains what was acknowledged can go back to before it."""
    described = types.Subscription(name=subscription, topic=topic, retain_acked_messages=True)
    mask = FieldMask(paths=["retain_acked_messages"])
    subscriber.update_subscription(subscription=described, update_mask=mask)
    before = datetime.now(UTC) - timedelta(seconds=5)
    publish(publisher, topic, b"once more")
    [first] = pulled(subscriber, subscription)
    subscriber.acknowledge(subscription=subscription, ack_ids=[first.ack_id])
    subscriber.seek(request={"subscription": subscription, "time": before})
    [again] = pulled(subscriber, subscription)
    assert again.message.message_id == first.message.message_id


def test_message_that_nobody_acknowledges_is_dead_in_the_end(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str
) -> None:
    """After five attempts, each counted, a message goes to the dead-letter topic."""
    cemetery = publisher.create_topic(name=f"{topic}-dead").name
    name = topic.replace("/topics/", "/subscriptions/")
    grave = subscriber.create_subscription(name=f"{name}-dead", topic=cemetery).name
    policy = types.DeadLetterPolicy(dead_letter_topic=cemetery, max_delivery_attempts=5)
    living = types.Subscription(name=name, topic=topic, dead_letter_policy=policy)
    subscriber.create_subscription(living)
    publish(publisher, topic, b"unwanted")
    attempts = []
    for _ in range(5):
        [received] = pulled(subscriber, name)
        attempts.append(received.delivery_attempt)
        subscriber.modify_ack_deadline(
            subscription=name, ack_ids=[received.ack_id], ack_deadline_seconds=0
        )
    assert attempts == [1, 2, 3, 4, 5]
    [buried] = pulled(subscriber, grave)
    assert buried.message.data == b"unwanted"
    assert buried.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"


def test_policy_is_read_and_written(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """A policy's bindings are kept for topics and for subscriptions, apart from each other."""
    binding = policy_pb2.Binding(role="roles/pubsub.publisher", members=["user:ann@example.com"])
    read = publisher.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=topic))
    assert not read.bindings
    policy = policy_pb2.Policy(bindings=[binding], etag=read.etag)
    written = publisher.set_iam_policy(
        iam_policy_pb2.SetIamPolicyRequest(resource=topic, policy=policy)
    )
    assert written.etag != read.etag
    again = publisher.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=topic))
    assert (list(again.bindings), again.etag) == ([binding], written.etag)
    other = subscriber.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=subscription))
    assert not other.bindings


def test_policy_of_a_stale_etag_is_refused(publisher: PublisherClient, topic: str) -> None:
    """Who writes a policy that was changed meanwhile is told so: Aborted, a kind of Conflict."""
    stale = publisher.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=topic))
    binding = policy_pb2.Binding(role="roles/pubsub.viewer", members=["user:bob@example.com"])
    policy = policy_pb2.Policy(bindings=[binding], etag=stale.etag)
    request = iam_policy_pb2.SetIamPolicyRequest(resource=topic, policy=policy)
    publisher.set_iam_policy(request)
    with pytest.raises(exceptions.Conflict):
        publisher.set_iam_policy(request)


def test_permissions_are_tested(subscriber: SubscriberClient, subscription: str) -> None:
    """What the caller may do is answered in the order of the question."""
    asked = ["pubsub.subscriptions.consume", "pubsub.subscriptions.get"]
    answer = subscriber.test_iam_permissions(
        iam_policy_pb2.TestIamPermissionsRequest(resource=subscription, permissions=asked)
    )
    assert list(answer.permissions) == asked


def test_second_resource_of_a_name_is_a_conflict(
    publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str
) -> None:
    """409 is Conflict for topics and for subscriptions."""
    with pytest.raises(exceptions.Conflict, match="already exists") as raised:
        publisher.create_topic(name=topic)
    assert raised.value.code == 409
    with pytest.raises(exceptions.Conflict, match="already exists"):
        subscriber.create_subscription(name=subscription, topic=topic)


def test_absent_resources_are_not_found(
    publisher: PublisherClient, subscriber: SubscriberClient
) -> None:
    """404 is NotFound, for whatever is done with what is not there."""
    topic = f"projects/{PROJECT}/topics/never-made"
    name = f"projects/{PROJECT}/subscriptions/never-made"
    with pytest.raises(exceptions.NotFound):
        publish(publisher, topic, b"lost")
    with pytest.raises(exceptions.NotFound):
        subscriber.create_subscription(name=name, topic=topic)
    with pytest.raises(exceptions.NotFound):
        subscriber.pull(subscription=name, max_messages=1)
    with pytest.raises(exceptions.NotFound):
        subscriber.acknowledge(subscription=name, ack_ids=["x"])


def test_wrong_name_is_a_bad_request(publisher: PublisherClient) -> None:
    """400 is BadRequest and names what is wrong."""
    with pytest.raises(exceptions.BadRequest, match="Invalid resource name"):
        publisher.create_topic(name=f"projects/{PROJECT}/topics/t1")


def test_unavailable_service_is_tried_again_by_the_library(
    subscriber: SubscriberClient, subscription: str, faults: Faults
) -> None:
    """A 503 to a read is repeated by the library."""
    fault = Fault(method="pubsub.projects.subscriptions.get", status=503, reason="UNAVAILABLE")
    faults.add(fault)
    assert subscriber.get_subscription(subscription=subscription).name == subscription
    assert fault.fired == 1
