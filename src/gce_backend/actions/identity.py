"""With which mark this daemon marks what it makes: the owner in the settings, the id of its store.

The id is stored once. The process remembers it, so that a store that has lost the entity gets the
same id again.
"""

from __future__ import annotations

from gce_backend.engine.context import Context
from gce_backend.rules.ownership import Mark, new_store_id


def known_mark(context: Context) -> Mark:
    """The mark as far as it is known; nothing is written."""
    store_id = context.fleet.identity or context.memory.store_id
    return Mark(context.settings.owner, store_id)


async def mark(context: Context) -> Mark:
    """The mark for what is made; the store gets an id if it has none.

    Raises:
        RemoteError: Datastore could not be reached.
        CorruptEntityError: the stored id cannot be understood, so nothing can be made.
    """
    if not context.fleet.identity:
        fresh = context.memory.store_id or new_store_id(context.rng)
        await context.fleet.identify(fresh)
    context.memory.store_id = context.fleet.identity
    return Mark(context.settings.owner, context.fleet.identity)
