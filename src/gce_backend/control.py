"""What an operator tells the running daemon: changes to the Control entity. Pure.

The web API and the commands write the same entity with the same functions, each guarded by the
entity's version. All of them are idempotent, as `fleet.Change` wants it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from gce_backend.lifecycle import replace
from gce_backend.models import Control

MAX_REASON = 500
"""Longest reason of a pause, in characters."""
MAX_REVISION = 200
"""Longest name of a revision."""
MAX_LIFT_SECONDS = 24 * 3600.0
"""Longest time for which the caps on deletions may be lifted at once."""
LIFT_SECONDS = 600.0
"""How long they are lifted when nothing is said."""

REVISION_PATTERN = r"^[!-~]+\Z"
"""Revisions are hashes; anything without blanks is taken."""

Apply: TypeAlias = Callable[[Control | None], Control]


def is_revision(text: str) -> bool:
    """Whether a text can be the name of a revision."""
    return len(text) <= MAX_REVISION and re.match(REVISION_PATTERN, text) is not None


def pause(reason: str, now: float) -> Apply:
    """Stops everything that changes the world; observing goes on.

    Args:
        reason: why, for people.
        now: Unix seconds.
    """

    def apply(control: Control | None) -> Control:
        control = control or Control()
        since = control.paused_since if control.paused else now
        return replace(control, paused=True, pause_reason=reason, paused_since=since)

    return apply


def resume(control: Control | None) -> Control:
    """Ends a pause."""
    return replace(control or Control(), paused=False, pause_reason="", paused_since=None)


def approve(revision: str) -> Apply:
    """Lets this revision of the configuration be imported although it takes much away."""
    return lambda control: replace(control or Control(), approved_revision=revision)


def lift_cap(until: float) -> Apply:
    """Lifts the caps on deletions until then, in Unix seconds; a moment in the past ends it."""
    return lambda control: replace(control or Control(), cap_lifted_until=until)
