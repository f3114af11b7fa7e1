"""The embedded cloud's Pub/Sub: topics, pull subscriptions and delivery at least once.

What may live here: Google's semantics of topics, subscriptions, leases and dead letters.
What may not: anything about the messages that this project sends.
"""

from gce_backend.localcloud.pubsub.service import PubSubService

__all__ = ["PubSubService"]
