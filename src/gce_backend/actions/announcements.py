"""Whether an added machine can be leased: by SUBSCRIBED, by the catalog's state, or by time.

The Machine Provider sends SUBSCRIBED when a machine can be leased. The message may be lost, and
some Machine Providers send none. If a roll-out waits for the machine, the daemon asks the catalog.
Without any answer, the machine counts as available after a while.
"""

from __future__ import annotations

import asyncio

from gce_backend.base.errors import BackendError
from gce_backend.clients.machine_provider import CatalogEntry, MethodNotOffered
from gce_backend.engine.context import Context
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import may_be_cataloged

ANNOUNCEMENT_SECONDS = 30.0
"""Seconds after which a machine counts as available without any message or answer."""
FIRST_QUESTION = 2.0
NEXT_QUESTION = 5.0
"""Seconds until the catalog is asked about a machine, and between two questions."""
MOST_QUESTIONS = 500
"""Most machines that one run asks about."""
AT_ONCE = 50
"""Machines that are asked about at the same time: by one call, where there is one for many."""
PATIENCE_SECONDS = 20.0
"""Seconds after which a run starts no more questions."""


def is_announced(context: Context, key: MachineKey) -> bool:
    """Whether a cataloged machine is known to be available, or the wait was long enough."""
    if context.fleet.instances[key].subscribed is not None:
        return True
    now = context.clock.monotonic()
    since = context.memory.catalog.unannounced.setdefault(key, now)
    return now - since >= ANNOUNCEMENT_SECONDS


async def ask(context: Context) -> None:
    """Asks the catalog about the machines without a SUBSCRIBED; forgets the others.

    Unanswered questions are repeated later: nothing depends on them.
    """
    memory, now = context.memory.catalog, context.clock.monotonic()
    for key in tuple(memory.unannounced):
        instance = context.fleet.instances.get(key)
        if instance is None or instance.subscribed or not may_be_cataloged(instance):
            del memory.unannounced[key]
            memory.next_question.pop(key, None)
    due = [
        key
        for key, since in memory.unannounced.items()
        if now - since < ANNOUNCEMENT_SECONDS
        and now >= memory.next_question.setdefault(key, since + FIRST_QUESTION)
    ]
    for start in range(0, min(len(due), MOST_QUESTIONS), AT_ONCE):
        some = due[start : min(start + AT_ONCE, MOST_QUESTIONS)]
        answered = await asyncio.gather(*(_ask(context, key) for key in some))
        if not all(answered) or context.clock.monotonic() - now > PATIENCE_SECONDS:
            return


async def _ask(context: Context, key: MachineKey) -> bool:
    """Asks about one machine; returns whether there was an answer."""
    memory, instance = context.memory.catalog, context.fleet.instances[key]
    memory.next_question[key] = context.clock.monotonic() + NEXT_QUESTION
    try:
        entry = await context.broker().get_with_others(key.name)
    except BackendError:  # the jobs that need the Machine Provider report it
        return False
    if not isinstance(entry, CatalogEntry):
        return not isinstance(entry, MethodNotOffered)
    if entry.state == "AVAILABLE" and entry.is_of(
        instance_token(context.project, key), instance.gce_id
    ):
        memory.unannounced[key] = float("-inf")
    return True


def wait(context: Context) -> float | None:
    """Seconds until the next question, or until a machine counts; None when none waits."""
    memory, now = context.memory.catalog, context.clock.monotonic()
    waits = [
        min(since + ANNOUNCEMENT_SECONDS, memory.next_question.get(key, since + FIRST_QUESTION))
        for key, since in memory.unannounced.items()
        if now - since < ANNOUNCEMENT_SECONDS
    ]
    return max(0.1, min(waits) - now) if waits else None
