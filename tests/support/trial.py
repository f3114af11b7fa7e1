"""A context in which only the test acts: the daemon around it observes.

Use it for a test of one action, step by step, without the jobs that would act at the same time.
"""

from __future__ import annotations

from dataclasses import replace as replace_context

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.engine.context import Context
from support.fleet_harness import World


async def acting_alone(w: World) -> Context:
    """Restarts the daemon so that it only observes, and returns a context that may act."""
    await w.crash_daemon()
    acting, w.settings = w.settings, msgspec.structs.replace(w.settings, actuate=False)
    await w.start_daemon()
    await w.until(w.is_loaded)
    await w.pass_time(5)
    assert w.daemon.context is not None
    return replace_context(w.daemon.context, settings=acting).of_job("a-trial")


class StandingClock(Clock):
    """A clock that moves only when the test says so.

    Attributes:
        time: what it shows, Unix seconds; its monotonic time is the same.
    """

    def __init__(self, time: float) -> None:
        super().__init__()
        self.time = time

    def now(self) -> float:
        """Unix seconds."""
        return self.time

    def monotonic(self) -> float:
        """The same."""
        return self.time
