"""The requests of the Pub/Sub API, from its discovery document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from gce_backend.localcloud.wire import RequestMessage

Json: TypeAlias = dict[str, Any]
Labels: TypeAlias = dict[str, str]
Duration: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{1,12}(?:\.\d{1,9})?s$")]
"""Seconds, such as `600s`."""

Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
AckIds: TypeAlias = Annotated[list[str], msgspec.Meta(min_length=1)]


class DeadLetterPolicy(RequestMessage):
    """DeadLetterPolicy."""

    dead_letter_topic: str | None = None
    max_delivery_attempts: Int32 | None = None


class RetryPolicy(RequestMessage):
    """RetryPolicy."""

    minimum_backoff: Duration | None = None
    maximum_backoff: Duration | None = None


class ExpirationPolicy(RequestMessage):
    """ExpirationPolicy."""

    ttl: Duration | None = None


class Topic(RequestMessage):
    """Topic, as far as the embedded cloud has it."""

    name: str | None = None
    labels: Labels | None = None
    message_retention_duration: Duration | None = None
    message_transforms: list[Json] | None = None
    tags: dict[str, str] | None = None
    ingestion_data_source_settings: Json | None = None
    kms_key_name: str | None = None
    message_storage_policy: Json | None = None
    schema_settings: Json | None = None
    state: str | None = None


class SubscriptionBody(RequestMessage):
    """Subscription, as far as the embedded cloud has it."""

    name: str | None = None
    topic: str | None = None
    labels: Labels | None = None
    ack_deadline_seconds: Int32 | None = None
    message_retention_duration: Duration | None = None
    retain_acked_messages: bool | None = None
    expiration_policy: ExpirationPolicy | None = None
    dead_letter_policy: DeadLetterPolicy | None = None
    retry_policy: RetryPolicy | None = None
    filter: str | None = None
    enable_message_ordering: bool | None = None
    enable_exactly_once_delivery: bool | None = None
    push_config: Json | None = None
    bigquery_config: Json | None = None
    bigtable_config: Json | None = None
    cloud_storage_config: Json | None = None
    message_transforms: list[Json] | None = None
    tags: dict[str, str] | None = None
    detached: bool | None = None
    state: str | None = None
    topic_message_retention_duration: Duration | None = None


class UpdateTopic(RequestMessage):
    """UpdateTopicRequest."""

    topic: Topic
    update_mask: str


class UpdateSubscription(RequestMessage):
    """UpdateSubscriptionRequest."""

    subscription: SubscriptionBody
    update_mask: str


class PubsubMessage(RequestMessage):
    """PubsubMessage; what the server sets is ignored."""

    data: str | None = None
    attributes: dict[str, str] | None = None
    ordering_key: str | None = None
    message_id: str | None = None
    publish_time: str | None = None


class Publish(RequestMessage):
    """PublishRequest."""

    messages: list[PubsubMessage]


class Pull(RequestMessage):
    """PullRequest."""

    max_messages: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    return_immediately: bool | None = None


class Acknowledge(RequestMessage):
    """AcknowledgeRequest."""

    ack_ids: AckIds


class ModifyAckDeadline(RequestMessage):
    """ModifyAckDeadlineRequest."""

    ack_ids: AckIds
    ack_deadline_seconds: Annotated[int, msgspec.Meta(ge=0, le=600)] | None = None


class ModifyPushConfig(RequestMessage):
    """ModifyPushConfigRequest."""

    push_config: Json


class Seek(RequestMessage):
    """SeekRequest."""

    time: str | None = None
    snapshot: str | None = None


class Binding(RequestMessage):
    """Binding."""

    role: str
    members: Annotated[list[str], msgspec.Meta(min_length=1)]
    condition: Json | None = None


class Policy(RequestMessage):
    """Policy."""

    version: Literal[0, 1, 3] | None = None
    bindings: list[Binding] | None = None
    etag: str | None = None


class SetIamPolicy(RequestMessage):
    """SetIamPolicyRequest."""

    policy: Policy


class TestIamPermissions(RequestMessage):
    """TestIamPermissionsRequest."""

    permissions: list[str] | None = None
