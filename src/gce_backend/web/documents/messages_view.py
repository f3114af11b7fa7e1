"""`GET /api/messages`: the queue, and the messages that could not be understood, newest first."""

from __future__ import annotations

from typing import Any

from gce_backend.engine.context import Context
from gce_backend.engine.inbox import QueueStatus


def messages(context: Context, queue: QueueStatus) -> dict[str, Any]:
    """The Machine Provider's messages as the daemon sees them, as JSON."""
    newest = sorted(
        context.fleet.set_aside.items(),
        key=lambda item: (item[1].received, item[0].name),
        reverse=True,
    )
    return {
        "queue": queue,
        "set_aside": [
            {
                "message_id": key.name,
                "reason": message.reason,
                "received": message.received,
                "data": message.data,
                "attributes": message.attributes,
                "seen": message.seen,
                "seen_by": message.seen_by or None,
            }
            for key, message in newest
        ],
    }
